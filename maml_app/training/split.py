"""The patient-level validation split, frozen by a hash: a case never changes sides as the labelled set grows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from maml_app.cases.case import Case
from maml_app.network.checkpoint import Checkpoint

SALT = "maml_app validation 1"


def is_validation(patient_id: str, fraction: float) -> bool:
    """Whether a patient is kept for validation; depends on the id and the fraction alone."""
    digest = hashlib.sha256(f"{SALT}:{patient_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def split(cases: Sequence[Case], fraction: float) -> tuple[list[Case], list[Case]]:
    """Training and validation cases. Without any case left for training, all train and none validates."""
    train = [case for case in cases if not is_validation(case.patient_id, fraction)]
    if not train:
        return list(cases), []
    return train, [case for case in cases if is_validation(case.patient_id, fraction)]


def taught(checkpoint: Checkpoint) -> Mapping[str, str]:
    """Case id -> patient, of all that a model's weights learned from, labelled or not, also before a warm start.

    Models of programs that did not note it yet tell neither patients nor what was before.
    """
    notes = checkpoint.notes
    patients = notes.get("patients") or {}
    own = [*(notes.get("trained_on") or ()), *(notes.get("taught_without_label") or ())]
    return {**(notes.get("inherited") or {}), **{case_id: patients.get(case_id, case_id) for case_id in own}}


def known(cases: Sequence[Case], checkpoint: Checkpoint) -> list[Case]:
    """The cases that are no test of a model: it learned from them, or from other cases of their patients."""
    by_case = taught(checkpoint)
    patients = set(by_case.values())
    return [case for case in cases if case.id in by_case or case.patient_id in patients]
