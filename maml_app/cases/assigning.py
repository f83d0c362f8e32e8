"""Which of a study's series is which modality of the task: the highest scores first, ties and choices told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from maml_app.cases.series import Rated, Series, Shared, Verdict, rate, rule_out, shared_by


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
) -> list[Verdict]:
    """Which of a case's series is which modality, and why; one verdict a series, in the order they came.

    Args:
        forced: series UID, or `UID#PART`, -> modality name, or None for "do not use"; goes before every rule.
        shared: what all series of the study say alike, by DICOM modality; without it that of these series.
    """
    forced = forced or {}
    shared = shared_by(series, modalities) if shared is None else shared
    verdicts = _by_hand(series, forced)
    pairs: list[_Pair] = []
    why: dict[str, list[str]] = {}
    for one in series:
        if one.key in verdicts:
            continue
        if reason := rule_out(one):
            verdicts[one.key] = Verdict(one, None, 0, (reason,))
            continue
        wanted = forced.get(one.uid)  # a series of several volumes that is set by hand: the rules say which of them
        for place, modality in enumerate(modalities):
            score, reasons = rate(one, modality, modalities, shared.get(one.modality, Shared()))
            if wanted == modality.name:
                score, reasons = max(score, 1) + 1000, ("series set by hand", *reasons)
            elif wanted:
                continue
            if score > 0:
                pairs.append(_Pair(score, one, place, modality.name, reasons))
            else:
                why.setdefault(one.key, []).extend(reasons)
    usable = []
    for pair in sorted(pairs, key=lambda pair: pair.rank):
        one = pair.series
        if not one.problem:
            usable.append(pair)
        elif one.key not in verdicts:
            verdicts[one.key] = Verdict(one, None, pair.score, (one.problem,), meant=pair.modality)
    for one in series:
        if one.problem and one.key not in verdicts:
            verdicts[one.key] = Verdict(one, None, 0, (one.problem,))
    _take(usable, verdicts, why)
    for one in series:
        if one.key not in verdicts:
            said = tuple(dict.fromkeys(why.get(one.key, ()))) or (f"the task has no {one.modality}",)
            verdicts[one.key] = Verdict(one, None, 0, said)
    return [verdicts[one.key] for one in series]


def _by_hand(series: Sequence[Series], forced: Mapping[str, str | None]) -> dict[str, Verdict]:
    """The verdicts on series that are set by hand; of two that are set to one modality neither is used."""
    uids = [one.uid for one in series]
    wanted: dict[str, list[Series]] = {}
    verdicts: dict[str, Verdict] = {}
    for one in series:
        if one.key not in forced and (one.uid not in forced or (uids.count(one.uid) > 1 and forced[one.uid])):
            continue
        name = forced.get(one.key, forced.get(one.uid))
        if not name:
            verdicts[one.key] = Verdict(one, None, 0, ("left out by hand",))
        elif one.problem:
            verdicts[one.key] = Verdict(one, None, 0, (f"set by hand, but {one.problem}",), meant=name)
        else:
            wanted.setdefault(name, []).append(one)
    for name, members in wanted.items():
        for one in members:
            others = ", ".join(other.name for other in members if other is not one)
            if others:
                reason = f"set by hand to {name}, as {others} is too: neither is used; set one of them to none"
                verdicts[one.key] = Verdict(one, None, 0, (reason,), meant=name)
            else:
                verdicts[one.key] = Verdict(one, name, 0, ("set by hand",))
    return verdicts


def _take(pairs: Sequence[_Pair], verdicts: dict[str, Verdict], why: dict[str, list[str]]) -> None:
    """Take pairs from the highest score down, into `verdicts`; `why` gets what speaks against the others."""
    by_hand = {verdict.modality: verdict.series for verdict in verdicts.values() if verdict.modality}
    refused = {
        verdict.meant for verdict in verdicts.values() if verdict.meant and verdict.reasons[0].startswith("set by")
    }
    best: dict[str, _Pair] = {}
    ties: dict[str, list[_Pair]] = {}
    for pair in pairs:
        one, name = pair.series, pair.modality
        if one.key in verdicts:
            continue
        kept = best.get(name)
        if name in by_hand or name in refused:
            who = f"{by_hand[name].name} is" if name in by_hand else "others are"
            why.setdefault(one.key, []).append(f"{pair.score} for {name}, but {who} set by hand")
        elif kept is None:
            alike = [
                other
                for other in pairs
                if other.modality == name
                and other.series.uid == one.uid
                and other.score == pair.score
                and other.series.key not in verdicts
            ]
            if len(alike) > 1:
                _refuse(alike, verdicts)
                continue
            best[name] = pair
            verdicts[one.key] = Verdict(one, name, pair.score, pair.reasons)
        elif kept.score == pair.score:
            ties.setdefault(name, []).append(pair)
            more = kept.series.images != one.images
            rule = "it has more images" if more else "its series number or UID is lower"
            why.setdefault(one.key, []).append(
                f"ties with {kept.series.name} for {name} at {pair.score}: that is taken, {rule}"
            )
        else:
            why.setdefault(one.key, []).append(f"{pair.score} for {name}, but {kept.series.name} scores {kept.score}")
    for name, pair in best.items():
        others = [one.series.name for one in ties.get(name, []) if one.series.key not in verdicts]
        if others:
            note = f"{name} is {pair.series.name}, and {', '.join(others)} fits as well; set it by hand if that is it"
            verdicts[pair.series.key] = Verdict(
                pair.series, name, pair.score, (*pair.reasons, f"ties with {', '.join(others)}"), note=note
            )


def _refuse(alike: Sequence[_Pair], verdicts: dict[str, Verdict]) -> None:
    """Volumes of one series that fit a modality equally: nothing says which is meant, none is taken."""
    names = "; ".join(f"{one.series.part} ({one.series.images} images)" for one in alike)
    for one in alike:
        reason = (
            f"its series holds {len(alike)} volumes that fit {one.modality} equally: {names}; set one by hand, as "
            f"{alike[0].series.key}"
        )
        verdicts[one.series.key] = Verdict(one.series, None, one.score, (reason,), meant=one.modality)
