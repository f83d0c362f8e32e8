"""The patient-level validation split, frozen by a hash: a case never changes sides as the labelled set grows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from maml_app.cases.case import Case

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
