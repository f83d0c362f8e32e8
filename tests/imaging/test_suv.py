"""One SUV factor a series: by full date-times, with zones, from the earliest acquisition."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from maml_app.errors import ImageError
from maml_app.imaging.suv import suv_factor

HALF_LIFE_S, DOSE_BQ, WEIGHT_KG = 6586.2, 350e6, 70.0
DAY = "20240102"


def pet(*changes: dict[str, object], count: int = 4) -> list[Dataset]:
    """Headers of a series: injected at 10:00, scanned from 11:00; each change is of all images, or of one in turn."""
    series = []
    for number in range(count):
        image, info = Dataset(), Dataset()
        image.Modality, image.Units, image.DecayCorrection, image.PatientWeight = "PT", "BQML", "START", WEIGHT_KG
        image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = DAY
        image.SeriesTime = image.AcquisitionTime = "110000"
        info.RadionuclideTotalDose, info.RadionuclideHalfLife = DOSE_BQ, HALF_LIFE_S
        info.RadiopharmaceuticalStartTime = "100000"
        image.RadiopharmaceuticalInformationSequence = [info]
        for keyword, value in {**changes[0], **(changes[number] if len(changes) > 1 else {})}.items():
            of_tracer = keyword.startswith("Radio")
            setattr(info if of_tracer else image, keyword, value)
        series.append(image)
    return series


def factor(elapsed_s: float) -> float:
    return WEIGHT_KG * 1000 / (DOSE_BQ * 2 ** (-elapsed_s / HALF_LIFE_S))


HOUR = 3600.0
START = "RadiopharmaceuticalStartDateTime"
CLOCK = "RadiopharmaceuticalStartTime"
AT_ELEVEN: list[dict[str, object]] = [{"AcquisitionTime": "1100"}] * 3
NEXT_DAY: list[dict[str, object]] = [{"AcquisitionDate": "20240103", "AcquisitionTime": "001000"}] * 3
TIMES: list[tuple[str, list[dict[str, object]], float]] = [
    ("as it is", [{}], HOUR),
    ("series time rewritten", [{"SeriesTime": "130000"}], HOUR),
    ("series date rewritten", [{"SeriesDate": "20240109"}], HOUR),
    (
        "series rewritten, two beds",
        [{"SeriesTime": "130000"}, {}, {"AcquisitionTime": "112000"}, {"AcquisitionTime": "112000"}],
        HOUR,
    ),
    ("two beds", [{}, {"AcquisitionTime": "112000"}, {"AcquisitionTime": "114000"}, {}], HOUR),
    (
        "the earliest bed is not the first",
        [{"SeriesTime": "1300", "AcquisitionTime": "1120"}, *AT_ELEVEN],
        HOUR,
    ),
    ("series begins before the first bed", [{"AcquisitionTime": "110500"}], HOUR),
    ("date and time of injection", [{START: f"{DAY}100000"}], HOUR),
    (
        "injection named wrongly by its clock",
        [{START: f"{DAY}100000.000000", "RadiopharmaceuticalStartTime": "010000"}],
        HOUR,
    ),
    ("injected the day before", [{START: "20240101233000", "SeriesTime": "003000", "AcquisitionTime": "003000"}], HOUR),
    (
        "injected before midnight, without a date",
        [{"RadiopharmaceuticalStartTime": "233000", "SeriesTime": "003000", "AcquisitionTime": "003000"}],
        HOUR,
    ),
    (
        "beds on both sides of midnight",
        [
            {"SeriesTime": "235000", "RadiopharmaceuticalStartTime": "225000", "AcquisitionTime": "235000"},
            *NEXT_DAY,
        ],
        HOUR,
    ),
    (
        "scanned at midnight",
        [{"SeriesTime": "00", "AcquisitionTime": "00", "RadiopharmaceuticalStartTime": "23"}],
        HOUR,
    ),
    ("UTC against +0900", [{START: f"{DAY}010000+0000", "TimezoneOffsetFromUTC": "+0900"}], HOUR),
    ("UTC against -0500", [{START: f"{DAY}150000.00+0000", "TimezoneOffsetFromUTC": "-0500"}], HOUR),
    ("UTC against +0530", [{START: f"{DAY}043000+0000", "TimezoneOffsetFromUTC": "+0530"}], HOUR),
    ("both with +0900", [{START: f"{DAY}100000+0900", "TimezoneOffsetFromUTC": "+0900"}], HOUR),
    (
        "UTC, the day before",
        [
            {
                START: "20240101170000+0000",
                "TimezoneOffsetFromUTC": "+0900",
                "SeriesTime": "0300",
                "AcquisitionTime": "0300",
            }
        ],
        HOUR,
    ),
    ("only the injection has a zone", [{START: f"{DAY}100000+0900"}], HOUR),
    ("only the scan has a zone", [{START: f"{DAY}100000", "TimezoneOffsetFromUTC": "+0900"}], HOUR),
    ("UTC, the scan without a zone, but a clock time", [{START: f"{DAY}090000+0000"}], HOUR),
    (
        "acquisition as one value",
        [{"SeriesTime": "", "AcquisitionTime": "", "AcquisitionDateTime": f"{DAY}110000"}],
        HOUR,
    ),
    ("no acquisition time", [{"AcquisitionTime": ""}], HOUR),
    ("no series date", [{"SeriesDate": ""}], HOUR),
    ("the series' time was removed", [{"SeriesTime": "000000"}], HOUR),
    (
        "and the injection was after noon",
        [{"SeriesTime": "000000", "AcquisitionTime": "140000", CLOCK: "130000"}],
        HOUR,
    ),
    (
        "with colons and dots",
        [{"SeriesTime": "11:00:00", "AcquisitionTime": "11:00:00", "SeriesDate": "2024.01.02"}],
        HOUR,
    ),
]


@pytest.mark.parametrize("case", TIMES, ids=[one[0] for one in TIMES])
def test_the_time_from_injection_to_scan(case: tuple[str, list[dict[str, object]], float]) -> None:
    _, changes, elapsed_s = case
    assert suv_factor(pet(*changes)) == pytest.approx(factor(elapsed_s), rel=1e-9)
    # the same for every bed, and whatever the order of the images
    assert suv_factor(pet(*changes)[::-1]) == suv_factor(pet(*changes))


REMOVED: dict[str, object] = {
    "SeriesTime": "000000",
    "AcquisitionTime": "000000.00",
    "RadiopharmaceuticalStartTime": "000000.00",
}
REFUSED: list[tuple[dict[str, object], str]] = [
    ({"RadionuclideTotalDose": 350.0}, r"RadionuclideTotalDose in Bq .*, got 350: is it in MBq"),
    ({"RadionuclideTotalDose": 350e3}, "RadionuclideTotalDose in Bq .*, got 350000"),
    ({"RadionuclideTotalDose": 9.4}, "RadionuclideTotalDose in Bq .*, got 9.4"),
    ({"RadionuclideTotalDose": None}, "RadionuclideTotalDose above 0, got None"),
    ({"PatientWeight": 0}, "PatientWeight above 0"),
    ({"PatientWeight": 70000}, "PatientWeight in kg, got 70000: is it in g"),
    ({"RadionuclideHalfLife": None}, "RadionuclideHalfLife above 0"),
    ({"RadionuclideHalfLife": 109.77}, "RadionuclideHalfLife in seconds, got 109.77, of which 33 passed.*minutes"),
    ({"Units": "PROPCPS"}, "Units GML, BQML or CNTS, got PROPCPS"),
    ({"Units": "GML", "SUVType": "LBM"}, "body-weight SUV, got SUVType LBM"),
    ({"DecayCorrection": "NONE"}, "DecayCorrection START or ADMIN, got NONE"),
    ({"RadiopharmaceuticalStartTime": ""}, "RadiopharmaceuticalStartTime, got none"),
    ({START: "20190102100000"}, "within 12 h of the injection, got 43825"),
    ({START: "20240102120000"}, r"within 12 h of the injection, got -1\.0 h: from 2024-01-02 12:00:00"),
    (
        {START: f"{DAY}010000+0000", "RadiopharmaceuticalStartTime": ""},
        r"TimezoneOffsetFromUTC, got none.*010000\+0000",
    ),
    ({"SeriesTime": "", "AcquisitionTime": ""}, "SeriesTime or AcquisitionTime, got neither"),
    ({"RadiopharmaceuticalStartTime": "120000"}, "within 12 h of the injection, got 23.0 h"),
    (REMOVED, "times of injection and scan, got 00:00:00 for both"),
    ({**REMOVED, START: f"{DAY}000000.00"}, "times of injection and scan, got 00:00:00 for both"),
    ({**REMOVED, START: "20240101000000", "AcquisitionTime": ""}, "got 00:00:00 for both"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_does_not_tell_its_suv_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        suv_factor(pet(changes))


def test_images_that_disagree_are_refused() -> None:
    with pytest.raises(ImageError, match="one Units for all images of the series, got BQML, GML"):
        suv_factor(pet({}, {"Units": "GML"}, {}, {}))


def test_points_in_time_have_the_factor_of_their_series() -> None:
    """They are corrected to one moment (PS3.3 C.8.9.1); SeriesTime, rewritten later, does not tell it."""
    rewritten: dict[str, object] = {"SeriesTime": "130000"}
    first, second = pet(rewritten), pet({**rewritten, "AcquisitionTime": "112000"})
    other = pet({**rewritten, "Modality": "OT", "AcquisitionTime": "090000"}, count=1)
    assert suv_factor(second, [*other, *second, *first]) == suv_factor(first) == pytest.approx(factor(HOUR))


def test_long_lived_tracers_are_scanned_days_later() -> None:
    later = {START: "20231228110000", "RadionuclideHalfLife": 282276.0}  # zirconium-89
    assert suv_factor(pet(later)) == pytest.approx(WEIGHT_KG * 1000 / (DOSE_BQ * 2 ** (-5 * 86400 / 282276)))


def test_corrected_to_the_injection_and_philips_counts() -> None:
    assert suv_factor(pet({"DecayCorrection": "ADMIN"})) == pytest.approx(WEIGHT_KG * 1000 / DOSE_BQ)
    assert suv_factor(pet({"Units": "GML"})) == 1
    for element, value, expected in (
        (0x00, b"0.00055", 0.00055),
        (0x00, "0.00055", 0.00055),
        (0x09, "1.5", 1.5 * factor(HOUR)),
    ):
        series = pet({"Units": "CNTS"})
        for image in series:
            block = image.private_block(0x7053, "Philips PET Private Group", create=True)
            block.add_new(element, "UN" if isinstance(value, bytes) else "DS", value)
        assert suv_factor(series) == pytest.approx(expected)
