"""How well a DICOM series fits a modality: a score, and reasons that a person can read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from maml_app.cases.series import (
    DESCRIPTION,
    DICOM_MODALITY,
    PROTOCOL,
    SEQUENCE,
    Rated,
    Series,
    SeriesRules,
    Shared,
    contrast_of,
    number_of,
)
from maml_app.cases.words import REWORKED, TURNED, UNCORRECTED, found

NOTHING = Shared()
MAY_BE = 20  # points of whatever may be the modality at all: what comes on top only ranks


@dataclass
class _Score:
    """Points and reasons; whether anything says that the series is the modality, and `against` that it is not."""

    reasons: list[str]
    evidence: bool = False
    against: bool = False
    points: int = 0
    refused: str = field(default="")

    def add(self, points: int, reason: str, evidence: bool = False) -> None:
        self.points += points
        self.reasons.append(reason)
        self.evidence |= evidence


def rate(
    series: Series, modality: Rated, modalities: Sequence[Rated], shared: Shared = NOTHING
) -> tuple[int, tuple[str, ...]]:
    """The score of a series for a modality, 0 or less if it cannot be it, and why.

    Where the task has no other modality of this kind, being of that kind is evidence enough, unless the task's own
    ranges speak against it.
    """
    if DICOM_MODALITY[modality.kind] != series.modality:
        return 0, ()
    kind = [other for other in modalities if other.kind == modality.kind]
    rules, text = modality.dicom, _text(series, kind, shared)
    avoided = found(rules.avoid, text)
    if avoided:
        return 0, (f"not {modality.name}: says {avoided!r}",)
    score = _Score([f"is {series.modality}"])
    _by_words(score, rules, text)
    _by_attributes(score, rules, series)
    _by_contrast(score, rules, contrast_of(series, shared))
    if score.refused:
        return 0, (f"not {modality.name}: {score.refused}",)
    if not score.evidence and (len(kind) > 1 or score.against):
        return 0, (f"nothing says that it is {modality.name}",)
    score.points += MAY_BE
    for points, reason in _quality(series):
        score.add(points, f"{reason} ({points:+d})")
    return max(score.points, 1), tuple(score.reasons)


def _text(series: Series, kind: Sequence[Rated], shared: Shared) -> str:
    """What speaks for a series: its description; the protocol, then the sequence, only where that says nothing."""
    vocabulary = [word for modality in kind for word in (*modality.dicom.words, *modality.dicom.avoid)]
    texts = [text for text in map(series.text, (DESCRIPTION, PROTOCOL, SEQUENCE)) if text not in shared.texts]
    return next((text for text in texts if found(vocabulary, text)), texts[0] if texts else "")


def _by_words(score: _Score, rules: SeriesRules, text: str) -> None:
    word = found(rules.words, text)
    if word:
        score.add(10 + len(word.split()), f"says {word!r}", evidence=True)


def _by_attributes(score: _Score, rules: SeriesRules, series: Series) -> None:
    for keyword, pattern in rules.patterns.items():
        if re.search(pattern, series.attributes.get(keyword, ""), re.IGNORECASE):
            score.add(4, f"{keyword} fits", evidence=True)
    for keyword, (low, high) in rules.ranges.items():
        value = number_of(series, keyword)
        if value is not None:
            fits = low <= value <= high
            where = "in" if fits else "outside"
            score.add(6 if fits else -6, f"{keyword} {value:g} is {where} {low:g} to {high:g}", evidence=fits)
            score.against |= not fits


def _by_contrast(score: _Score, rules: SeriesRules, has: bool | None) -> None:
    """`has`: whether an agent was given; None if nothing says so."""
    if rules.contrast is None:
        return
    wrong = {"required": not has, "expected": has is False, "absent": bool(has)}[rules.contrast]
    if wrong:
        said = {True: "given", False: "not given", None: "not known to be given"}[has]
        score.refused = f"contrast {said}"
    elif has is not None:
        score.add(3, "contrast given" if has else "no contrast given")


def _quality(series: Series) -> list[tuple[int, str]]:
    """What makes a series a better or worse source of its modality than another."""
    points, text = [], series.text(DESCRIPTION)
    kind = series.attributes.get("ImageType", "").upper().split("\\")
    if "DERIVED" in kind[:1]:
        points.append((-2, "derived"))
    if {"MIP", "MPR", "PROJECTION IMAGE", "REFORMATTED", "SUBTRACTION"} & set(kind) or found(REWORKED, text):
        points.append((-8, "reworked from another series"))
    if series.modality in ("CT", "PT") and found(TURNED, text):
        points.append((-4, "reformatted to another plane"))
    if series.modality == "PT":
        corrected = series.attributes.get("CorrectedImage", "").upper()
        if (corrected and "ATTN" not in corrected) or found(UNCORRECTED, text):
            points.append((-15, "not attenuation corrected"))
    if series.images < 10 and not number_of(series, "NumberOfFrames"):
        points.append((-3, f"{series.images} images only"))
    return points
