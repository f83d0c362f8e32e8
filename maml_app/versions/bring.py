"""A model that was trained elsewhere comes in as a version: judged like a retrained one before it is served."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import ModelError
from maml_app.evaluation.evaluate import Segmenter, evaluate
from maml_app.network.checkpoint import load_checkpoint
from maml_app.training.split import known, split
from maml_app.versions.gate import Outcome, weigh
from maml_app.versions.predict import load_served
from maml_app.versions.registry import ModelRegistry


@dataclass(frozen=True)
class Brought:
    """What became of it: its version, whether it is served, and why, in words; cases that could not be used, why."""

    version: str
    served: bool
    why: str
    refused: Mapping[str, str]


def bring(file: Path, registry: ModelRegistry, spec: TaskSpec, cases: Sequence[Case], device: torch.device) -> Brought:
    """Keep a model file as a new version, and serve it if it is nowhere worse than the served one.

    Compared on the validation cases of these studies, but for those of patients that it may have learned from, by their
    ids. With none to compare on it is served only where no model is yet.

    Raises:
        ModelError: no model file, or of another task; nothing is kept.
    """
    network, checkpoint = load_checkpoint(file, spec.name, spec.signature(), device)
    labelled = [case for case in cases if case.label]
    aside = split(labelled, spec.training.validation)[1]
    seen = {case.id for case in known(aside, checkpoint)}
    held_out = [case for case in aside if case.id not in seen]
    served = registry.served()
    outcome: Outcome | None = None
    scores = None
    refused: dict[str, str] = {}
    if held_out:
        scores = evaluate(Segmenter(network, spec, checkpoint.patch, device), held_out, skip=refused.__setitem__)
        held_out = [case for case in held_out if case.id in scores.cases]
    if scores and held_out and served:
        champion = load_served(registry, spec, device)
        before = evaluate(champion.segmenter(spec), held_out)
        outcome = weigh(scores, before, champion.version, spec.training.tolerance)
    report = {
        **checkpoint.notes,
        "parent": None,
        "imported": {"file": file.name, "sha256": _hash(file)},
        "task": spec.model_dump(mode="json"),
        "validation": scores.as_dict() if scores and held_out else None,
        "validated_on": {case.id: case.label.id for case in held_out if case.label},
        "gate": outcome.as_dict() if outcome else None,
    }
    version = registry.store(network, checkpoint, report)
    publish = outcome.publish if outcome else served is None
    if publish:
        registry.serve(version)
    return Brought(version, publish, _why(outcome, served, len(held_out)), refused)


def _why(outcome: Outcome | None, served: str | None, held_out: int) -> str:
    if outcome is None and served is None:
        return "there was no model yet"
    if outcome is None:
        return f"there is no validation case to use that it has not seen, so it cannot be compared with {served}"
    if outcome.publish:
        return f"not worse than {outcome.against} on {held_out} cases"
    more = f" and {len(outcome.reasons) - 3} more" if len(outcome.reasons) > 3 else ""
    return f"worse than {outcome.against} on {held_out} cases: {'; '.join(outcome.reasons[:3])}{more}"


def _hash(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error})") from None
