"""Which modality, or the label, a file is: rules on the ending of its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from maml_app.cases.spec import TaskSpec

EXTENSIONS = (".nii.gz", ".nii")
DICOM = (".dcm", ".dicom", ".ima")
OTHERS = (
    *DICOM, ".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd", ".img.gz", ".hdr.gz", ".img", ".hdr", ".mgz", ".mgh", ".mnc",
    ".mnc.gz", ".gipl", ".gipl.gz", ".nii.bz2", ".nii.zst", ".nii.xz", ".nii.zip", ".brik", ".head", ".brik.gz", ".par",
    ".rec",
)  # fmt: skip


# lie beside images and are none
SIDECARS = {
    ".json", ".txt", ".csv", ".tsv", ".yaml", ".yml", ".xml", ".md", ".log", ".html", ".pdf", ".bval", ".bvec", ".mat",
}  # fmt: skip
ANATOMY = {
    "brain", "bet", "brainmask", "skull", "head", "face", "body", "tissue", "tissues", "gm", "wm", "csf", "parc",
    "aparc", "aseg", "wmparc", "parcellation", "synthseg", "ventricle", "ventricles", "hippocampus",
}  # fmt: skip


@dataclass(frozen=True)
class Match:
    """What a file name says: its role, the modality it shows (or was drawn on), and the case part of its name."""

    role: Literal["image", "label"]
    modality: str | None
    prefix: str


def stem(file_name: str) -> str | None:
    """The name without an image extension, or None if it is no NIfTI file."""
    for extension in EXTENSIONS:
        if file_name.lower().endswith(extension):
            return file_name[: -len(extension)]
    return None


def other_format(file_name: str) -> tuple[str, str] | None:
    """The name without its ending, and the ending, of a file in another image format; None if it is none."""
    for extension in sorted(OTHERS, key=len, reverse=True):
        if file_name.lower().endswith(extension):
            return file_name[: -len(extension)], extension
    return None


@lru_cache(maxsize=1 << 16)
def _tokens(text: str) -> str:
    return re.sub(r"[\s_.\-]+", "_", text.lower()).strip("_")


def _ending(name: str, pattern: str) -> int | None:
    """Where the pattern starts if the name ends with it as whole tokens, else None. Separators are alike."""
    found = _expression(pattern).search(name)
    return found.start() if found else None


@lru_cache(maxsize=1024)
def _expression(pattern: str) -> re.Pattern[str]:
    tokens = "[\\s_.\\-]+".join(re.escape(token) for token in _tokens(pattern).split("_"))
    return re.compile(rf"(?:^|[\s_.\-]+)({tokens})$", re.IGNORECASE)


def match(name: str, spec: TaskSpec) -> Match | None:
    """Match a file name without extension against the task's rules; the longest ending wins; None if none fits.

    `label`, `case_seg` are labels; `label_ct` is a label drawn on the CT; `ct`, `case_t1ce` are images.
    """
    best: tuple[int, Match] | None = None
    for modality in spec.modalities:
        for pattern in modality.files:
            start = _ending(name, pattern)
            if start is None:
                continue
            found = Match("image", modality.name, name[:start])
            on_label = _label_start(name[:start], spec)
            if on_label is not None:
                found = Match("label", modality.name, name[:on_label])
            length = len(_tokens(pattern))
            if best is None or length > best[0]:
                best = (length, found)
    if best:
        return best[1]
    start = _label_start(name, spec)
    return None if start is None else Match("label", None, name[:start])


def _label_start(name: str, spec: TaskSpec) -> int | None:
    starts = [start for pattern in spec.label_files if (start := _ending(name, pattern)) is not None]
    return min(starts) if starts else None


def looks_like_label(name: str) -> bool:
    """Whether a name that no rule knows has a word for a label in it, as `CASE_seg-reader1`."""
    words = {word.rstrip("0123456789") for word in _tokens(name).split("_")}
    return bool(words & {"label", "labels", "seg", "segmentation", "mask", "gt", "dseg", "lesion", "tumor", "tumour"})


def shows_anatomy(name: str) -> bool:
    """Whether a name says that a mask is of the brain, a tissue or the body, which is no label of a lesion."""
    words = set(_tokens(name).split("_"))
    return bool(words & ANATOMY)


def modality_called(name: str, spec: TaskSpec) -> str | None:
    """The modality that a dataset.json channel or a datalist key means, by name or file pattern."""
    key = _tokens(name)
    for modality in spec.modalities:
        if key in {_tokens(modality.name), *(_tokens(pattern) for pattern in modality.files)}:
            return modality.name
    return None
