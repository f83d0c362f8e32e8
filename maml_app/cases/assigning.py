"""Which of a study's series is which modality of the task: the highest scores first, ties and choices told.

Every (series, modality) pair gets a score; pairs are taken from the highest score down, each series and each modality
once. Between series of one score the rule is: more images, then the lower series number, then the lower UID; between
volumes of one series there is no such rule: neither is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from maml_app.cases.rating import rate
from maml_app.cases.series import Choice, Rated, Series, Shared, rule_out, shared_by


@dataclass(frozen=True)
class _Pair:
    """A series that may be a modality."""

    score: int
    series: Series
    place: int  # of the modality in the task
    modality: str
    reasons: tuple[str, ...]

    @property
    def rank(self) -> tuple[int, int, int, str, int]:
        return -self.score, -self.series.images, self.series.number, self.series.key, self.place


def assign(
    series: Sequence[Series],
    modalities: Sequence[Rated],
    forced: Mapping[str, str | None] | None = None,
    shared: Mapping[str, Shared] | None = None,
) -> list[Choice]:
    """Which of a case's series is which modality, and why; one choice a series, in the order they came.

    Args:
        forced: series UID, or `UID#PART`, -> modality name, or None for "do not use"; goes before every rule.
        shared: what all series of the study say alike, by DICOM modality; without it that of these series.
    """
    forced = forced or {}
    choices = _by_hand(series, forced)
    for candidate in series:
        if candidate.key not in choices and (reason := rule_out(candidate)):
            choices[candidate.key] = Choice(candidate, None, 0, (reason,))
    waiting = [candidate for candidate in series if candidate.key not in choices]
    rating = _Rating(modalities, shared_by(series, modalities) if shared is None else shared, forced)
    pairs = sorted((pair for candidate in waiting for pair in rating.pairs(candidate)), key=lambda pair: pair.rank)
    for pair in pairs:  # what has a problem is told with the modality that it would be
        candidate = pair.series
        if candidate.problem and candidate.key not in choices:
            choices[candidate.key] = Choice(candidate, None, pair.score, (candidate.problem,), meant=pair.modality)
    _take([pair for pair in pairs if not pair.series.problem], choices, rating.why)
    for candidate in waiting:
        if candidate.key not in choices:
            said = (
                (candidate.problem,) if candidate.problem else tuple(dict.fromkeys(rating.why.get(candidate.key, ())))
            )
            choices[candidate.key] = Choice(candidate, None, 0, said or (f"the task has no {candidate.modality}",))
    return [choices[candidate.key] for candidate in series]


class _Rating:
    """Rates series for the modalities of a task; `why` gets what speaks against each."""

    def __init__(
        self, modalities: Sequence[Rated], shared: Mapping[str, Shared], forced: Mapping[str, str | None]
    ) -> None:
        self.modalities = modalities
        self.shared = shared
        self.forced = forced
        self.why: dict[str, list[str]] = {}

    def pairs(self, series: Series) -> Iterator[_Pair]:
        """The modalities that a series may be."""
        wanted = self.forced.get(series.uid)  # several volumes, set by hand: the rules say which of them
        for place, modality in enumerate(self.modalities):
            score, reasons = rate(series, modality, self.modalities, self.shared.get(series.modality, Shared()))
            if wanted == modality.name:
                score, reasons = max(score, 1) + 1000, ("series set by hand", *reasons)
            elif wanted:
                continue
            if score > 0:
                yield _Pair(score, series, place, modality.name, reasons)
            else:
                self.why.setdefault(series.key, []).extend(reasons)


def _by_hand(series: Sequence[Series], forced: Mapping[str, str | None]) -> dict[str, Choice]:
    """The choices on series that are set by hand; of two that are set to one modality neither is used."""
    uids = [candidate.uid for candidate in series]
    wanted: dict[str, list[Series]] = {}
    choices: dict[str, Choice] = {}
    for candidate in series:
        if candidate.key not in forced and (
            candidate.uid not in forced or (uids.count(candidate.uid) > 1 and forced[candidate.uid])
        ):
            continue
        name = forced.get(candidate.key, forced.get(candidate.uid))
        if not name:
            choices[candidate.key] = Choice(candidate, None, 0, ("left out by hand",))
        elif candidate.problem:
            choices[candidate.key] = Choice(candidate, None, 0, (f"set by hand, but {candidate.problem}",), meant=name)
        else:
            wanted.setdefault(name, []).append(candidate)
    for name, members in wanted.items():
        for candidate in members:
            others = ", ".join(other.name for other in members if other is not candidate)
            if others:
                reason = f"set by hand to {name}, as {others} is too: neither is used; set one of them to none"
                choices[candidate.key] = Choice(candidate, None, 0, (reason,), meant=name)
            else:
                choices[candidate.key] = Choice(candidate, name, 0, ("set by hand",))
    return choices


def _take(pairs: Sequence[_Pair], choices: dict[str, Choice], why: dict[str, list[str]]) -> None:
    """Take pairs from the highest score down, into `choices`; `why` gets what speaks against the others."""
    by_hand = {choice.modality: choice.series for choice in choices.values() if choice.modality}
    refused = {choice.meant for choice in choices.values() if choice.meant and choice.reasons[0].startswith("set by")}
    best: dict[str, _Pair] = {}
    ties: dict[str, list[_Pair]] = {}
    for pair in pairs:
        candidate, name = pair.series, pair.modality
        if candidate.key in choices:
            continue
        kept = best.get(name)
        if name in by_hand or name in refused:
            who = f"{by_hand[name].name} is" if name in by_hand else "others are"
            why.setdefault(candidate.key, []).append(f"{pair.score} for {name}, but {who} set by hand")
        elif kept is None:
            alike = [
                other
                for other in pairs
                if other.modality == name
                and other.series.uid == candidate.uid
                and other.score == pair.score
                and other.series.key not in choices
            ]
            if len(alike) > 1:
                _refuse(alike, choices)
                continue
            best[name] = pair
            choices[candidate.key] = Choice(candidate, name, pair.score, pair.reasons)
        elif kept.score == pair.score:
            ties.setdefault(name, []).append(pair)
            more = kept.series.images != candidate.images
            rule = "it has more images" if more else "its series number or UID is lower"
            why.setdefault(candidate.key, []).append(
                f"ties with {kept.series.name} for {name} at {pair.score}: that is taken, {rule}"
            )
        else:
            why.setdefault(candidate.key, []).append(
                f"{pair.score} for {name}, but {kept.series.name} scores {kept.score}"
            )
    for name, pair in best.items():
        others = [tied.series.name for tied in ties.get(name, []) if tied.series.key not in choices]
        if others:
            note = f"{name} is {pair.series.name}, and {', '.join(others)} fits as well; set it by hand if that is it"
            choices[pair.series.key] = Choice(
                pair.series, name, pair.score, (*pair.reasons, f"ties with {', '.join(others)}"), note=note
            )


def _refuse(alike: Sequence[_Pair], choices: dict[str, Choice]) -> None:
    """Volumes of one series that fit a modality equally: nothing says which is meant, none is taken."""
    names = "; ".join(f"{pair.series.part} ({pair.series.images} images)" for pair in alike)
    for pair in alike:
        reason = (
            f"its series holds {len(alike)} volumes that fit {pair.modality} equally: {names}; set one by hand, as "
            f"{alike[0].series.key}"
        )
        choices[pair.series.key] = Choice(pair.series, None, pair.score, (reason,), meant=pair.modality)
