"""Which case next, and why: an order of the cases that wait for a label.

No strategy is trusted to beat chance: nnActive (arXiv 2511.19183) found none that reliably beats random choice among
cases with foreground. `maml` follows ClaSP PE (arXiv 2601.13677) in balancing over classes and in power noise: values
are ranked with Gumbel noise on their logarithm, which fades as labels grow in number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.choosing.worth import COLD, CaseScore, corrected_disagreement, usual_divergence
from maml_app.imaging.volume import Array

NOISE, FADES_OVER = 0.5, 10  # Gumbel scale without labels, and the number of labels at which it is half
SMALL_ML = 1.0


SURE = 200  # so many cases are told apart by their unlikeness to each other; nobody looks further down a list


@dataclass(frozen=True)
class Ranked:
    """A case that waits, its place (1 is next) of how many, and the strategy's value (None: it says nothing of it).

    `version`: of the model that looked at the case; None if none did.
    """

    case: str
    place: int
    of: int
    value: float | None
    version: str | None
    tell: Callable[[], str] = field(repr=False, compare=False)

    @property
    def reason(self) -> str:
        """Why, in words."""
        return self.tell()


Values = dict[str, float]


@dataclass(frozen=True)
class Pool:
    """What strategies choose from.

    Attributes:
        waiting: cases without a final label, in id order.
        labelled: cases with one.
        scores: by case id, of one model version; cases that are not scored yet are not in it.
    """

    waiting: Sequence[Case]
    labelled: Sequence[Case]
    scores: Mapping[str, CaseScore]
    spec: TaskSpec
    seed: int = 0

    @cached_property
    def scored(self) -> list[CaseScore]:
        return [self.scores[case.id] for case in self.waiting if case.id in self.scores]

    @cached_property
    def usual(self) -> dict[str, float]:
        return usual_divergence(list(self.scores.values()))

    @cached_property
    def unlike(self) -> Values:
        """What `distances` tells."""
        return distances(self)

    @cached_property
    def far(self) -> frozenset[str]:
        """The quarter of the waiting cases that is least like the labelled ones."""
        values = self.unlike
        return frozenset(sorted(values, key=lambda case: -values[case])[: max(1, len(values) // 4)] if values else [])

    @cached_property
    def lacking(self) -> Counter[tuple[str, ...]]:
        """How many labelled cases lack the same modalities, by these."""
        return Counter(case.missing(self.spec.modality_names) for case in self.labelled)


def _random(pool: Pool) -> Values:
    order = np.random.default_rng(pool.seed).permutation(len(pool.waiting))
    return {case.id: float(-place) for case, place in zip(pool.waiting, order, strict=True)}


def _first(pool: Pool) -> Values:
    return {case.id: float(-place) for place, case in enumerate(pool.waiting)}


def _foreground_random(pool: Pool) -> Values:
    """Random, but cases in which the model finds something go before those in which it finds nothing."""
    chance = _random(pool)
    found = {score.case for score in pool.scored if score.foreground_ml >= SMALL_ML}
    return {case.id: chance[case.id] + (1e6 if case.id in found else 0) for case in pool.waiting}


def _entropy(pool: Pool) -> Values:
    return {score.case: score.entropy for score in pool.scored}


def _disagreement(pool: Pool) -> Values:
    usual = pool.usual
    return {score.case: corrected_disagreement(score, usual) for score in pool.scored}


def distances(pool: Pool) -> Values:
    """How unlike the labelled cases each waiting one is, and unlike those before it in the list: k-center, greedily.

    Sener and Savarese, arXiv 1708.00489, on standardised features; the value is the distance at the time of the choice,
    of cases beyond the first `SURE` that after the last one.
    """
    scored = [score for score in pool.scored if score.features]
    if not scored:
        return {}
    known = [pool.scores[case.id] for case in pool.labelled if case.id in pool.scores]
    every = np.array([score.features for score in [*scored, *known] if score.features], dtype=np.float32)
    every = (every - every.mean(axis=0)) / np.maximum(every.std(axis=0), 1e-6)
    points, centres = every[: len(scored)], every[len(scored) :]
    lengths = (points**2).sum(axis=1)
    nearest = _nearest(points, centres) if len(centres) else np.sqrt(lengths)
    values: Values = {}
    waits = np.ones(len(scored), dtype=bool)
    for _ in range(min(SURE, len(scored))):
        chosen = int(np.where(waits, nearest, -1.0).argmax())
        values[scored[chosen].case] = float(nearest[chosen])
        waits[chosen] = False
        apart = np.sqrt(np.maximum(lengths - 2 * (points @ points[chosen]) + lengths[chosen], 0))
        nearest = np.minimum(nearest, apart)
    return values | {scored[index].case: float(nearest[index]) for index in np.flatnonzero(waits)}


def _nearest(points: Array, centres: Array) -> Array:
    squares = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(squares.min(axis=1), 0)))


def _percentiles(values: Values) -> Values:
    """Each value's place among all, in (0, 1]; ties share the higher one."""
    ordered = np.sort(list(values.values()))
    places = 1 + np.searchsorted(ordered, list(values.values()), side="left")
    return {case: float(place) / len(ordered) for case, place in zip(values, places, strict=True)}


