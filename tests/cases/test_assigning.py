"""What the text of a series says, what all share, and choices that a person is told of."""

from __future__ import annotations

import pytest

from maml_app.cases.assigning import assign
from maml_app.cases.series import Series, SeriesRules, contrast_of
from maml_app.cases.spec import TaskSpec, load_task
from maml_app.cases.words import folded, found
from maml_app.stores.choice import shipped_tasks

LIVER, BRAIN, SARCOMA = "liver_multiphase_ct", "brats_mr", "sarcoma_pet_ct_mr"


def task(name: str) -> TaskSpec:
    return load_task(shipped_tasks()[name])


def one(description: str, kind: str = "MR", uid: str = "", part: str = "", **attributes: str) -> Series:
    given = {"SeriesDescription": description, **attributes}
    return Series(uid or description or "silent", "1.2", "1.2.9", kind, 60, 1, given, part)


def taken(name: str, series: list[Series], forced: dict[str, str | None] | None = None) -> dict[str, str]:
    """Modality -> the key of the series that is taken for it."""
    return {
        found.modality: found.series.key for found in assign(series, task(name).modalities, forced) if found.modality
    }


WORDS = [
    ("артериальная", "Брюшная полость артериальная фаза", True),
    ("артериальная", "Брюшная полость венозная фаза", False),
    ("артериальная", "", False),
    ("φλεβική", "Κοιλία ΦΛΕΒΙΚΗ φάση", True),
    ("φλεβική", "Κοιλία αρτηριακή φάση", False),
    ("动脉期", "腹部动脉期增强", True),
    ("动脉期", "腹部静脉期增强", False),
    ("門脈相", "腹部造影 門脈相", True),
    ("동맥기", "복부 동맥기", True),
    ("동맥기", "복부 문맥기", False),
    ("spätphase", "Leber Spatphase", True),
    ("spatphase", "LEBER SPÄTPHASE", True),
    ("große", "GROSSE Fuge", True),
    ("мои", "мой", False),
    ("art", "Artefakt", False),
    ("t2*", "T2* GRE", True),
]


@pytest.mark.parametrize(("word", "text", "there"), WORDS)
def test_words_of_any_script_match_only_themselves(word: str, text: str, there: bool) -> None:
    assert bool(found([word], folded(text))) is there


@pytest.mark.parametrize("word", ["", "  ", "*", "---"])
def test_a_word_that_can_be_nowhere_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="expected words with a letter or a digit"):
        SeriesRules(words=(word,))
    assert found([word], folded("anything")) == ""


CONTRAST: list[tuple[str, dict[str, str], bool | None]] = [
    ("T1 post", {}, True),
    ("T1 pre", {}, False),
    ("T1 PRE/POST", {}, None),
    ("T1 PRE/POST", {"ContrastBolusAgent": "Gadovist"}, True),
    ("T1 pre", {"ContrastBolusAgent": "Gadovist"}, True),
    ("Pre-op stealth T1 MPRAGE", {"ContrastBolusAgent": "Gadobutrol"}, True),
    ("Pre-op stealth T1 MPRAGE", {}, None),
    ("pre op T1 post", {}, True),
    ("preoperative T1 +C gd", {}, True),
    ("T1 post-op", {}, None),
    ("T1 postoperative", {}, None),
    ("T1 post radiation", {}, None),
    ("T1 post op POST GD", {}, True),
    ("T1 without contrast", {"ContrastBolusAgent": "Gadovist"}, False),
    ("T1 non-contrast", {}, False),
    ("T1 pre contrast", {}, False),
    ("Leber nativ", {"ContrastBolusAgent": "Iomeron"}, False),
    *(
        (f"AX T1 {said}", {}, True)
        for said in ("+C", "C+", "C +", "+ C", "FS+C", "+KM", "KM+", "+GADO", "POSTCONTRAST")
    ),
    *((f"AX T1 {said}", {}, True) for said in ("POSTGAD", "Gadovist", "Dotarem", "gadolinio", "CONTRASTE", "inj")),
    *((f"AX T1 {said}", {}, False) for said in ("no gad", "w/o Gadovist", "sem contraste", "pre inj", "C-")),
    ("T1", {"ContrastBolusAgent": "NONE"}, None),
    ("T1", {"ProtocolName": "Brain with contrast"}, True),
    ("T1", {"ProtocolName": "Brain pre/post contrast"}, None),
    ("T1 post", {"ProtocolName": "Brain without contrast"}, True),
    ("T1 pre", {"ProtocolName": "Brain with contrast"}, False),
]


