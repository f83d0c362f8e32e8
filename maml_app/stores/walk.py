"""Every file below a studies folder that looks like an image: the NIfTI files, and why others are not read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from maml_app.cases.matching import DICOM, SIDECARS, match, other_format, stem
from maml_app.stores.gather import Gathering

LABEL_STORE = "maml_labels"  # what the store keeps beside the cases; never looked into for images
MAX_DEPTH = 8
JUNK = {"__macosx", "lost+found", "$recycle.bin", "system volume information"}


def nifti_below(studies: Path, gathering: Gathering) -> list[Path]:
    """All NIfTI files, sorted; hidden ones are left out, and everything else is noted as not used."""
    return list(_below(studies, gathering, 0, {studies.resolve()}))


def _below(folder: Path, gathering: Gathering, depth: int, seen: set[Path]) -> Iterator[Path]:
    gathering.looked.at(folder)
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        gathering.skip(folder, f"the folder cannot be read ({error.strerror})")
        return
    for entry in found:
        path = Path(entry.path)
        if entry.name.startswith(".") or entry.name == LABEL_STORE or entry.name.lower() in JUNK:
            continue
        if entry.is_dir():
            yield from _folder(path, gathering, depth, seen)
        elif stem(entry.name) is not None:
            yield path
        else:
            _tell_format(path, gathering)


def _folder(path: Path, gathering: Gathering, depth: int, seen: set[Path]) -> Iterator[Path]:
    if path.is_symlink():
        target = path.resolve()
        # a copy of what is listed anyway, or a loop
        if target in seen or target.is_relative_to(gathering.root.resolve()):
            gathering.skip(path, "a link to a folder that is listed already", wrong=False)
            return
        seen.add(target)
    if depth >= MAX_DEPTH:
        if next(path.rglob("*.nii*"), None):
            gathering.skip(path, f"folders deeper than {MAX_DEPTH} are not looked into; move the cases up")
        return
    yield from _below(path, gathering, depth + 1, seen)


def _tell_format(path: Path, gathering: Gathering) -> None:
    other = other_format(path.name)
    if other is None:
        if not path.suffix and _is_dicom(path):
            _tell_dicom(path, gathering)
        elif path.suffix.lower() not in SIDECARS:
            _tell_unknown(path, gathering)
        return
    name, ending = other
    if ending in DICOM:
        _tell_dicom(path, gathering)
        return
    known = match(name, gathering.spec) is not None
    gathering.skip(path, f"{ending} is not read; convert it to .nii.gz", wrong=known)


def _tell_unknown(path: Path, gathering: Gathering) -> None:
    """Note a file called like an image or a label, with an ending that nobody expects: t1.nii.gz.part, t1.npy."""
    name, *endings = path.name.split(".")
    was_nifti = any(ending.lower().startswith("nii") for ending in endings)
    if endings and (was_nifti or match(name, gathering.spec) is not None):
        gathering.skip(path, f".{'.'.join(endings)} is not read; expected .nii or .nii.gz", wrong=was_nifti)


def _tell_dicom(path: Path, gathering: Gathering) -> None:
    gathering.skip(path, "DICOM is read from an archive (see scripts/pacs); else convert it to .nii.gz", wrong=False)


def _is_dicom(path: Path) -> bool:
    """Whether a file without an ending is a DICOM file, by its preamble (PS3.10 section 7.1)."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