def rarity(pool: Pool) -> Values:
    """How rarely, among the labelled cases, the same modalities are missing; 0 for the commonest of those that wait."""
    patterns = {case.id: case.missing(pool.spec.modality_names) for case in pool.waiting}
    labelled = max(1, len(pool.labelled))
    rare = {case: 1 - pool.lacking[pattern] / labelled for case, pattern in patterns.items()}
    least = min(rare.values(), default=0.0)
    return {case: value - least for case, value in rare.items()}


def _maml(pool: Pool) -> Values:
    """Disagreement beyond the usual and entropy, balanced over labels; unlikeness, rarity; with fading power noise."""
    scored = pool.scored
    if not scored:
        return {}
    usual = _percentiles(_disagreement(pool))
    parts: dict[str, list[float]] = {score.case: [usual[score.case]] for score in scored}
    for label in pool.spec.label_values.values():
        for measure in ("divergence", "entropy"):
            ranks = _percentiles({score.case: score.labels[label][measure] for score in scored})
            for case, rank in ranks.items():
                parts[case].append(rank / len(pool.spec.labels))
    unlike = _percentiles(pool.unlike) if scored[0].features else {}
    rare = rarity(pool)
    rng = np.random.default_rng((pool.seed, len(pool.labelled)))
    scale = NOISE / (1 + len(pool.labelled) / FADES_OVER)
    noise = rng.gumbel(size=len(scored)) * scale
    values = {}
    for score, odd in zip(scored, noise, strict=True):
        worth = sum(parts[score.case]) / len(parts[score.case]) + 0.5 * unlike.get(score.case, 0)
        values[score.case] = math.log(worth + 0.5 * rare[score.case]) + odd
    return values


@dataclass(frozen=True)
class Strategy:
    """A way to choose.

    Attributes:
        words: what it goes by, for people.
        values: the case with the highest value is next; cases that it says nothing of come last.
        looks: whether it asks what a model sees; before the first model it goes by what the images look like.
        tells: whether its values mean something to people.
    """

    name: str
    words: str
    values: Callable[[Pool], Values]
    looks: bool = True
    tells: bool = True


STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy("maml", "Experts' disagreement beyond the usual, uncertainty by label, and unlikeness", _maml),
        Strategy(
            "disagreement",
            "Where the experts of the modalities disagree most, beyond what they always do",
            _disagreement,
        ),
        Strategy("entropy", "Where the ensemble is least sure of the foreground", _entropy),
        Strategy("diverse", "The case least like those that are labelled", lambda pool: pool.unlike),
        Strategy("foreground_random", "Any case in which the model finds something", _foreground_random, tells=False),
        Strategy("random", "Any case without a final label", _random, looks=False, tells=False),
        Strategy("first", "The first case without a final label, by id", _first, looks=False, tells=False),
    )
}

DEFAULT = "foreground_random"  # what clients get who ask for `random`, as long as no other was measured to beat it


def rank(strategy: str, pool: Pool) -> list[Ranked]:
    """All waiting cases in the strategy's order, best first, each with its reason.

    Cases that the strategy has no value for, as they are not scored yet, come last, in random order. Before the first
    model every strategy that would ask it goes by what the images look like: the most unlike first.
    """
    chosen = STRATEGIES[strategy]
    cold = any(score.version == COLD for score in pool.scored)
    values = pool.unlike if cold and chosen.looks else chosen.values(pool)
    chance = _random(pool)
    order = sorted(pool.waiting, key=lambda case: (case.id not in values, -values.get(case.id, chance[case.id])))
    return [
        Ranked(
            case.id,
            place,
            len(order),
            round(values[case.id], 4) if chosen.tells and case.id in values else None,
            pool.scores[case.id].version if case.id in pool.scores else None,
            partial(reason, case, pool),
        )
        for place, case in enumerate(order, start=1)
    ]


def reason(case: Case, pool: Pool) -> str:
    """What there is to say of a case, in words, the strongest first."""
    words = []
    score = pool.scores.get(case.id)
    if score is None or score.version == COLD:
        words.append("not looked at by a model yet")
    else:
        excess = {pair: found["divergence"] - pool.usual.get(pair, 0.0) for pair, found in score.pairs.items()}
        if excess:
            pair = max(excess, key=lambda name: excess[name])
            volume = score.pairs[pair]["differ_ml"]
            if volume >= 0.1:
                words.append(f"{' and '.join(pair.split('+'))} disagree on {volume:.1f} ml")
        if score.foreground_ml < SMALL_ML:
            words.append("nothing is found yet")
        elif score.entropy >= 0.3:
            words.append(f"unsure of {score.foreground_ml:.1f} ml")
    missing = case.missing(pool.spec.modality_names)
    if missing:
        words.append(f"no {', no '.join(missing)}")
        if pool.labelled and not pool.lacking[missing]:
            words.append("no labelled case lacks the same")
    if pool.labelled and case.id in pool.far:
        words.append("unlike the labelled cases")
    return "; ".join(words) or "as good as any"
