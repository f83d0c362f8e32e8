"""What turns the values of a PET series into body-weight SUV (g/ml): one factor for the whole series.

Follows QIBA's vendor-neutral calculation: SUV = Bq/ml * weight in g / dose in Bq at the time of the scan. All images of
a series are decay corrected to one time (DecayCorrection START, PS3.3 C.8.9.1): the factor of a series is one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from pydicom.dataset import Dataset

from maml_app.errors import ImageError

DOSE_BQ = (1e6, 1e11)  # less is written in MBq, kBq or mCi, more is no dose
WEIGHT_KG = (0.01, 500.0)  # from a mouse up; more is written in grams
LONGEST_S = 12 * 3600  # from injection to scan, or five half-lives where that is longer
HALF_LIVES = 10  # after which nothing is left to see
MIDNIGHT = datetime.min.time()


def suv_factor(images: Sequence[Dataset], series: Sequence[Dataset] = ()) -> float:
    """The factor of a volume of a PET series, by Units (0054,1001) and how it was corrected.

    Args:
        images: those of the volume.
        series: those of all volumes of its series, if these are more: the earliest tells when the scan began.

    Raises:
        ImageError: units that cannot be converted, or an attribute that the conversion needs is missing or cannot be.
    """
    series = [image for image in series if image.get("Modality") == "PT"] or images
    units = _one(images, "Units")
    if units == "GML":
        kind = _one(images, "SUVType") or "BW"
        if kind != "BW":
            raise ImageError(f"expected PET in body-weight SUV, got SUVType {kind}; ask for SUVbw or Bq/ml")
        return 1.0
    if units == "CNTS":
        factor = _philips(images[0], 0x00)  # counts -> SUV
        if factor > 0:
            return factor
        counted = _philips(images[0], 0x09)  # counts -> Bq/ml
        if counted > 0:
            return counted * _from_bq_ml(images, series)
        raise ImageError("expected PET counts with Philips' SUV factor (7053,1000), got none; send Bq/ml instead")
    if units != "BQML":
        raise ImageError(f"expected PET Units GML, BQML or CNTS, got {units or 'none'}")
    return _from_bq_ml(images, series)


def _from_bq_ml(images: Sequence[Dataset], series: Sequence[Dataset]) -> float:
    image = images[0]
    infos = image.get("RadiopharmaceuticalInformationSequence")
    info = infos[0] if infos else Dataset()
    weight_kg = _positive(image, "PatientWeight")
    if not WEIGHT_KG[0] <= weight_kg <= WEIGHT_KG[1]:
        raise ImageError(f"expected PET with PatientWeight in kg, got {weight_kg:g}: is it in g?")
    dose_bq = _positive(info, "RadionuclideTotalDose")
    if not DOSE_BQ[0] <= dose_bq <= DOSE_BQ[1]:
        raise ImageError(
            f"expected PET with RadionuclideTotalDose in Bq ({DOSE_BQ[0]:g} to {DOSE_BQ[1]:g}), got {dose_bq:g}: is it "
            "in MBq, kBq or mCi? SUV cannot be calculated"
        )
    correction = _one(images, "DecayCorrection")
    if correction == "ADMIN":
        return weight_kg * 1000 / dose_bq
    if correction != "START":
        raise ImageError(f"expected PET with DecayCorrection START or ADMIN, got {correction or 'none'}")
    half_life_s = _positive(info, "RadionuclideHalfLife")
    began = scan_start(series)
    elapsed_s = _elapsed_s(began, info, image)
    longest_s = max(LONGEST_S, 5 * half_life_s)
    if not 0 <= elapsed_s <= longest_s:
        raise ImageError(
            f"expected a PET scan within {longest_s / 3600:g} h of the injection, got {elapsed_s / 3600:.1f} h: from "
            f"{_injected(info, image)[0]:%Y-%m-%d %H:%M:%S %Z} to {began:%Y-%m-%d %H:%M:%S %Z}"
        )
    if elapsed_s > HALF_LIVES * half_life_s:
        raise ImageError(
            f"expected PET with RadionuclideHalfLife in seconds, got {half_life_s:g}, of which "
            f"{elapsed_s / half_life_s:.0f} passed from injection to scan: is it in minutes?"
        )
    return weight_kg * 1000 / (dose_bq * math.exp(-math.log(2) * elapsed_s / half_life_s))


def _one(images: Sequence[Dataset], keyword: str) -> str:
    """What all images say of an attribute. Raises ImageError if they disagree."""
    values = sorted({str(image.get(keyword, "") or "").strip().upper() for image in images})
    if len(values) > 1:
        raise ImageError(f"expected PET with one {keyword} for all images of the series, got {', '.join(values)}")
    return values[0]


def _philips(image: Dataset, element: int) -> float:
    try:
        block: Any = image.private_block(0x7053, "Philips PET Private Group")
        value = block[element].value
        return float(value.decode() if isinstance(value, bytes) else value)
    except (KeyError, TypeError, ValueError):
        return 0.0


def _positive(source: Dataset, keyword: str) -> float:
    try:
        value = float(source.get(keyword) or 0)
    except (TypeError, ValueError):
        value = 0.0
    if not 0 < value < math.inf:
        raise ImageError(f"expected PET with {keyword} above 0, got {source.get(keyword)!r}: SUV cannot be calculated")
    return value


# when


def parse_date_time(text: str) -> datetime | None:
    """A DICOM DT value (PS3.5 6.2), with its zone if it has one; None if it does not tell a time of day."""
    found = re.fullmatch(r"(\d{8})(\d{2})(\d{2})?(\d{2})?(\.\d{1,6})?([+-]\d{4})?", text.strip())
    return _moment(found[1], "".join(digits or "" for digits in found.groups()[1:5]), found[6] or "") if found else None


def _moment(date: str, time: str, zone: str = "") -> datetime | None:
    """Date, time and offset as DICOM writes them; also with dots and colons, as ACR-NEMA did."""
    date, time = date.replace(".", "").strip(), time.replace(":", "").strip()
    found = re.fullmatch(r"(\d{2})(\d{2})?(\d{2})?(\.\d+)?", time)
    if not found or not re.fullmatch(r"\d{8}", date):
        return None
    try:
        day = datetime.strptime(date, "%Y%m%d")
    except ValueError:
        return None
    hours, minutes, seconds = (int(digits or 0) for digits in found.groups()[:3])
    moment = day + timedelta(hours=hours, minutes=minutes, seconds=seconds + float(found[4] or 0))
    return moment.replace(tzinfo=_zone(zone))


def _zone(text: str) -> timezone | None:
    found = re.fullmatch(r"([+-])(\d{2})(\d{2})", text.strip())
    if not found:
        return None
    offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return timezone(-offset if found[1] == "-" else offset) if offset < timedelta(hours=24) else None


def _local(image: Dataset, name: str, dates: Sequence[str] = ()) -> datetime | None:
    """The moment of NAMEDate and NAMETime, in the zone that the image says; else of NAMEDateTime."""
    zone = str(image.get("TimezoneOffsetFromUTC", "") or "")
    time = str(image.get(f"{name}Time", "") or "")
    for date in (f"{name}Date", *dates):
        moment = _moment(str(image.get(date, "") or ""), time, zone)
        if moment:
            return moment
    whole = parse_date_time(str(image.get(f"{name}DateTime", "") or ""))
    return whole if whole is None or whole.tzinfo or not zone else whole.replace(tzinfo=_zone(zone))


def scan_start(images: Sequence[Dataset]) -> datetime:
    """To when DecayCorrection START corrects: the series' time.

    Where that was removed, or rewritten after the scan began, the earliest acquisition of the series counts, for all
    of its beds.

    Raises:
        ImageError: no image says when it was acquired, nor the series.
    """
    acquired = [_local(image, "Acquisition", ("SeriesDate", "ContentDate", "StudyDate")) for image in images]
    first = min((moment for moment in acquired if moment), key=_sortable, default=None)
    began = [_local(image, "Series", ("AcquisitionDate", "ContentDate", "StudyDate")) for image in images]
    series = min((moment for moment in began if moment), key=_sortable, default=None)
    removed = series is not None and series.time() == MIDNIGHT and first is not None
    if series is not None and not removed and (first is None or _seconds(series, first) >= 0):
        return series
    if first is None:
        raise ImageError("expected PET with SeriesTime or AcquisitionTime, got neither: SUV cannot be calculated")
    return first


def _sortable(moment: datetime) -> float:
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def _seconds(first: datetime, second: datetime) -> float:
    """From one moment to another; by the clock where one of them does not say its zone."""
    if first.tzinfo is None or second.tzinfo is None:
        first, second = first.replace(tzinfo=None), second.replace(tzinfo=None)
    return (second - first).total_seconds()


def _injected(info: Dataset, image: Dataset) -> tuple[datetime, bool]:
    """When the tracer was given, and whether its date is known.

    Raises:
        ImageError: it is not said, or in a zone that cannot be compared with the scan's.
    """
    full = parse_date_time(str(info.get("RadiopharmaceuticalStartDateTime", "") or ""))
    time = str(info.get("RadiopharmaceuticalStartTime", "") or "")
    zone = str(image.get("TimezoneOffsetFromUTC", "") or "")
    if full is not None:
        if full.tzinfo is None:
            return full.replace(tzinfo=_zone(zone)), True
        if _zone(zone) is not None or full.utcoffset():
            return full, True
        if not time:
            raise ImageError(
                f"expected PET with TimezoneOffsetFromUTC, got none, and RadiopharmaceuticalStartDateTime "
                f"{info.RadiopharmaceuticalStartDateTime} with the offset of UTC: the time from injection to scan "
                "cannot be told"
            )
    moment = _moment("20000101", time, zone)
    if moment is None:
        raise ImageError("expected PET with RadiopharmaceuticalStartTime, got none: SUV cannot be calculated")
    return moment, False


def _elapsed_s(began: datetime, info: Dataset, image: Dataset) -> float:
    """Seconds from injection to scan. A time without a date is that of the last such hour before the scan.

    Raises:
        ImageError: both are at midnight sharp, which is what is left of times that were removed.
    """
    injected, dated = _injected(info, image)
    if injected.time() == began.time() == MIDNIGHT:
        raise ImageError(
            "expected PET with the times of injection and scan, got 00:00:00 for both, as anonymisers write: SUV "
            "cannot be calculated; send the series with its times, or in SUV"
        )
    elapsed_s = _seconds(injected, began)
    return elapsed_s if dated else elapsed_s % 86400
