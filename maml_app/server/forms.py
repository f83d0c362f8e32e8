"""What a request may hold: known keys, their types, ranges and lengths. Anything else is refused."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from fastapi import HTTPException
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from maml_app.cases.history import Proposal, Told
from maml_app.labelling.incoming import Segment as Known
from maml_app.labelling.review import Verdict

DEEPEST = 16  # brackets within brackets in a JSON text
LONGEST_JSON = 1_000_000  # bytes

Text = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Name = Annotated[str, StringConstraints(max_length=100, pattern=r"^[A-Za-z0-9._@ -]+$")]
Printable = StringConstraints(max_length=300, pattern=r"^[\x20-\x7e]*$")
ImageId = Annotated[str, Printable, Field(description="CASE, CASE@MODALITY, or a SeriesInstanceUID")]
LabelId = Annotated[str, Printable, Field(description="CASE, or CASE@TAG-NUMBER")]
Tag = Annotated[str, StringConstraints(max_length=64, pattern=r"^[\x20-\x7e]*$")]
SessionId = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$")]
Uid = Annotated[str, StringConstraints(max_length=64, pattern=r"^[0-9.]+$")]
Device = Annotated[str, StringConstraints(pattern=r"^(cpu|cuda(:\d{1,2})?)?$")]
Voxel = Annotated[list[Annotated[int, Field(ge=0, le=100_000)]], Field(min_length=3, max_length=3)]
Clicks = Annotated[list[Voxel], Field(max_length=1000)]
Point = Annotated[list[Annotated[float, Field(ge=-1e5, le=1e5)]], Field(min_length=3, max_length=3)]


class Form(BaseModel):
    """Base of all: no unknown keys, no NaN, and None is as not given."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    client_id: Text | None = None


class Segment(BaseModel):
    """One segment of a label map as a viewer numbers it; 3D Slicer's scribbles call the number `id`."""

    model_config = ConfigDict(extra="ignore")

    name: Text
    idx: Annotated[int, Field(ge=1, le=255)] | None = Field(None, validation_alias=AliasChoices("idx", "id"))


LabelInfo = Annotated[list[Segment], Field(max_length=255)]


def segments(label_info: list[Segment]) -> list[Known]:
    """What the values of a label map mean; a segment without a number has its place in the list."""
    return [Known(segment.name, segment.idx or number) for number, segment in enumerate(label_info, start=1)]


class Extension(StrEnum):
    """What an answer's label map may be written as; with and without the leading dot."""

    NII_GZ, NII, NRRD = ".nii.gz", ".nii", ".nrrd"


class InferParams(Form):
    """What a segmentation may be told. Keys of stock clients that change nothing here are taken and not used."""

    result_extension: Extension = Extension.NII_GZ
    result_compress: bool = True
    grid: Text = "reference"
    convention: Text = "task"
    device: Device = ""
    save_label: bool = False

    result_dtype: Text = ""
    restore_label_idx: bool = False
    largest_cc: bool = False
    logging: Text = ""
    label_tag: Text = ""
    label: Text | None = None
    label_info: LabelInfo = []
    selected_label_name: Text = ""
    foreground: Clicks = []
    background: Clicks = []
    roi: Annotated[list[int], Field(max_length=6)] | Text = ""
    reset_state: bool = False

    @field_validator("grid", "convention", "device", "logging", mode="before")
    @classmethod
    def _first(cls, value: object) -> object:
        """Some clients send the whole list of choices back, the chosen one first."""
        return value[0] if isinstance(value, list) and value else value

    @field_validator("result_extension", mode="before")
    @classmethod
    def _dotted(cls, value: object) -> object:
        return f".{value}" if isinstance(value, str) and value and not value.startswith(".") else value or ".nii.gz"

    def task_request(self) -> dict[str, Any]:
        """What the infer task reads."""
        names = {"grid", "convention", "device", "result_extension", "foreground", "background", "label"}
        names |= {"selected_label_name", "label_info"}
        return self.model_dump(mode="json", include=names) | {"result_compress": self.result_compress}


