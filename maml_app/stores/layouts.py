"""How folders name cases: one function a layout, each from files to raw cases (id, images, labels).

| layout        | example                                                             |
|---------------|---------------------------------------------------------------------|
| folders, flat | `case/ct.nii.gz`, `case/case_t1ce.nii.gz`, `X_t1ce.nii.gz`          |
| nnU-Net       | `dataset.json`, `imagesTr/X_0000.nii.gz`, `labelsTr/X.nii.gz`       |
| MSD           | `dataset.json`, `imagesTr/X.nii.gz` in 4D, `labelsTr/X.nii.gz`      |
| BIDS          | `sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz`                         |
| datalist      | a JSON file: `{"training": [{"image": [...] or {...}, "label": …}]}`|
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maml_app.cases.case import Case, FileRef, LabelRef, check_id
from maml_app.cases.matching import match, modality_called, stem
from maml_app.cases.spec import TaskSpec
from maml_app.errors import CaseError, StudiesError

LABEL_STORE = "maml_labels"  # what the store keeps beside the cases; never looked into for images
MAX_DEPTH = 6


@dataclass
class _Raw:
    """Files found for one case, before it is known that they fit."""

    images: dict[str, list[FileRef]] = field(default_factory=dict)
    labels: list[tuple[str | None, Path]] = field(default_factory=list)
    patient: str = ""

    def add(self, modality: str, path: Path, channel: int | None = None) -> None:
        self.images.setdefault(modality, []).append(FileRef(path, channel))

    def build(self, case_id: str, spec: TaskSpec) -> Case:
        problems = []
        images: dict[str, FileRef] = {}
        for modality in spec.modality_names:
            refs = sorted(self.images.get(modality, []), key=str)
            if len(refs) > 1:
                problems.append(
                    f"{len(refs)} files for {modality}: {', '.join(ref.path.name for ref in refs)}; keep one"
                )
            if refs:
                images[modality] = refs[0]
        return Case(case_id, images, self._labels(spec, problems), self.patient, tuple(problems))

    def _labels(self, spec: TaskSpec, problems: list[str]) -> tuple[LabelRef, ...]:
        if not self.labels:
            return ()
        order: list[str | None] = [None, *spec.preference]  # a plain `label` first, then the reference's own
        best = min(order.index(modality) for modality, _ in self.labels)
        chosen = sorted(path for modality, path in self.labels if order.index(modality) == best)
        if len(chosen) > 1:
            problems.append(f"{len(chosen)} label files: {', '.join(path.name for path in chosen)}; keep one")
        return (LabelRef(chosen[0], version=0),)


def read_cases(studies: Path, spec: TaskSpec) -> list[Case]:
    """All cases under a folder, or in a datalist JSON, sorted by id; cases without an image are left out.

    Raises:
        StudiesError: the location does not exist, or its dataset.json or datalist cannot be used.
    """
    if studies.is_file():
        raw = _datalist(studies, spec)
    elif not studies.is_dir():
        raise StudiesError(f"{studies}: expected a folder of studies or a datalist JSON, got neither")
    elif (studies / "dataset.json").is_file():
        raw = _dataset_json(studies, spec)
    elif any(entry.is_dir() and re.fullmatch(r"sub-[A-Za-z0-9]+", entry.name) for entry in studies.iterdir()):
        raw = _bids(studies, spec)
    else:
        raw = _folders(studies, spec)
    return [raw[case_id].build(case_id, spec) for case_id in sorted(raw) if raw[case_id].images]


def _images_below(folder: Path, depth: int = 0) -> Iterator[Path]:
    if depth > MAX_DEPTH:
        return
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name.startswith(".") or entry.name == LABEL_STORE:
            continue
        if entry.is_dir():
            yield from _images_below(Path(entry.path), depth + 1)
        elif stem(entry.name) is not None:
            yield Path(entry.path)


def _folders(studies: Path, spec: TaskSpec) -> dict[str, _Raw]:
    """A folder a case at any depth; files at the top are cases by the first part of their names."""
    raw: dict[str, _Raw] = {}
    home: dict[str, Path] = {}
    for path in _images_below(studies):
        name = stem(path.name)
        found = match(name, spec) if name else None
        if found is None:
            continue
        # several prefixes in one folder: flat names there too, as in BraTS archives unpacked into one folder
        case_id = path.parent.name if path.parent != studies else found.prefix
        if not case_id:
            raise StudiesError(
                f"{path}: expected a case id before the modality, as in CASE_{path.name}, or a folder for the case"
            )
        _check(case_id, path)
        if home.setdefault(case_id, path.parent) != path.parent:
            case_id = f"{path.parent.parent.name}_{case_id}"
            _check(case_id, path)
            if home.setdefault(case_id, path.parent) != path.parent:
                raise StudiesError(f"{path.parent}: expected one folder for case {case_id!r}, got also {home[case_id]}")
        case = raw.setdefault(case_id, _Raw())
        if found.role == "label":
            case.labels.append((found.modality, path))
        elif found.modality:
            case.add(found.modality, path)
    return raw


def _check(case_id: str, path: Path) -> None:
    try:
        check_id(case_id)
    except CaseError as error:
        raise StudiesError(f"{path}: {error}; rename it") from None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudiesError(f"{path}: expected JSON, got: {error}") from None


def _dataset_json(studies: Path, spec: TaskSpec) -> dict[str, _Raw]:
    """nnU-Net (a file a channel) and Medical Segmentation Decathlon (one 4D file); told apart by the file names."""
    where = studies / "dataset.json"
    content = _read_json(where)
    names = content.get("channel_names") or content.get("modality") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(str(key).isdigit() for key in names):
        raise StudiesError(f'{where}: expected "channel_names" or "modality" as {{"0": "T1", …}}, got {names!r}')
    channels: dict[int, str] = {}
    for key, name in names.items():
        modality = modality_called(str(name), spec)
        if modality is None:
            raise StudiesError(f"{where}: channel {key}: expected one of {list(spec.modality_names)}, got {name!r}")
        channels[int(key)] = modality
    raw: dict[str, _Raw] = {}
    for images, labels in (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")):
        for path in sorted((studies / images).glob("*.nii*")):
            name = stem(path.name)
            if name is None or name.startswith("."):
                continue
            numbered = re.fullmatch(r"(.+)_(\d{4})", name)
            case_id = numbered[1] if numbered else name
            _check(case_id, path)
            case = raw.setdefault(case_id, _Raw())
            if numbered and int(numbered[2]) in channels:
                case.add(channels[int(numbered[2])], path)
            elif numbered:
                raise StudiesError(
                    f"{path}: expected a channel of {sorted(channels)} in dataset.json, got {numbered[2]}"
                )
            elif len(channels) == 1:
                case.add(channels[0], path)
            else:
                for channel, modality in channels.items():
                    case.add(modality, path, channel)
            for extension in (".nii.gz", ".nii"):
                label = studies / labels / f"{case_id}{extension}"
                if label.is_file() and (None, label) not in case.labels:
                    case.labels.append((None, label))
    return raw


def _bids(studies: Path, spec: TaskSpec) -> dict[str, _Raw]:
    """A case is a subject, or a session of one; labels lie beside the images or under derivatives/."""
    raw: dict[str, _Raw] = {}
    for path in _images_below(studies):
        entities = re.match(r"(sub-[A-Za-z0-9]+)(?:_(ses-[A-Za-z0-9]+))?_", path.name)
        name = stem(path.name)
        found = match(name, spec) if name else None
        if not entities or not found:
            continue
        derived = "derivatives" in path.relative_to(studies).parts
        case = raw.setdefault("_".join(part for part in entities.groups() if part), _Raw(patient=entities[1]))
        if found.role == "label":
            case.labels.append((found.modality, path))
        elif found.modality and not derived:
            case.add(found.modality, path)
    return raw


def _datalist(path: Path, spec: TaskSpec) -> dict[str, _Raw]:
    """A MONAI datalist; `image` is one path, a list in the task's order, or a mapping modality -> path."""
    content = _read_json(path)
    sections = content.values() if isinstance(content, dict) else [content]
    entries = [
        entry for section in sections if isinstance(section, list) for entry in section if isinstance(entry, dict)
    ]
    if not entries:
        raise StudiesError(f'{path}: expected a datalist, {{"training": [{{"image": …, "label": …}}]}}, got no entries')
    raw: dict[str, _Raw] = {}
    for number, entry in enumerate(entries):
        where = f"{path}: entry {number}"
        named = _named_images(entry, spec, where)
        case_id = str(entry.get("id") or _datalist_id(next(iter(named.values())), len(named), spec))
        _check(case_id, path)
        if case_id in raw:
            raise StudiesError(f'{where}: expected one entry for case {case_id!r}, got a second; give each an "id"')
        case = raw.setdefault(case_id, _Raw(patient=str(entry.get("patient", ""))))
        for modality, file in named.items():
            case.add(modality, path.parent / file)
        if entry.get("label"):
            case.labels.append((None, path.parent / str(entry["label"])))
    return raw