@pytest.mark.parametrize(("description", "attributes", "expected"), CONTRAST)
def test_whether_contrast_was_given(description: str, attributes: dict[str, str], expected: bool | None) -> None:
    assert contrast_of(one(description, **attributes)) is expected


TEXTS: list[tuple[str, str, list[Series], dict[str, str]]] = [
    (
        "a protocol that all share is no evidence",
        LIVER,
        [one(f"Liver {phase}", "CT", ProtocolName="LIVER PRE/POST CM") for phase in ("native", "art", "pv", "late")],
        {"native": "Liver native", "arterial": "Liver art", "portal_venous": "Liver pv", "delayed": "Liver late"},
    ),
    (
        "nor if descriptions say nothing",
        LIVER,
        [one(f"Abd {number}", "CT", ProtocolName="ARTERIAL LIVER") for number in range(3)],
        {},
    ),
    (
        "a description that all share and that names all",
        LIVER,
        [one("Liver art/pv/late", "CT", uid=str(number)) for number in range(3)],
        {},
    ),
    (
        "the description before the protocol",
        BRAIN,
        [one("Ax T2 TSE", ProtocolName="T1 SE"), one("Ax T1 SE", ProtocolName="T2 TSE")],
        {"t2": "Ax T2 TSE", "t1": "Ax T1 SE"},
    ),
    (
        "the protocol where the description is silent",
        BRAIN,
        [one("Ax 3mm", ProtocolName="T2 TSE"), one("Ax 4mm", ProtocolName="T1 SE")],
        {"t2": "Ax 3mm", "t1": "Ax 4mm"},
    ),
    (
        "a localizer of the protocol",
        BRAIN,
        [one("Ax T1 SE", ProtocolName="Survey localizer + T1"), one("Ax T2 TSE", ProtocolName="scout T2")],
        {"t1": "Ax T1 SE", "t2": "Ax T2 TSE"},
    ),
    (
        "pre-op with an agent beside one without",
        BRAIN,
        [one("Pre-op stealth T1 MPRAGE", ContrastBolusAgent="Gadobutrol"), one("Ax T1 SE")],
        {"t1ce": "Pre-op stealth T1 MPRAGE", "t1": "Ax T1 SE"},
    ),
    (
        "an agent that all have does not outweigh pre",
        BRAIN,
        [one("Ax T1 pre", ContrastBolusAgent="Gadobutrol"), one("Ax T1 post", ContrastBolusAgent="Gadobutrol")],
        {"t1": "Ax T1 pre", "t1ce": "Ax T1 post"},
    ),
    (
        "a post-operative study without an agent",
        BRAIN,
        [one("post-op Ax T1"), one("post-op Ax T1 GD")],
        {"t1": "post-op Ax T1", "t1ce": "post-op Ax T1 GD"},
    ),
    (
        "contrast as scanners abbreviate it, without a plain one",
        BRAIN,
        [one("AX T1 +C"), one("Ax T2 FS+C")],
        {"t1ce": "AX T1 +C", "t2": "Ax T2 FS+C"},
    ),
    (
        "a T2 with an inversion time is FLAIR",
        BRAIN,
        [one("t2_ir_tse_tra", InversionTime="2200", EchoTime="100"), one("t2_tse_tra", EchoTime="100")],
        {"flair": "t2_ir_tse_tra", "t2": "t2_tse_tra"},
    ),
    *(
        (f"{text} is no T1, even as the only MR", SARCOMA, [one(text, EchoTime=echo)], {})
        for text, echo in (("T2W_TSE", "100"), ("TIRM cor", "60"), ("ep2d_diff_b800", "70"), ("tra 5mm", "100"))
    ),
    ("the only MR that says nothing", SARCOMA, [one("tra 5mm", EchoTime="12")], {"mr_t1": "tra 5mm"}),
    *(
        (f"{text} is none of the phases", LIVER, [one(text, "CT", ContrastBolusAgent="Iomeron")], {})
        for text in ("Art+PV", "arterial & portal", "Iodine map venous", "Virtual unenhanced", "Monitoring art")
    ),
    (
        "copies of one series",
        BRAIN,
        [one("Ax T1", uid="a", ImageType="ORIGINAL"), one("Ax T1", uid="b", ImageType="DERIVED")],
        {"t1": "a"},
    ),
    (
        "the echo whose time fits",
        BRAIN,
        [
            one("Ax PD/T2", uid="pd", part="EchoTime:15", EchoTime="15"),
            one("Ax PD/T2", uid="pd", part="EchoTime:90", EchoTime="90"),
        ],
        {"t2": "pd#EchoTime:90"},
    ),
    (
        "volumes of one series that are told apart by contrast",
        LIVER,
        [
            one("Liver native", "CT", uid="x", part="AcquisitionNumber:1"),
            one("Liver art", "CT", uid="x", part="AcquisitionNumber:2"),
        ],
        {"native": "x#AcquisitionNumber:1", "arterial": "x#AcquisitionNumber:2"},
    ),
    (
        "volumes of one series that nothing tells apart",
        SARCOMA,
        [one("CT", "CT", uid="x", part=f"AcquisitionNumber:{number}") for number in (1, 2)] + [one("T1")],
        {"mr_t1": "T1"},
    ),
]


