"""The task: a task.yaml, validated, with errors that name file, key, expected and got."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from maml_app.cases.recipe import Preprocess, Review, Training
from maml_app.cases.series import SeriesRules
from maml_app.cases.unique import load_yaml
from maml_app.errors import TaskSpecError
from maml_app.network.settings import Network, Positive, Strict

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
OWN = "task"  # names the task's own values beside its conventions
LABEL_FILES = (
    *("label", "labels", "seg", "segm", "segmentation", "mask", "gt", "dseg"),
    *(f"{what}_{kind}" for what in ("tumor", "tumour", "lesion") for kind in ("seg", "segmentation", "mask", "label")),
)


def plain(name: str) -> str:
    """A name without case, separators and the spellings that differ: `Tumor core` is `tumour_core`."""
    key = re.sub(r"[^a-z0-9]+", "", name.lower())
    return key.replace("tumour", "tumor").replace("oedema", "edema")


class Modality(Strict):
    """One image series of a case: its name, how it is normalised, and how its files are called."""

    name: Name
    kind: Literal["CT", "PET", "MR"]
    files: tuple[str, ...] = Field(min_length=1, description="file-name endings, without extension")
    window: tuple[float, float] | None = Field(default=None, description="CT only: HU range mapped to -1..1")
    dicom: SeriesRules = Field(default=SeriesRules(), description="how its DICOM series is told from others")

    @model_validator(mode="after")
    def _window_fits_kind(self) -> Modality:
        if self.kind == "CT" and self.window is None:
            raise ValueError("a CT modality needs window: [low, high] in HU")
        if self.kind != "CT" and self.window is not None:
            raise ValueError(f"window is for CT only, this modality is {self.kind}")
        if self.window and self.window[0] >= self.window[1]:
            raise ValueError(f"window must rise, got {list(self.window)}")
        return self


class Code(Strict):
    """A coded concept, DICOM PS3.3 section 8.8: for SNOMED CT the scheme is SCT."""

    value: str
    meaning: str
    scheme: str = "SCT"


class Label(Strict):
    """One structure of the label map: its mask value, colour and SNOMED CT category and type."""

    name: Name
    value: Annotated[int, Field(ge=1, le=255)]
    colour: tuple[
        Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
    ]
    category: Code
    type: Code
    aliases: tuple[str, ...] = Field(default=(), description="other names under which viewers may send it")


class Region(Strict):
    """A union of labels that is scored as one, as BraTS' nested WT, TC and ET."""

    name: Name
    labels: tuple[str, ...] = Field(min_length=1)
    aliases: tuple[str, ...] = Field(default=(), description="other names, as in the labels of a dataset.json")


class Convention(Strict):
    """How others number the labels: their mask values -> this task's; values that are missing cannot be used.

    `ids`: cases whose whole id matches (a regular expression) are in this convention, and no others.
    """

    values: dict[int, int] = Field(default={})
    ids: str = ""

    @field_validator("ids")
    @classmethod
    def _compiles(cls, ids: str) -> str:
        try:
            re.compile(ids)
        except re.error as error:
            raise ValueError(f"ids must be a regular expression: {error}") from None
        return ids


