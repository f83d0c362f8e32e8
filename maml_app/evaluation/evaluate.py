"""Score a model on labelled cases under every subset of modalities, on the grid of each case's label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from maml_app.cases.case import Case, subsets
from maml_app.cases.spec import TaskSpec
from maml_app.errors import CaseError
from maml_app.evaluation.metrics import Measures, dice_scores, mean, measure
from maml_app.evaluation.quality import soft_dice
from maml_app.evaluation.scores import ScoredCase, Scores, subset_name
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


@dataclass(frozen=True, eq=False)
class Answer:
    """What a network says of a labelled case from a subset of its modalities.

    Attributes:
        subset: its name.
        label: (X, Y, Z) on the grid of the truth.
        promised: the Dice that it promises itself, by scored name, as `soft_dice`.
        left_out: modalities that cannot be used, and why.
    """

    subset: str
    label: Array
    truth: Volume
    promised: Mapping[str, float]
    left_out: Mapping[str, str]


def answers(segmenter: Segmenter, case: Case, prepared: Prepared | None = None, every: bool = True) -> Iterator[Answer]:
    """The answer from every non-empty subset of the modalities that the case has.

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
            label = restore_label(probabilities, prepared.grid, truth.grid)
            promised = soft_dice(probabilities, spec.scored)
            yield Answer(subset_name(subset), label, truth, promised, prepared.left_out)


def score_case(segmenter: Segmenter, case: Case, prepared: Prepared | None = None) -> ScoredCase:
    """Dice and promised Dice by subset name and scored name; `prepared` as of `answers`."""
    dice: dict[str, dict[str, float | None]] = {}
    promised: dict[str, Mapping[str, float]] = {}
    for answer in answers(segmenter, case, prepared):
        dice[answer.subset] = dice_scores(answer.label, answer.truth.voxels, segmenter.spec.scored)
        promised[answer.subset] = answer.promised
    return ScoredCase(dice, promised, case.patient_id)


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
    found = {}
    for case in cases:
        with skipping(case, skip):
            found[case.id] = score_case(segmenter, case)
        tick(case.id)
    return Scores.of_cases(segmenter.spec, found)


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
    """All measures by case id, subset name and structure; `left_out`: case id -> modality -> why it was not used."""

    scores: Scores
    cases: Mapping[str, Mapping[str, Mapping[str, Measures]]]
    left_out: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

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
    found: dict[str, ScoredCase] = {}
    left_out: dict[str, Mapping[str, str]] = {}
    for case in cases:
        with skipping(case, skip):
            said = list(answers(segmenter, case))
            measures = {
                answer.subset: measure(answer.label, answer.truth, spec.scored, spec.surface_tolerance_mm)
                for answer in said
            }
            dice = {subset: {name: row.dice for name, row in of.items()} for subset, of in measures.items()}
            details[case.id] = measures
            promised = {answer.subset: answer.promised for answer in said}
            found[case.id] = ScoredCase(dice, promised, case.patient_id)
            if said[0].left_out:
                left_out[case.id] = said[0].left_out
        tick(case.id)
    return Details(Scores.of_cases(spec, found), details, left_out)
