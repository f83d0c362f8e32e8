"""Folders of cases, at any depth: the id of a case is made of its own path and file names alone.

The folders' names, outermost first and joined by `_`, and what stands before the modality in the files' names. Left out
are folders that only sort (`training`, `HGG`) or say what is in them (`images`, `labels`, `anat`, `CT`).

| file                             | case                | patient |
|----------------------------------|---------------------|---------|
| `P1/t1.nii.gz`, `P1/P1_t1…`      | `P1`                | `P1`    |
| `P1/anat/t1…`, `P1/labels/label…`| `P1`                | `P1`    |
| `HGG/P1/P1_t1…`                  | `P1`                | `P1`    |
| `P1/2020-01-01/t1…`, `P1/2020-01-01/P1_t1…` | `P1_2020-01-01` | `P1` |
| `P1/P1_2020-01-01_t1…`           | `P1_2020-01-01`     | `P1`    |
| `P1_t1…`, `training/P1_t1…`      | `P1`                | `P1`    |
| `siteA/P1/t1…`                   | `siteA_P1`          | `siteA_P1` |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maml_app.cases.matching import match, modality_called, stem
from maml_app.cases.patients import is_time, patient_of
from maml_app.stores.gather import Gathered, Gathering, Labelling

SORTING = {
    "train", "training", "trainingdata", "val", "valid", "validation", "validationdata", "test", "testing", "testdata",
    "data", "dataset", "datasets", "studies", "cases", "patients", "subjects", "hgg", "lgg", "labelled", "labeled",
    "unlabelled", "unlabeled",
}  # fmt: skip
IMAGES = {"image", "images", "imgs", "img", "imagestr", "imagests", "nifti", "nii", "anat", "mr", "mri", "scans"}
LABELS = {
    "label", "labels", "labelstr", "labelsts", "seg", "segs", "segmentation", "segmentations", "mask", "masks", "gt",
    "groundtruth", "annotation", "annotations",
}  # fmt: skip
Cases = dict[tuple[str, ...], set[tuple[str, ...]]]  # home -> the names of the cases there
NO_NAME = "no case by its name: expected CASE_ before the modality, or a folder for the case"


@dataclass(frozen=True)
class _File:
    """One file whose name the task knows, and what stands before the modality in it.

    `folders` are those that make the id; `home` has those that sort as well: one case lies in one.
    """

    path: Path
    home: tuple[str, ...]
    folders: tuple[str, ...]
    prefix: str
    modality: str | None
    is_label: bool

    @property
    def names(self) -> tuple[str, ...]:
        return naming(self.folders, self.prefix)[0]

    @property
    def is_the_folders(self) -> bool:
        """Whether the prefix adds nothing to the folder's name: the folder is one case."""
        return naming(self.folders, self.prefix)[1]

    @property
    def is_of_another_time(self) -> bool:
        """Whether the prefix is the folder's name and a point in time: P1/P1_2020-01-01_t1."""
        if not self.folders or not _begins(self.prefix, self.folders[-1]):
            return False
        return is_time(self.prefix[len(self.folders[-1]) + 1 :])


def naming(folders: tuple[str, ...], prefix: str) -> tuple[tuple[str, ...], bool]:
    """The names that make a case's id, and whether its folder is one case (else one of several by their prefixes)."""
    if not prefix:
        return folders, True
    if not folders:
        return (prefix,), False
    last = folders[-1]
    if _same(prefix, last) and not is_time(prefix):  # the name is said twice, so it is enough
        return (prefix,), True
    if any(_same(prefix, word) for word in (*folders, "_".join(folders))) or _begins(last, prefix):
        return folders, True
    if _begins(prefix, last):
        return (*folders[:-1], prefix), False
    return (*folders, prefix), False


def _begins(name: str, other: str) -> bool:
    return re.match(rf"{re.escape(other)}[-_. ]", name, re.IGNORECASE) is not None


def _same(word: str, other: str) -> bool:
    return re.sub(r"[-_. ]+", "_", word).lower() == re.sub(r"[-_. ]+", "_", other).lower()


def read_folders(files: Sequence[Path], gathering: Gathering) -> None:
    """Find the cases among NIfTI files by the rules above."""
    known = [file for path in files if (file := _known(path, gathering)) is not None]
    images, labels = ([file for file in known if file.is_label == wanted] for wanted in (False, True))
    whole = {file.home for file in images if file.is_the_folders and file.folders}
    cases: Cases = {}
    for file in images:
        if not file.names:
            gathering.skip(file.path, NO_NAME)
        elif file.home in whole and not (file.is_the_folders or file.is_of_another_time):
            gathering.skip(
                file.path,
                f"it begins with {file.prefix!r} and other images of its folder do not: one case, or two? Name it "
                f"{file.modality}.nii.gz, or give it a folder of its own",
            )
        else:
            cases.setdefault(file.home, set()).add(file.names)
            _case(file.home, file.names, gathering).add(str(file.modality), file.path)
    for file in labels:
        _add_label(file, cases, gathering)


def _add_label(file: _File, cases: Cases, gathering: Gathering) -> None:
    names, home, there = file.names, file.home, cases.get(file.home, set())
    if not file.prefix and len(there) == 1:  # label.nii.gz beside X_t1.nii.gz
        (names,) = there
    elif names not in there:  # labels/X.nii.gz for X/t1.nii.gz
        homes = [other for other, held in cases.items() if names in held]
        home = homes[0] if len(homes) == 1 else home
    if names:
        _case(home, names, gathering).labels.append(Labelling(file.path, file.modality))
    else:
        gathering.skip(file.path, NO_NAME)


def _known(path: Path, gathering: Gathering) -> _File | None:
    spec = gathering.spec
    above = path.parent.relative_to(gathering.root).parts
    in_labels = any(part.lower() in LABELS for part in above)
    home = tuple(part for part in above if not _says_what(part, gathering))
    folders = tuple(part for part in home if part.lower() not in SORTING)
    name = stem(path.name) or ""
    found = match(name, spec)
    if found is None and in_labels:  # labels/CASE.nii.gz
        return _File(path, home, folders, name, None, True)
    if found is None:
        gathering.skip_unknown(path)
        return None
    return _File(path, home, folders, found.prefix, found.modality, in_labels or found.role == "label")


def _says_what(part: str, gathering: Gathering) -> bool:
    """Whether a folder's name says what lies in it, and nothing of whose case it is."""
    return part.lower() in IMAGES | LABELS or modality_called(part, gathering.spec) is not None


def _case(home: tuple[str, ...], names: tuple[str, ...], gathering: Gathering) -> Gathered:
    case_id = "_".join(names)
    return gathering.case(case_id, "/".join(home), patient_of(names, gathering.spec.patient, case_id))