class PromptParams(BaseModel):
    """A click or scribble: its points in mm of the patient (LPS, as DICOM), and whether the label is there."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    path: Annotated[list[Point], Field(min_length=1, max_length=500)]
    inside: bool


class CorrectParams(Form):
    """What a correction may be told: the label that is mended, its prompts, the newest last, and who answers them."""

    label: Text
    by: Literal["maml", "nninteractive"] = "maml"
    prompts: Annotated[list[PromptParams], Field(min_length=1, max_length=200)]


class TrainParams(Form):
    """What a training may be told."""

    model: Text | None = None
    name: Text | None = None
    steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    warm_start: bool | None = None
    multi_gpu: bool | None = None
    gpus: Annotated[str, StringConstraints(pattern=r"^(all|\d{1,2}(,\d{1,2})*)$")] | None = None
    device: Device | None = None
    processes: Annotated[int, Field(ge=1, le=os.cpu_count() or 1)] | None = None

    @field_validator("device", "gpus", mode="before")
    @classmethod
    def _first(cls, value: object) -> object:
        return value[0] if isinstance(value, list) and value else value


class NextParams(Form):
    """What a strategy may be told."""

    strategy: Text | None = None
    count: Annotated[int, Field(ge=1, le=1000)] = 1
    skip: Annotated[str, StringConstraints(max_length=300, pattern=r"^[\x20-\x7e]*$")] | None = None


class LabelParams(Form):
    """What may be told about a label that is saved."""

    label_info: LabelInfo = []
    author: Text | None = None
    drawn: Annotated[str, StringConstraints(pattern=r"^(MANUAL|SEMIAUTOMATIC|AUTOMATIC)$")] | None = None
    model_version: Text | None = None
    comment: Annotated[str, StringConstraints(max_length=2000)] | None = None
    parent: Text | None = None
    proposal: Text | None = None
    seconds: Annotated[float, Field(ge=0, le=1e7)] | None = None
    nothing_there: bool = False

    def told(self, user: str) -> Told:
        """What is kept with the label; `user` is who is logged in, '' if nobody has to."""
        return Told(
            author=user or self.author or "",
            client=self.client_id or "",
            parent=(self.parent or "").rpartition("@")[2],
            proposal=Proposal(model=self.model_version or "", content=self.proposal or ""),
            drawn=self.drawn or "",
            seconds=self.seconds,
            comment=self.comment or "",
        )


class Judgement(Form):
    """What someone says of a label."""

    verdict: Verdict
    comment: Annotated[str, StringConstraints(max_length=2000)] = ""


class SegmentationMeta(Form):
    """A review as 3D Slicer's reviewer tells it."""

    model_config = ConfigDict(extra="ignore")

    status: Annotated[str, StringConstraints(max_length=50)] = ""
    level: Text = ""
    approvedBy: Text = ""
    comment: Annotated[str, StringConstraints(max_length=2000)] = ""

    def verdict(self) -> Verdict | None:
        """What it says of the label; None while nothing is said."""
        return {"approved": Verdict.APPROVE, "flagged": Verdict.REJECT}.get(self.status.lower())


class ReviewInfo(Form):
    """What `PUT /datastore/label/info` may hold."""

    model_config = ConfigDict(extra="ignore")

    segmentationMeta: SegmentationMeta = SegmentationMeta()


class Choice(Form):
    """Whether a label that waits for a decision is to count; `replaces`: the newest one, as the person knows it."""

    keep: bool
    replaces: Annotated[str, Field(max_length=200)] = ""


class Notes(BaseModel):
    """Notes of a client about a case; `strategy` and `skipped` are the server's own."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    __pydantic_extra__: dict[
        Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")],
        Annotated[str, StringConstraints(max_length=2000)] | int | float | bool | None,
    ]

    @model_validator(mode="before")
    @classmethod
    def _not_ours(cls, value: object) -> object:
        if isinstance(value, dict):
            if {"strategy", "skipped"} & set(value):
                raise ValueError("strategy and skipped are the server's own and cannot be set")
            if len(value) > 50:
                raise ValueError("expected at most 50 notes")
        return value


M = TypeVar("M", bound=BaseModel)


def depth(text: str | bytes) -> int:
    """How deep brackets lie within brackets; those in quotes count too: a first look, before the parser's own bound."""
    raw = text.encode() if isinstance(text, str) else text
    deepest = here = 0
    for byte in raw:
        if byte in b"[{":
            here += 1
            deepest = max(deepest, here)
        elif byte in b"]}":
            here -= 1
    return deepest


def parsed(text: str, form: type[M], where: str) -> M:
    """A JSON mapping in a form field, checked.

    Raises:
        HTTPException: 400 it is no JSON mapping, 422 it holds what `form` does not allow; each with one sentence.
    """
    try:
        if len(text) > LONGEST_JSON or depth(text) > DEEPEST:
            raise ValueError
        content = json.loads(text or "{}")
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise HTTPException(400, f"expected {where} as a JSON mapping, got {text[:60]!r}")
    try:
        return form.model_validate(content)
    except ValidationError as error:
        raise HTTPException(422, sentence(error.errors(), where)) from None


def sentence(errors: Any, where: str = "") -> str:
    """What is wrong with a request, at most three things."""
    told = []
    for error in list(errors)[:3]:
        place = ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "path")) or where
        if error["type"] == "extra_forbidden":
            told.append(f"{place}: no such key")
        elif error["type"] == "missing":
            told.append(f"{place}: it is missing")
        else:
            told.append(f"{place}: {error['msg']}, got {repr(error.get('input'))[:60]}")
    return "; ".join(told)
