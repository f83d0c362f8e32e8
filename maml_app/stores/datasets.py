"""A dataset.json: nnU-Net (a file a channel) and Medical Segmentation Decathlon (one 4D file)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from maml_app.cases.matching import modality_called, stem
from maml_app.cases.patients import patient_of
from maml_app.cases.spec import TaskSpec
from maml_app.cases.values import Meaning, named_meaning
from maml_app.errors import StudiesError
from maml_app.stores.gather import Gathering, Labelling

IMAGES = ("imagesTr", "imagesTs", "imagesVal")
TRAINING = "labelsTr"
LABELS = (TRAINING, "labelsTs", "labelsVal")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        StudiesError: there is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudiesError(f"{path}: expected JSON, got: {error}") from None


def read_dataset(files: Sequence[Path], gathering: Gathering) -> None:
    """Find the cases in imagesTr, labelsTr and their like, by what dataset.json says of channels and labels.

    Raises:
        StudiesError: dataset.json names no channels, or one that is no modality of the task.
    """
    where = gathering.root / "dataset.json"
    content = read_json(where)
    channels = _channels(content, gathering.spec, where)
    meaning = _meaning(content, gathering.spec, where)
    for path in files:
        name, folder = stem(path.name) or "", path.relative_to(gathering.root).parts[0]
        numbered = re.fullmatch(r"(.+)_(\d{4})", name)
        if folder in IMAGES:
            case = _case(numbered[1] if numbered else name, gathering)
            if numbered and int(numbered[2]) in channels:
                case.add(channels[int(numbered[2])], path)
            elif numbered:
                gathering.skip(path, f"expected a channel of {sorted(channels)} in dataset.json, got {numbered[2]}")
            elif len(channels) == 1:
                case.add(next(iter(channels.values())), path)
            else:
                for channel, modality in channels.items():
                    case.add(modality, path, channel)
        elif folder in LABELS:
            labelling = Labelling(path, meaning=meaning, held_out=folder != TRAINING)
            _case(name, gathering).labels.append(labelling)
        else:
            reason = f"beside a dataset.json only {', '.join((*IMAGES, *LABELS))} are looked into"
            gathering.skip(path, reason, wrong=False)


def _case(name: str, gathering: Gathering) -> Any:
    return gathering.case(name, patient=patient_of([name], gathering.spec.patient, name))


def _channels(content: Any, spec: TaskSpec, where: Path) -> dict[int, str]:
    names = content.get("channel_names") or content.get("modality") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(str(key).isdigit() for key in names):
        raise StudiesError(f'{where}: expected "channel_names" or "modality" as {{"0": "T1", …}}, got {names!r}')
    channels: dict[int, str] = {}
    for key, name in names.items():
        modality = modality_called(str(name), spec)
        if modality is None:
            raise StudiesError(f"{where}: channel {key}: expected one of {list(spec.modality_names)}, got {name!r}")
        channels[int(key)] = modality
    return channels


def _meaning(content: dict[str, Any], spec: TaskSpec, where: Path) -> Callable[[], Meaning] | None:
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        return None  # the values of all label files must tell
    return partial(named_meaning, labels, spec, str(where))
