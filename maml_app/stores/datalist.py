"""A MONAI datalist: a JSON file {"training": [{"image": …, "label": …}]}; an entry that cannot be used costs itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maml_app.cases.case import check_id
from maml_app.cases.matching import match, modality_called, stem
from maml_app.cases.patients import patient_of
from maml_app.cases.spec import TaskSpec
from maml_app.errors import CaseError, StudiesError
from maml_app.stores.datasets import read_json
from maml_app.stores.gather import Gathering, Labelling

HELD_OUT_SECTIONS = ("validation", "test", "testing")


def read_datalist(path: Path, gathering: Gathering) -> None:
    """Find the cases; `image` is one path, a mapping modality -> path, or a list: each file is what its name says, or,
    where the names say nothing, what stands there in the task.

    Raises:
        StudiesError: the file holds no entries, or none that can be used.
    """
    content = read_json(path)
    sections = content if isinstance(content, dict) else {"": content}
    entries = [
        (f"{path.name}: entry {number}" + (f" of {section}" if section else ""), section in HELD_OUT_SECTIONS, entry)
        for section, listed in sections.items()
        if isinstance(listed, list) and section not in ("labels", "modality", "channel_names")
        for number, entry in enumerate(listed)
    ]
    if not entries:
        raise StudiesError(f'{path}: expected a datalist, {{"training": [{{"image": …, "label": …}}]}}, got no entries')
    reasons = []
    for where, held_out, entry in entries:
        try:
            _add(entry, path, gathering, held_out)
        except CaseError as error:
            gathering.skip(where, str(error))
            reasons.append(f"{where}: {error}")
    if not gathering.found:
        raise StudiesError("\n".join([f"{path}: no entry can be used", *reasons]))


def _add(entry: Any, path: Path, gathering: Gathering, held_out: bool) -> None:
    spec = gathering.spec
    if not isinstance(entry, dict):
        raise CaseError(f'expected {{"image": …, "label": …}}, got {entry!r:.80}')
    named = _named_images(entry, spec)
    case_id = str(entry.get("id") or _name(next(iter(named.values())), len(named), spec))
    check_id(case_id)
    if case_id in gathering.found:
        raise CaseError(f'expected one entry for case {case_id!r}, got a second; give each an "id"')
    patient = entry.get("patient") or entry.get("subject") or patient_of([case_id], spec.patient, case_id)
    case = gathering.case(case_id, patient=str(patient))
    for modality, file in named.items():
        case.add(modality, path.parent / file)
    label = entry.get("label")
    if isinstance(label, str) and label:
        case.labels.append(Labelling(path.parent / label, held_out=held_out))
    elif label:
        raise CaseError(f'expected "label" as one path, got {label!r:.80}')


def _named_images(entry: dict[str, Any], spec: TaskSpec) -> dict[str, str]:
    image = entry.get("image")
    if isinstance(image, dict):
        pairs = [(modality_called(str(key), spec), str(key), file) for key, file in image.items()]
    elif isinstance(image, list) and len(image) == len(spec.modalities):
        pairs = [(name, name, file) for name, file in zip(_listed(image, spec), image, strict=True)]
    elif isinstance(image, str):
        pairs = [(_shown(image, spec), image, image)]
    else:
        raise CaseError(
            f'expected "image" as a path, a mapping modality -> path, or a list of {len(spec.modalities)} '
            f"({list(spec.modality_names)}), got {image!r:.80}"
        )
    for modality, key, _ in pairs:
        if modality is None:
            raise CaseError(f"expected a modality of {list(spec.modality_names)}, got {key!r}")
    given = [(str(modality), str(file)) for modality, _, file in pairs if file]
    named = dict(given)
    if not named:
        raise CaseError("expected one image at least, got none")
    if len(named) < len(given):
        raise CaseError(f"expected one file a modality, got {given}")
    return named


def _listed(files: Sequence[Any], spec: TaskSpec) -> list[str]:
    """The modality of each file of a list: MONAI's own lists are in no task's order.

    Raises:
        CaseError: the names of some files say another modality than their place does.
    """
    said = [_shown(file, spec) for file in files]
    if len(set(said) - {None}) == len(files):
        return [str(modality) for modality in said]
    wrong = [
        f"{Path(str(file)).name} in the place of {place}"
        for file, modality, place in zip(files, said, spec.modality_names, strict=True)
        if modality not in (None, place)
    ]
    if wrong:
        raise CaseError(
            f'expected "image" as a list in the order {list(spec.modality_names)}, got {", ".join(wrong)}; name them: '
            '{"image": {"modality": "path", …}}'
        )
    return list(spec.modality_names)


def _shown(file: object, spec: TaskSpec) -> str | None:
    """The modality that the name of a file says, if it says one."""
    name = stem(Path(str(file)).name) if file else None
    found = match(name, spec) if name else None
    return found.modality if found and found.role == "image" else None


def _name(file: str, files: int, spec: TaskSpec) -> str:
    """The id of an entry without one: what stands before the modality, else the folder's name."""
    name = stem(Path(file).name) or Path(file).name
    found = match(name, spec)
    if found and found.prefix:
        return found.prefix
    return Path(file).parent.name if files > 1 or found else name