class TaskSpec(Strict):
    """A clinical task: its modalities, labels, and how it is learned. Axis order is X, Y, Z throughout."""

    name: Name
    title: str
    description: str = ""
    modalities: tuple[Modality, ...] = Field(min_length=1, max_length=8)
    reference: str = Field(description="the modality on whose axes and extent the network works when it is there")
    labels: tuple[Label, ...] = Field(min_length=1)
    regions: tuple[Region, ...] = ()
    surface_tolerance_mm: Positive = Field(default=2.0, description="of the normalised surface Dice")
    label_files: tuple[str, ...] = LABEL_FILES
    conventions: dict[str, Convention] = Field(default={}, description="other archives' mask values -> this task's")
    convention: str = Field(
        default="", description="in which of them the studies' label files are, or `task`; told by names and values"
    )
    patient: str = Field(default="", description="regular expression: its first group in a case's id is the patient")
    review: Review = Review()
    preprocess: Preprocess
    network: Network = Network()
    training: Training = Training()

    @field_validator("labels")
    @classmethod
    def _labels_count_from_one(cls, labels: tuple[Label, ...]) -> tuple[Label, ...]:
        values = [label.value for label in labels]
        if values != list(range(1, len(values) + 1)):
            raise ValueError(f"label values must be 1..{len(values)} in order, each once, got {values}")
        return labels

    @field_validator("conventions", mode="before")
    @classmethod
    def _values_alone(cls, conventions: object) -> object:
        """A convention may be written as its values alone."""
        if not isinstance(conventions, dict):
            return conventions
        plain = [
            name
            for name, convention in conventions.items()
            if isinstance(convention, dict) and not {"values", "ids"} & set(convention)
        ]
        return {
            name: {"values": convention} if name in plain else convention for name, convention in conventions.items()
        }

    @field_validator("patient")
    @classmethod
    def _has_a_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"patient must be a regular expression: {error}") from None
        if pattern and groups < 1:
            raise ValueError(f"patient must have a group for the patient, as in ^(P[0-9]+), got {pattern!r}")
        return pattern

    @model_validator(mode="after")
    def _names_fit(self) -> TaskSpec:
        for what, names in (
            ("modality", [m.name for m in self.modalities]),
            ("label", [label.name for label in self.labels]),
            ("region", [r.name for r in self.regions]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what} name {twice[0]!r} is used more than once")
        if self.reference not in self.modality_names:
            raise ValueError(f"reference must be one of {list(self.modality_names)}, got {self.reference!r}")
        known = {label.name for label in self.labels}
        for region in self.regions:
            unknown = sorted(set(region.labels) - known)
            if unknown:
                raise ValueError(
                    f"region {region.name!r} names the unknown label {unknown[0]!r}; known: {sorted(known)}"
                )
        return self

    @model_validator(mode="after")
    def _conventions_fit(self) -> TaskSpec:
        for name, convention in self.conventions.items():
            mapping = convention.values
            wrong = sorted(set(mapping.values()) - set(self.label_values))
            if wrong or len(set(mapping.values())) != len(mapping):
                raise ValueError(f"convention {name!r} must map each file value to one label value, got {mapping}")
        if self.convention not in ("", OWN, *self.conventions):
            raise ValueError(f"convention must be one of {[OWN, *self.conventions]}, got {self.convention!r}")
        return self

    @model_validator(mode="after")
    def _training_fits(self) -> TaskSpec:
        loss = self.training.loss
        if not loss.fused and (self.network.kind != "maml" or not loss.experts):
            raise ValueError(
                "training.loss.fused may be 0 only where experts are trained (kind: maml, loss.experts > 0)"
            )
        sides = zip(self.training.patch, self.network.divisor, strict=True)
        if any(side % divisor for side, divisor in sides):
            raise ValueError(
                f"training.patch {list(self.training.patch)} must be divisible by the product of network.stem and "
                f"network.strides, {list(self.network.divisor)}"
            )
        return self

    @property
    def modality_names(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.modalities)

    @property
    def label_values(self) -> dict[int, str]:
        """Mask value -> label name, background left out."""
        return {label.value: label.name for label in self.labels}

    @property
    def classes(self) -> int:
        """Number of output channels K, background included."""
        return len(self.labels) + 1

    @property
    def scored(self) -> dict[str, tuple[int, ...]]:
        """What is scored: regions if the task has them, else its labels; name -> mask values."""
        if not self.regions:
            return {label.name: (label.value,) for label in self.labels}
        value = {label.name: label.value for label in self.labels}
        return {region.name: tuple(value[name] for name in region.labels) for region in self.regions}

    @property
    def guessable(self) -> dict[str, dict[int, int]]:
        """File value -> the task's, of the conventions that values alone may tell: those that are not known by ids."""
        return {name: convention.values for name, convention in self.conventions.items() if not convention.ids}

    @property
    def writable(self) -> tuple[str, ...]:
        """The conventions that have a value for every label."""
        labels = set(self.label_values)
        return tuple(name for name, convention in self.conventions.items() if set(convention.values.values()) == labels)

    @property
    def preference(self) -> tuple[str, ...]:
        """Modalities in the order in which they lend a case their frame: the reference, then as listed."""
        return (self.reference, *(name for name in self.modality_names if name != self.reference))

    def value_of(self, name: str) -> int | None:
        """Mask value of a label by its name or an alias, case and separators ignored; None if unknown."""
        for label in self.labels:
            if plain(name) in map(plain, (label.name, *label.aliases)):
                return label.value
        return None

    def signature(self) -> str:
        """What a checkpoint must share with the task to be usable: modalities, labels, grid and network."""
        parts = (
            self.name,
            [(m.name, m.kind, m.window) for m in self.modalities],
            [(label.name, label.value) for label in self.labels],
            self.preprocess.spacing_mm,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def parse_task(text: str, where: str) -> TaskSpec:
    """Validate the text of a task.yaml; `where` is named in the error.

    Raises:
        TaskSpecError: not YAML, not a mapping, or a key that is unknown, missing, wrong, or there twice.
    """
    try:
        content = load_yaml(text)
    except yaml.YAMLError as error:
        raise TaskSpecError(f"{where}: expected YAML, got text that does not parse: {error}") from None
    if not isinstance(content, dict):
        raise TaskSpecError(f"{where}: expected a mapping of keys, got {type(content).__name__}")
    try:
        return TaskSpec.model_validate(content)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
            got = "" if item["type"] in ("missing", "value_error") else f", got {item['input']!r:.80}"
            lines.append(f"{where}: {key}: {item['msg']}{got}")
        raise TaskSpecError("\n".join(lines)) from None


def load_task(path: Path) -> TaskSpec:
    """Read and validate a task.yaml (a folder means the task.yaml in it).

    Raises:
        TaskSpecError: the file is missing or does not validate.
    """
    path = path / "task.yaml" if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskSpecError(f"{path}: expected a task.yaml that can be read, got: {error}") from None
    return parse_task(text, str(path))