@pytest.mark.parametrize("case", TEXTS, ids=[row[0] for row in TEXTS])
def test_which_series_is_which(case: tuple[str, str, list[Series], dict[str, str]]) -> None:
    _, name, series, expected = case
    assert taken(name, series) == expected
    assert taken(name, series[::-1]) == expected


def test_ties_are_told_with_the_series_that_is_taken() -> None:
    low, high = one("Ax T1", uid="1.1"), one("Ax T1", uid="1.2")
    first, second = assign([low, high], task(BRAIN).modalities)
    assert first.note == "t1 is #1 Ax T1, and #1 Ax T1 fits as well; set it by hand if that is it"
    assert "ties with #1 Ax T1" in first.reasons
    assert "ties with" in " ".join(second.reasons)
    assert second.note == ""


def test_volumes_that_fit_equally_are_refused_with_both_named() -> None:
    parts = [one("CT", "CT", uid="1.5", part=f"AcquisitionNumber:{number}") for number in (1, 2)]
    for choice in assign(parts, task(SARCOMA).modalities):
        assert (choice.modality, choice.meant) == (None, "ct")
        assert "AcquisitionNumber:1 (60 images); AcquisitionNumber:2 (60 images)" in choice.reasons[0]
        assert "set one by hand, as 1.5#AcquisitionNumber:1" in choice.reasons[0]
    # by hand one of them, or the series where the rules can tell
    assert taken(SARCOMA, parts, {"1.5#AcquisitionNumber:2": "ct"}) == {"ct": "1.5#AcquisitionNumber:2"}
    assert taken(SARCOMA, parts, {"1.5": None}) == {}
    echoes = [one("PD", uid="1.6", part=f"EchoTime:{time}", EchoTime=str(time)) for time in (15, 90)]
    assert taken(BRAIN, echoes, {"1.6": "t2"}) == {"t2": "1.6#EchoTime:90"}


def test_two_series_set_by_hand_to_one_modality_are_both_refused() -> None:
    series = [one("a", "CT"), one("b", "CT"), one("c", "CT")]
    choices = assign(series, task(SARCOMA).modalities, {"a": "ct", "b": "ct"})
    assert [choice.modality for choice in choices] == [None, None, None]
    assert [choice.meant for choice in choices] == ["ct", "ct", ""]
    assert choices[0].reasons == ("set by hand to ct, as #1 b is too: neither is used; set one of them to none",)
    assert "set by hand" in choices[2].reasons[0]


def test_a_series_that_is_no_volume_costs_only_itself() -> None:
    broken = Series("1.1", "1", "1.9", "CT", 80, 1, {"SeriesDescription": "CT"}, problem="1 missing")
    good = one("CT thin", "CT")
    first, second = assign([broken, good], task(SARCOMA).modalities)
    assert (first.modality, first.meant, first.reasons) == (None, "ct", ("1 missing",))
    assert second.modality == "ct"
    (forced,) = assign([broken], task(SARCOMA).modalities, {"1.1": "ct"})
    assert (forced.modality, forced.meant, forced.reasons) == (None, "ct", ("set by hand, but 1 missing",))
