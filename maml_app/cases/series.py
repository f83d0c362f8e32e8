"""Which DICOM series is which modality: rules on attributes, with scores and reasons that a person can read.

Every (series, modality) pair gets a score; pairs are taken from the highest score down, each series and each modality
once. Between series of one score the rule is: more images, then the lower series number, then the lower UID.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, field_validator

DICOM_MODALITY = {"CT": "CT", "PET": "PT", "MR": "MR"}  # DICOM PS3.3 C.7.3.1.1.1
CONTRAST_DELAY = "ContrastDelay"  # seconds from ContrastBolusStartTime to the acquisition; ours, no DICOM keyword


# said of a series in any of the languages that scanners are set to
def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.split(","))


NOT_AN_IMAGE = _phrases(
    "localizer, localiser, scout, topogram, topogramm, surview, scanogram, survey, lokalizer, loc, reperage, "
    "localizador, dose report, patient protocol, smartprep, bolus tracking"
)
REWORKED = _phrases("mip, minip, mpr, vrt, reformat, reformatted, subtraction, sub, fused, fusion, screen save")
TURNED = _phrases("cor, coronal, koronar, coronale, sag, sagittal, sagital, sagittale")
WITH_CONTRAST = _phrases(
    "post, gd, gad, gado, gadolinium, ce, km, mit km, contrast, c+, with contrast, t1c, t1ce, injecte, injectee, "
    "avec injection, con contraste, con mdc, con contrasto, mdc"
)
WITHOUT_CONTRAST = _phrases(
    "pre, c-, native, nativ, nativo, nativa, plain, unenhanced, non contrast, noncontrast, without contrast, "
    "precontrast, ohne km, sans injection, sans contraste, sin contraste, senza mdc, senza contrasto, basale, basal"
)


class SeriesRules(BaseModel):
    """What speaks for a series being this modality. Words are looked for as whole words, without accents or case."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    words: tuple[str, ...] = Field(default=(), description="in the series description, protocol or sequence name")
    avoid: tuple[str, ...] = Field(default=(), description="words that rule the series out")
    contrast: Literal["required", "expected", "absent"] | None = None
    ranges: dict[str, tuple[float, float]] = Field(
        default={}, description="numeric attribute (or ContrastDelay, seconds) -> range it should lie in"
    )
    patterns: dict[str, str] = Field(default={}, description="attribute -> regular expression found in it")

    @field_validator("patterns")
    @classmethod
    def _patterns_compile(cls, patterns: dict[str, str]) -> dict[str, str]:
        for keyword, pattern in patterns.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{keyword}: {pattern!r} is no regular expression ({error})") from None
        return patterns

    @field_validator("ranges")
    @classmethod
    def _ranges_rise(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for keyword, (low, high) in ranges.items():
            if low > high:
                raise ValueError(f"{keyword}: expected [low, high], got {[low, high]}")
        return ranges


@dataclass(frozen=True)
class Series:
    """A DICOM series as listed: `attributes` are the first image's, by keyword, lists joined by a backslash."""

    uid: str
    study: str
    frame: str
    modality: str
    images: int
    number: int = 0
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All that the scanner's operator wrote, folded: lower case, no accents, one space around each word."""
        keys = ("SeriesDescription", "ProtocolName", "SequenceName")
        return _folded(" ".join(self.attributes.get(key, "") for key in keys))

    @property
    def name(self) -> str:
        """How to name the series to a person."""
        return f"#{self.number} {self.attributes.get('SeriesDescription') or '(no description)'}"


@dataclass(frozen=True)
class Verdict:
    """A series, the modality it is taken for (None: not used), the score and the reasons."""

    series: Series
    modality: str | None
    score: int
    reasons: tuple[str, ...]


class Rated(Protocol):
    """What `assign` needs of a modality; TaskSpec's modalities are such."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Literal["CT", "PET", "MR"]: ...

    @property
    def dicom(self) -> SeriesRules: ...


def _folded(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = " ".join(re.sub(r"[^a-z0-9+\-*]+", " ", plain.replace("_", " ")).split())
    # a hyphen joins words, except in "c-", which says that there is no contrast
    return f" {re.sub(r'-(?=[a-z0-9])', ' ', words)} "


def _found(phrases: Sequence[str], text: str) -> str:
    """The longest phrase that is in a folded text; '' if none is."""
    return max((phrase for phrase in phrases if _folded(phrase) in text), key=len, default="")


def seconds(time: str) -> float | None:
    """A DICOM TM value, HHMMSS.FFFFFF, as seconds since midnight; None if it is none."""
    match = re.fullmatch(r"(\d{2})(\d{2})?(\d{2}(?:\.\d+)?)?", time.replace(":", "").strip())
    return int(match[1]) * 3600 + int(match[2] or 0) * 60 + float(match[3] or 0) if match else None


def _number(series: Series, keyword: str) -> float | None:
    if keyword == CONTRAST_DELAY:
        began = seconds(series.attributes.get("ContrastBolusStartTime", ""))
        taken = seconds(series.attributes.get("AcquisitionTime", ""))
        # past midnight it counts on
        return None if began is None or taken is None else (taken - began) % 86400
    try:
        return float(series.attributes.get(keyword, "").split("\\")[0])
    except ValueError:
        return None


def _contrast(series: Series, text: str) -> bool | None:
    if _found(WITHOUT_CONTRAST, text):
        return False
    agent = series.attributes.get("ContrastBolusAgent", "").strip().lower()
    if _found(WITH_CONTRAST, text) or (agent and agent not in ("no", "none", "n", "without", "ohne")):
        return True
    return None


def rule_out(series: Series) -> str:
    """Why a series is no image stack of any use; '' if it may be one."""
    kind = series.attributes.get("ImageType", "").upper()
    if series.modality not in DICOM_MODALITY.values():
        return f"{series.modality or 'no modality'} is not an image this app reads"
    if "LOCALIZER" in kind or _found(NOT_AN_IMAGE, series.text):
        return "localizer"
    frames = int(_number(series, "NumberOfFrames") or 1)
    if max(series.images, frames) < 2:
        return "one image only"
    if not series.frame:
        return "no FrameOfReferenceUID: it cannot be aligned with other series"
    return ""


def rate(series: Series, modality: Rated, alone: bool) -> tuple[int, tuple[str, ...]]:
    """The score of a series for a modality, 0 or less if it cannot be it, and why.

    `alone` says that the task has no other modality of this kind: then being of that kind is evidence enough.
    """
    if DICOM_MODALITY[modality.kind] != series.modality:
        return 0, ()
    rules, text = modality.dicom, series.text
    avoided = _found(rules.avoid, text)
    if avoided:
        return 0, (f"not {modality.name}: says {avoided!r}",)
    score, reasons, evidence = 0, [f"is {series.modality}"], alone
    word = _found(rules.words, text)
    if word:
        score += 10 + len(word.split())
        reasons.append(f"says {word!r}")
        evidence = True
    for keyword, pattern in rules.patterns.items():
        if re.search(pattern, series.attributes.get(keyword, ""), re.IGNORECASE):
            score += 4
            reasons.append(f"{keyword} fits")
            evidence = True
    for keyword, (low, high) in rules.ranges.items():
        value = _number(series, keyword)
        if value is not None:
            fits = low <= value <= high
            score += 6 if fits else -6
            reasons.append(f"{keyword} {value:g} is {'in' if fits else 'outside'} {low:g} to {high:g}")
            evidence |= fits
    has = _contrast(series, text)
    if rules.contrast is not None and (
        (rules.contrast == "required" and not has)
        or (rules.contrast == "expected" and has is False)
        or (rules.contrast == "absent" and has)
    ):
        said = {True: "given", False: "not given", None: "not known to be given"}[has]
        return 0, (f"not {modality.name}: contrast {said}",)
    if rules.contrast is not None and has is not None:
        score += 3
        reasons.append("contrast given" if has else "no contrast given")
    if not evidence:
        return 0, (f"nothing says that it is {modality.name}",)
    score += 20  # what follows only ranks series that all may be it
    for points, reason in _quality(series, text):
        score += points
        reasons.append(f"{reason} ({points:+d})")
    return max(score, 1), tuple(reasons)


def _quality(series: Series, text: str) -> list[tuple[int, str]]:
    """What makes a series a better or worse source of its modality than another."""
    found = []
    kind = series.attributes.get("ImageType", "").upper().split("\\")
    if "DERIVED" in kind[:1]:
        found.append((-2, "derived"))
    if {"MIP", "MPR", "PROJECTION IMAGE", "REFORMATTED", "SUBTRACTION"} & set(kind) or _found(REWORKED, text):
        found.append((-8, "reworked from another series"))
    if series.modality in ("CT", "PT") and _found(TURNED, text):
        found.append((-4, "reformatted to another plane"))
    if series.modality == "PT":
        corrected = series.attributes.get("CorrectedImage", "").upper()
        if (corrected and "ATTN" not in corrected) or _found(("nac", "uncorrected", "no ac", "non ac"), text):
            found.append((-15, "not attenuation corrected"))
    if series.images < 10 and not _number(series, "NumberOfFrames"):
        found.append((-3, f"{series.images} images only"))
    return found


def _order(series: Series) -> tuple[int, int, str]:
    return -series.images, series.number, series.uid


def assign(
    series: Sequence[Series], modalities: Sequence[Rated], forced: Mapping[str, str | None] | None = None
) -> list[Verdict]:
    """Which of a case's series is which modality, and why; one verdict a series, in the order they came.

    Args:
        forced: series UID -> modality name, or None for "do not use"; goes before every rule.
    """
    forced = forced or {}
    verdicts: dict[str, Verdict] = {}
    kinds = [modality.kind for modality in modalities]
    taken: dict[str, Series] = {}
    for one in series:
        if one.uid in forced:
            name = forced[one.uid]
            verdicts[one.uid] = Verdict(one, name, 0, ("set by hand" if name else "left out by hand",))
            if name:
                taken[name] = one
        elif reason := rule_out(one):
            verdicts[one.uid] = Verdict(one, None, 0, (reason,))
    pairs = []
    why: dict[str, list[str]] = {}
    for one in series:
        if one.uid in verdicts:
            continue
        for place, modality in enumerate(modalities):
            score, reasons = rate(one, modality, kinds.count(modality.kind) == 1)
            if score > 0:
                pairs.append((-score, _order(one), place, one, modality.name, reasons))
            else:
                why.setdefault(one.uid, []).extend(reasons)
    best: dict[str, tuple[int, Series]] = {}
    for minus, _, _, one, name, reasons in sorted(pairs, key=lambda pair: pair[:3]):
        if one.uid in verdicts:
            continue
        if name not in taken:
            taken[name], best[name] = one, (-minus, one)
            verdicts[one.uid] = Verdict(one, name, -minus, reasons)
        elif name in best and best[name][0] == -minus:
            kept = best[name][1]
            rule = "it has more images" if kept.images != one.images else "its series number or UID is lower"
            why.setdefault(one.uid, []).append(f"ties with {kept.name} for {name} at {-minus}: that is taken, {rule}")
        else:
            by = f"{taken[name].name} scores {best[name][0]}" if name in best else f"{taken[name].name} is set by hand"
            why.setdefault(one.uid, []).append(f"{-minus} for {name}, but {by}")
    for one in series:
        if one.uid not in verdicts:
            said = tuple(dict.fromkeys(why.get(one.uid, ()))) or (f"the task has no {one.modality}",)
            verdicts[one.uid] = Verdict(one, None, 0, said)
    return [verdicts[one.uid] for one in series]
