"""A DICOM series as the rules see it: its attributes, what its words and agents say, and what rules it out.

What all series of a study share is no evidence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, field_validator

from maml_app.cases.words import (
    NO_AGENT,
    NOT_AN_IMAGE,
    folded,
    found,
    is_word,
    said_of_contrast,
)

DICOM_MODALITY = {"CT": "CT", "PET": "PT", "MR": "MR"}  # DICOM PS3.3 C.7.3.1.1.1
CONTRAST_DELAY = "ContrastDelay"  # seconds from ContrastBolusStartTime to the acquisition; ours, no DICOM keyword
DESCRIPTION, PROTOCOL, SEQUENCE = "SeriesDescription", "ProtocolName", "SequenceName"


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

    @field_validator("words", "avoid")
    @classmethod
    def _words_can_be_found(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            if not is_word(word):
                raise ValueError(f"expected words with a letter or a digit, got {word!r}")
        return words

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
    """A DICOM series as listed, or one of the volumes that it holds.

    `attributes` are the first image's, by keyword, lists joined by a backslash. `part` names the volume where the
    series holds several. `problem` says why it is no volume, `notes` what was left out of it. `content` changes with
    its images, and with how it is listed.
    """

    uid: str
    study: str
    frame: str
    modality: str
    images: int
    number: int = 0
    attributes: Mapping[str, str] = field(default_factory=dict)
    part: str = ""
    problem: str = ""
    notes: tuple[str, ...] = ()
    content: str = ""

    @property
    def key(self) -> str:
        """What tells it from all others: its UID, and its part after `#`."""
        return f"{self.uid}#{self.part}" if self.part else self.uid

    @property
    def name(self) -> str:
        """How to name the series to a person."""
        part = f" [{self.part}]" if self.part else ""
        return f"#{self.number} {self.attributes.get(DESCRIPTION) or '(no description)'}{part}"

    def text(self, keyword: str) -> str:
        """What the scanner's operator wrote there, folded."""
        return folded(self.attributes.get(keyword, ""))


@dataclass(frozen=True)
class Choice:
    """A series, the modality it is taken for (None: not used), the score and the reasons.

    `meant` is the modality that a series would be which cannot be used; `note` is what a person should look at.
    """

    series: Series
    modality: str | None
    score: int
    reasons: tuple[str, ...]
    meant: str = ""
    note: str = ""


class Rated(Protocol):
    """What `assign` needs of a modality; TaskSpec's modalities are such."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Literal["CT", "PET", "MR"]: ...

    @property
    def dicom(self) -> SeriesRules: ...


@dataclass(frozen=True)
class Shared:
    """What all series of one kind in a study say alike, folded: no evidence for one of them. And whether all have an
    agent: then it tells less than a word."""

    texts: frozenset[str] = frozenset()
    agent: bool = False


def shared_by(study: Sequence[Series], modalities: Sequence[Rated]) -> dict[str, Shared]:
    """By DICOM modality. A description counts as shared only if it names several of the task's modalities: of series
    that are copies of each other all say the same, and rightly."""
    result = {}
    for kind in {series.modality for series in study}:
        members = [member for member in study if member.modality == kind and not rule_out(member)]
        if len({member.uid for member in members}) < 2:
            continue
        rules = [modality.dicom.words for modality in modalities if DICOM_MODALITY[modality.kind] == kind]
        protocols = {member.text(PROTOCOL) for member in members}
        descriptions = {member.text(DESCRIPTION) for member in members}
        texts = protocols if len(protocols) == 1 else set()
        if len(descriptions) == 1:
            said = {found(words, *descriptions) for words in rules} - {""}
            texts |= descriptions if len(said) > 1 else set()
        result[kind] = Shared(frozenset(texts), all(_agent(member) for member in members))
    return result


def seconds(time: str) -> float | None:
    """The time of day of a DICOM TM value, HHMMSS.FFFFFF, in seconds since midnight; None if it is none.

    Also that of a DT value: it tells the volumes of a series apart where images have both. One with a zone need not be
    by the clock of the other times: None.
    """
    match = re.fullmatch(r"(?:\d{8})?(\d{2})(\d{2})?(\d{2}(?:\.\d+)?)?", time.replace(":", "").strip())
    return int(match[1]) * 3600 + int(match[2] or 0) * 60 + float(match[3] or 0) if match else None


def number_of(series: Series, keyword: str) -> float | None:
    if keyword == CONTRAST_DELAY:
        began = seconds(series.attributes.get("ContrastBolusStartTime", ""))
        taken = seconds(series.attributes.get("AcquisitionTime", ""))
        # past midnight it counts on
        return None if began is None or taken is None else (taken - began) % 86400
    try:
        return float(series.attributes.get(keyword, "").split("\\")[0])
    except ValueError:
        return None


def _agent(series: Series) -> bool:
    return series.attributes.get("ContrastBolusAgent", "").strip().lower() not in NO_AGENT


def contrast_of(series: Series, shared: Shared = Shared()) -> bool | None:
    """Whether contrast was given; None where nothing says so.

    The description goes first, then the agent, then a mere "pre" of the description, then the protocol. "Pre-op" and
    "post-op" say nothing of contrast.
    """
    texts = [series.text(key) for key in (DESCRIPTION, PROTOCOL)]
    described, protocol = (said_of_contrast("" if text in shared.texts else text) for text in texts)
    given, without, before = described
    if given != without and not (given and before):
        return given
    agent = _agent(series)
    if agent and not (before and shared.agent and not given):
        return True
    if before and not given:
        return False
    given, without, before = protocol
    return given if given != (without or before) else None


def rule_out(series: Series) -> str:
    """Why a series is no image stack of any use; '' if it may be one."""
    kind = series.attributes.get("ImageType", "").upper()
    if series.modality not in DICOM_MODALITY.values():
        return f"{series.modality or 'no modality'} is not an image this app reads"
    # a protocol is named after all that it does: "localizer" there says nothing of this series
    if "LOCALIZER" in kind or found(NOT_AN_IMAGE, series.text(DESCRIPTION)):
        return "localizer"
    frames = int(number_of(series, "NumberOfFrames") or 1)
    if not series.problem and max(series.images, frames) < 2:
        return "one image only"
    if not series.problem and not series.frame:
        return "no FrameOfReferenceUID: it cannot be aligned with other series"
    return ""
