"""BIDS: a case is a subject, or a session of one. Labels lie beside the images, or under derivatives/.

A label is `…_dseg`, or `…_mask` of a lesion (`label-lesion`, `desc-tumor`): what says `desc-` or `label-` of something
else is none, nor is what comes from a program that segments the anatomy. A `dseg.tsv` tells what the values mean.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from maml_app.cases.matching import Match, match, stem
from maml_app.cases.patients import patient_of
from maml_app.cases.spec import TaskSpec
from maml_app.cases.values import Meaning, named_meaning
from maml_app.errors import LabelError
from maml_app.stores.gather import Gathering, Labelling

CONTRAST = "ce_gd"  # how task files call a suffix with contrast, whatever the agent: its name is free in BIDS
PARTS = ("phase", "real", "imag")  # of a complex image; the magnitude is what programs expect
SUBJECT = re.compile(r"(sub-[A-Za-z0-9]+)(?:_(ses-[A-Za-z0-9]+))?_")
LESION = re.compile(r"lesion|tumou?r|gtv|core|oedema|edema|metasta", re.IGNORECASE)
ANATOMY = ("prep", "freesurfer", "fastsurfer", "mriqc", "cat12", "spm", "ants", "synthseg", "hd-bet", "anat", "samseg")


def is_bids(studies: Path) -> bool:
    return any(entry.is_dir() and re.fullmatch(r"sub-[A-Za-z0-9]+", entry.name) for entry in studies.iterdir())


def read_bids(files: Sequence[Path], gathering: Gathering) -> list[Path]:
    """Find the cases among files with BIDS names; returns the files with other names."""
    others = []
    for path in files:
        entities = SUBJECT.match(path.name)
        if not entities:
            others.append(path)
            continue
        name = stem(path.name) or ""
        found = _shown(name, gathering.spec)
        if not found:
            gathering.skip_unknown(path)
            continue
        part = _entities(name).get("part", "")
        if found.role == "image" and part in PARTS:
            gathering.skip(path, f"the {part} of an image, and not its magnitude", wrong=False)
            continue
        names = [part for part in entities.groups() if part]
        case = gathering.case(
            "_".join(names), "/".join(names), patient_of(names, gathering.spec.patient, "_".join(names))
        )
        above = path.relative_to(gathering.root).parts
        pipeline = above[1] if above[0] == "derivatives" and len(above) > 2 else ""
        if found.role == "label":
            reason = _no_label(name, pipeline)
            if reason:
                gathering.skip(path, reason, wrong=False)
            else:
                rank = 1 if pipeline else 0
                case.labels.append(Labelling(path, found.modality, rank, _meaning(path, gathering)))
        elif above[0] == "derivatives":
            gathering.skip(path, "images under derivatives/ are not used", wrong=False)
        elif found.modality:
            case.add(found.modality, path)
    return others


def _entities(name: str) -> dict[str, str]:
    return dict(part.split("-", 1) for part in name.split("_") if "-" in part)


def _shown(name: str, spec: TaskSpec) -> Match | None:
    """What a file is; the entity `ce` counts, whatever it says and wherever it stands."""
    found, suffix = match(name, spec), name.rsplit("_", 1)[-1]
    if found and found.role == "image" and "ce" in _entities(name):
        plain = match(suffix, spec)
        if plain and plain.modality == found.modality:  # no rule of the task looked at it
            return match(f"{CONTRAST}_{suffix}", spec)
    return found


def _no_label(name: str, pipeline: str) -> str:
    """Why a file that ends as a label is none; '' if it is one."""
    said = _entities(name)
    of = " ".join(said.get(key, "") for key in ("desc", "label")).strip()
    if LESION.search(of):
        return ""
    if of:
        return f"a mask of {of}, which is no label of a lesion"
    if name.endswith("_mask") and pipeline:
        return "a mask that does not say of what: expected label-lesion or desc-tumor in its name"
    if any(word in pipeline.lower() for word in ANATOMY):
        return f"{pipeline} segments the anatomy: this is no label of a lesion"
    return ""


def _meaning(path: Path, gathering: Gathering) -> Callable[[], Meaning] | None:
    """By the dseg.tsv beside the file, or the nearest one above it."""
    beside = path.with_name(f"{stem(path.name)}.tsv")
    above = [folder / "dseg.tsv" for folder in path.parents if folder.is_relative_to(gathering.root)]
    for table in (beside, *above):
        if table.is_file():
            return partial(read_table, table, gathering.spec)
    return None


def read_table(table: Path, spec: TaskSpec) -> Meaning:
    """What a dseg.tsv says: columns `index` and `name`.

    Raises:
        LabelError: it has other columns, or cannot be read.
    """
    try:
        with table.open(encoding="utf-8", newline="") as file:
            names = {row["name"]: int(row["index"]) for row in csv.DictReader(file, delimiter="\t")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabelError(f"{table}: expected columns index and name, got: {error!r}") from None
    return named_meaning(names, spec, str(table))
