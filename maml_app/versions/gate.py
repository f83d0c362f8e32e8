"""The gate: a retrained model is served only if it is nowhere worse than the one it would replace."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from maml_app.evaluation.scores import Scores, paired


@dataclass(frozen=True)
class Outcome:
    """Whether to publish, and why not: one reason for each label and subset that got worse beyond the tolerance."""

    publish: bool
    against: str
    cases: int
    tolerance: float
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def weigh(candidate: Scores, champion: Scores, against: str, tolerance: float) -> Outcome:
    """Compare two evaluations of the same cases, paired, for every subset and everything that is scored.

    What is in neither truth nor answer counts as `paired` says. `tolerance` is the fall in mean Dice that is put down
    to chance.
    """
    shared = [case_id for case_id in candidate.cases if case_id in champion.cases]
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for case_id in shared:
        for subset, scores in candidate.cases[case_id].items():
            before = champion.cases[case_id].get(subset, {})
            for name, value in scores.items():
                if name in before:
                    pairs.setdefault((subset, name), []).append(paired(value, before[name]))
    reasons = []
    for (subset, name), values in pairs.items():
        new, old = (sum(column) / len(values) for column in zip(*values, strict=True))
        if new < old - tolerance:
            reasons.append(f"{name} from {subset}: Dice {new:.3f}, was {old:.3f} ({len(values)} cases)")
    return Outcome(not reasons, against, len(shared), tolerance, tuple(reasons))


def forgotten(candidate: Scores, champion: Scores, old: Iterable[str], fall: float = 0.1) -> list[str]:
    """Validation cases that the champion was judged on and that the candidate does much worse on, in words.

    A case counts by its mean Dice over all that is scored, under all of its modalities together. The gate looks at
    means; this tells of single cases that a mean hides.

    Args:
        old: ids of the cases that the champion was validated on when it was trained.
        fall: in Dice, from which on it is told.
    """
    found = []
    for case_id in old:
        if case_id not in candidate.cases or case_id not in champion.cases:
            continue
        full = candidate.all_of(case_id)
        both = candidate.cases[case_id][full], champion.cases[case_id][full]
        pairs = [paired(value, both[1][name]) for name, value in both[0].items()]
        new, before = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
        if new < before - fall:
            found.append(f"{case_id}: Dice {new:.3f}, was {before:.3f}")
    return found
