"""Score a model on labelled cases under every subset of modalities, on the grid of each case's label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from maml_app.cases.case import Case, subsets
from maml_app.cases.spec import TaskSpec
from maml_app.errors import CaseError
from maml_app.evaluation.metrics import Measures, dice_scores, mean, measure
from maml_app.evaluation.scores import CaseDice, Scores, subset_name
from maml_app.imaging.geometry import restore_label
from maml_app.imaging.labels import read_case_label
from maml_app.imaging.preprocess import Prepared, prepare
from maml_app.imaging.volume import Array, Volume
from maml_app.network.ensemble import SegmentationNetwork
from maml_app.network.window import predict_subsets

Skip = Callable[[str, str], None]


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A network at work on a task's cases, in windows of `patch` (X, Y, Z) voxels."""

    network: SegmentationNetwork
    spec: TaskSpec
    patch: Sequence[int]
    device: torch.device


def answers(
    segmenter: Segmenter, case: Case, prepared: Prepared | None = None, every: bool = True
) -> Iterator[tuple[str, Array, Volume]]:
    """For every non-empty subset of the modalities that the case has: its name, the answer on the label's grid, truth.

    Args:
        prepared: the case as `prepare` returned it, where it is at hand.
        every: False for all modalities together only.
    """
    spec, device = segmenter.spec, segmenter.device
    prepared = prepared or prepare(case, spec)
    truth = read_case_label(case, spec)
    names = list(subsets(prepared.used)) if every else [prepared.used]
    presences = [torch.tensor([name in subset for name in spec.modality_names], device=device) for subset in names]
    # several subsets a pass share the experts' features; a few at a time bounds the memory
    for start in range(0, len(names), 8):
        part = slice(start, start + 8)
        stacked = predict_subsets(segmenter.network, prepared.images.to(device), presences[part], segmenter.patch)
        for subset, probabilities in zip(names[part], stacked, strict=True):
            yield subset_name(subset), restore_label(probabilities, prepared.grid, truth.grid), truth


def score_case(segmenter: Segmenter, case: Case, prepared: Prepared | None = None) -> CaseDice:
    """Dice by subset name and scored name; `prepared` as of `answers`."""
    return {
        subset: dice_scores(label, truth.voxels, segmenter.spec.scored)
        for subset, label, truth in answers(segmenter, case, prepared)
    }


def evaluate(
    segmenter: Segmenter,
    cases: Sequence[Case],
    tick: Callable[[str], None] = lambda case_id: None,
    skip: Skip | None = None,
) -> Scores:
    """Score every case under every subset of the modalities that it has; `tick` is called with each one's id.

    Args:
        skip: called with the id of a case that cannot be used and the reason, and the case is left out.

    Raises:
        CaseError: a case that cannot be used, where there is no `skip`.
    """
    dice = {}
    for case in cases:
        with skipping(case, skip):
            dice[case.id] = score_case(segmenter, case)
        tick(case.id)
    return Scores.of(segmenter.spec, dice)


@contextmanager
def skipping(case: Case, skip: Skip | None) -> Iterator[None]:
    """Leave a block in which a case turns out to be unusable, and tell `skip`; without one the error goes on."""
    try:
        yield
    except CaseError as error:
        if skip is None:
            raise
        skip(case.id, str(error))


@dataclass(frozen=True)
class MeanMeasures:
    """Means of `Measures` over cases; `sensitivity`: share of all lesions that were found."""

    dice: float | None
    nsd: float | None
    hd95_mm: float | None
    sensitivity: float | None
    false_positives: float | None
    volume_error_ml: float | None
    volume_bias_ml: float | None


@dataclass(frozen=True)
class Details:
    """All measures by case id, subset name and structure."""

    scores: Scores
    cases: Mapping[str, Mapping[str, Mapping[str, Measures]]]

    def means(self) -> dict[str, dict[str, MeanMeasures]]:
        """By subset and structure."""
        rows: dict[str, dict[str, MeanMeasures]] = {}
        for subset in self.scores.subsets:
            having = [by_subset[subset] for by_subset in self.cases.values() if subset in by_subset]
            rows[subset] = {name: _mean([found[name] for found in having]) for name in self.scores.scored}
        return rows


def _mean(found: Sequence[Measures]) -> MeanMeasures:
    lesions = sum(case.lesions for case in found)
    return MeanMeasures(
        dice=mean([case.dice for case in found]),
        nsd=mean([case.nsd for case in found]),
        hd95_mm=mean([case.hd95_mm for case in found]),
        sensitivity=sum(case.found for case in found) / lesions if lesions else None,
        false_positives=mean([case.false_positives for case in found]),
        volume_error_ml=mean([abs(case.volume_error_ml) for case in found]),
        volume_bias_ml=mean([case.volume_error_ml for case in found]),
    )


def evaluate_thoroughly(
    segmenter: Segmenter,
    cases: Sequence[Case],
    tick: Callable[[str], None] = lambda case_id: None,
    skip: Skip | None = None,
) -> Details:
    """As `evaluate`, with surfaces, lesions and volumes besides Dice."""
    spec = segmenter.spec
    details: dict[str, dict[str, dict[str, Measures]]] = {}
    for case in cases:
        with skipping(case, skip):
            details[case.id] = {
                subset: measure(label, truth, spec.scored, spec.surface_tolerance_mm)
                for subset, label, truth in answers(segmenter, case)
            }
        tick(case.id)
    dice = {
        case_id: {
            subset: {name: measures.dice for name, measures in by_name.items()} for subset, by_name in by_subset.items()
        }
        for case_id, by_subset in details.items()
    }
    return Details(Scores.of(spec, dice), details)
