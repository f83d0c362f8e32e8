"""Rules: which series is which modality, and the reasons."""

from __future__ import annotations

import pytest

from maml_app.cases.assigning import assign
from maml_app.cases.series import Series
from maml_app.cases.spec import TaskSpec, load_task
from maml_app.stores.choice import shipped_tasks


def task(name: str) -> TaskSpec:
    return load_task(shipped_tasks()[name])


def ct(uid: str, description: str, images: int = 60, number: int = 1, **attributes: str) -> Series:
    return Series(uid, "1.2", "1.2.9", "CT", images, number, {"SeriesDescription": description, **attributes})


def mr(uid: str, description: str, images: int = 60, number: int = 1, **attributes: str) -> Series:
    return Series(uid, "1.2", "1.2.9", "MR", images, number, {"SeriesDescription": description, **attributes})


def chosen(name: str, series: list[Series], **more: object) -> dict[str, str | None]:
    choices = assign(series, task(name).modalities, **more)  # type: ignore[arg-type]
    assert [choice.series for choice in choices] == series
    assert all(choice.reasons for choice in choices)
    return {choice.series.uid: choice.modality for choice in choices}


@pytest.mark.parametrize(
    ("native", "arterial", "portal", "delayed"),
    [
        ("Abdomen native 3.0", "Abdomen arterial 3.0", "Abdomen portal venous 3.0", "Abdomen delayed 3.0"),
        ("Leber nativ", "Leber arteriell", "Leber portalvenös", "Leber Spätphase"),
        ("Foie sans injection", "Foie temps artériel", "Foie temps portal", "Foie temps tardif"),
        ("Hígado sin contraste", "Hígado fase arterial", "Hígado fase portal", "Hígado fase tardía"),
        ("Fegato senza mdc", "Fegato fase arteriosa", "Fegato fase portale venosa", "Fegato fase tardiva"),
        ("ABD_NON-CONTRAST", "ABD_LATE_ARTERIAL", "ABD_PVP", "ABD_LATE"),
    ],
)
def test_liver_phases_are_told_by_description_in_five_languages(
    native: str, arterial: str, portal: str, delayed: str
) -> None:
    series = [ct("1", delayed), ct("2", arterial), ct("3", native), ct("4", portal)]
    expected = {"1": "delayed", "2": "arterial", "3": "native", "4": "portal_venous"}
    assert chosen("liver_multiphase_ct", series) == expected


def test_liver_phases_are_told_by_time_where_descriptions_are_silent() -> None:
    def at(uid: str, taken: str) -> Series:
        return ct(uid, "Abd 3.0 Br40", ContrastBolusStartTime="235930", AcquisitionTime=taken, ContrastBolusAgent="Iom")

    series = [at("1", "235955.5"), at("2", "000040"), at("3", "000430"), ct("4", "Abd 3.0 Br40")]
    assert chosen("liver_multiphase_ct", series) == {"1": "arterial", "2": "portal_venous", "3": "delayed", "4": None}


def test_phases_are_told_by_the_time_of_a_date_and_time() -> None:
    def at(uid: str, taken: str) -> Series:
        return ct(uid, "Abd", ContrastBolusStartTime="235930", AcquisitionTime=taken, ContrastBolusAgent="Iom")

    series = [at("1", "20240101235955.500000"), at("2", "20240102000040"), at("3", "202401020004"), at("4", "20240102")]
    expected = {"1": "arterial", "2": "portal_venous", "3": "delayed", "4": None}
    assert chosen("liver_multiphase_ct", series) == expected


def test_localizers_derived_images_duplicates_and_reformats_lose() -> None:
    series = [
        ct("scout", "arterial Topogramm", images=2),
        ct("localizer", "arterial", ImageType="ORIGINAL\\PRIMARY\\LOCALIZER"),
        ct("mip", "arterial MIP"),
        ct("cor", "arterial cor"),
        ct("derived", "arterial", ImageType="DERIVED\\SECONDARY", images=200),
        ct("copy", "arterial", number=9),
        ct("good", "arterial", number=4, ImageType="ORIGINAL\\PRIMARY\\AXIAL"),
        ct("short", "arterial", images=4),
        ct("single", "arterial", images=1),
    ]
    assert [uid for uid, name in chosen("liver_multiphase_ct", series).items() if name] == ["good"]


def test_a_tie_is_reported_with_the_rule_that_resolved_it() -> None:
    series = [ct("a", "arterial", images=50, number=1), ct("b", "arterial", images=60, number=2)]
    first, second = assign(series, task("liver_multiphase_ct").modalities)
    assert (first.modality, second.modality) == (None, "arterial")
    assert "ties with #2 arterial for arterial" in " ".join(first.reasons)
    assert "more images" in " ".join(first.reasons)
    same = [ct("a", "arterial", number=5), ct("b", "arterial", number=2)]
    assert [choice.modality for choice in assign(same, task("liver_multiphase_ct").modalities)] == [
        None,
        "arterial",
    ]


def test_brain_sequences_and_contrast() -> None:
    series = [
        mr("loc", "3-plane loc", images=9),
        mr("t1", "Ax T1 SE"),
        mr("gd", "Ax T1 SE POST GD"),
        mr("agent", "sag T1 MPRAGE", ContrastBolusAgent="Gadovist", images=30),
        mr("t2", "t2_tse_tra", EchoTime="98"),
        mr("flair", "t2_tirm_tra_dark-fluid", InversionTime="2500"),
        mr("dwi", "ep2d_diff_T2_trace", EchoTime="98"),
        mr("star", "T2* GRE"),
    ]
    assert chosen("brats_mr", series) == {
        "loc": None,
        "t1": "t1",
        "gd": "t1ce",
        "agent": None,
        "t2": "t2",
        "flair": "flair",
        "dwi": None,
        "star": None,
    }


def test_pet_without_attenuation_correction_loses_and_kind_alone_is_evidence() -> None:
    def pet(uid: str, description: str, corrected: str) -> Series:
        attributes = {"SeriesDescription": description, "CorrectedImage": corrected}
        return Series(uid, "1.2", "1.2.9", "PT", 40, 1, attributes)

    series = [
        pet("nac", "PET WB", "DECY\\SCAT"),
        pet("ac", "whole body", "DECY\\ATTN\\SCAT"),
        ct("ct", "standard"),
        mr("mr", "tra"),
        Series("sr", "1.2", "1.2.9", "SR", 3),
        Series("nowhere", "1.2", "", "CT", 40),
    ]
    assert chosen("sarcoma_pet_ct_mr", series) == {
        "nac": None,
        "ac": "pet",
        "ct": "ct",
        "mr": "mr_t1",
        "sr": None,
        "nowhere": None,
    }


def test_set_by_hand_goes_before_every_rule() -> None:
    series = [ct("a", "arterial"), ct("b", "nonsense"), ct("c", "portal")]
    forced = {"b": "arterial", "c": None}
    assert chosen("liver_multiphase_ct", series, forced=forced) == {"a": None, "b": "arterial", "c": None}
    reasons = {
        choice.series.uid: choice.reasons for choice in assign(series, task("liver_multiphase_ct").modalities, forced)
    }
    assert reasons["b"] == ("set by hand",)
    assert reasons["c"] == ("left out by hand",)
    assert "is set by hand" in reasons["a"][-1]