def _named_images(entry: dict[str, Any], spec: TaskSpec, where: str) -> dict[str, str]:
    image = entry.get("image")
    if isinstance(image, dict):
        pairs = [(modality_called(str(key), spec), str(key), file) for key, file in image.items()]
    elif isinstance(image, list) and len(image) == len(spec.modalities):
        pairs = [(name, name, file) for name, file in zip(spec.modality_names, image, strict=True)]
    elif isinstance(image, str):
        name = stem(Path(image).name)
        found = match(name, spec) if name else None
        pairs = [(found.modality if found and found.role == "image" else None, image, image)]
    else:
        raise StudiesError(
            f'{where}: expected "image" as a path, a mapping modality -> path, or a list of {len(spec.modalities)} '
            f"({list(spec.modality_names)}), got {image!r}"
        )
    for modality, key, _ in pairs:
        if modality is None:
            raise StudiesError(f"{where}: expected a modality of {list(spec.modality_names)}, got {key!r}")
    return {str(modality): str(file) for modality, _, file in pairs if file}


def _datalist_id(file: str, files: int, spec: TaskSpec) -> str:
    name = stem(Path(file).name) or Path(file).name
    found = match(name, spec)
    if found and found.prefix:
        return found.prefix
    return Path(file).parent.name if files > 1 or found else name
