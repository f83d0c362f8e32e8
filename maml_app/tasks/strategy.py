"""Which case next: the strategies of `choosing/strategies.py`, for annotators who come and go."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from enum import IntEnum
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec
from maml_app.choosing.store import shared_scores
from maml_app.choosing.strategies import STRATEGIES, Pool, Ranked, rank
from maml_app.errors import StudiesError
from maml_app.labelling.review import readings, wants_label
from maml_app.tasks.answers import answering
from maml_app.versions.registry import ModelRegistry

RESERVED_S = 1800  # so long a case that was given to one annotator is not offered to another
ASSIGNED = "assigned"  # in the notes, beside the names of the strategies that gave a case to someone


class Turn(IntEnum):
    """When a case is offered to someone, the first to come first.

    ASSIGNED: to them by a reviewer, and not offered yet. LATER: skipped, or given to them before. TAKEN: given to
    another lately. KEPT: assigned to another, who was not offered it yet.
    """

    ASSIGNED, FREE, LATER, TAKEN, KEPT = range(5)


class RankedCase(Strategy):
    """What a reviewer assigned, else the first waiting case in a strategy's order that nobody else was just given.

    What is answered is reserved for who asked. The request may hold `client_id` (who asks), `strategy` (under which
    name it is reserved), `count` (a batch: their ids are in `batch`), and `skip` (a case that is to be offered again
    only after all others).
    """

    def __init__(self, name: str, source: CaseSource, spec: TaskSpec, registry: ModelRegistry, said: str = "") -> None:
        super().__init__(said or STRATEGIES[name].words)
        self.name = name
        self.source = source
        self.spec = spec
        self.registry = registry
        self.scores = shared_scores(registry.scores)

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        with answering():
            return self._next(request)

    def _next(self, request: dict[str, Any]) -> dict[str, Any] | None:
        skip = str(request.get("skip") or "")
        if skip:
            self.source.update_info(self.source.resolve(skip)[0].id, {"skipped": time.time()})
        client = str(request.get("client_id") or "")
        order = self._offered(client, _count(request))
        if not order:
            return None  # MONAI Label answers {}, which clients take as "all done"
        chosen = order[0]
        batch = [candidate.case for candidate in order]
        given = {str(request.get("strategy") or self.name): {"ts": time.time(), "client_id": client}}
        for case in batch:
            self.source.update_info(case, {"strategy": given})
        version = chosen.version
        answer: dict[str, Any] = {
            "id": chosen.case,
            "waiting": chosen.of,
            "choice": {
                "strategy": self.name,
                "rank": chosen.place,
                "of": chosen.of,
                "score": chosen.value,
                "model_version": version,
            },
            "reason": f"{chosen.place} of {chosen.of}: {chosen.reason}",
        }
        if version and self.scores.picture(version, chosen.case):
            answer["picture"] = f"/maml/picture/{chosen.case}"
        if len(batch) > 1:
            answer["batch"] = batch
        return answer

    def _offered(self, client: str, count: int) -> list[Ranked]:
        """The first cases for a client; one that another was given lately only where nothing else is left."""
        turns = self._in_turn(client)
        free = [candidate for turn, candidate in turns if turn < Turn.TAKEN]
        return free[:count] or [candidate for turn, candidate in turns if turn == Turn.TAKEN][:1]

    def waiting(self, client: str, count: int = sys.maxsize) -> list[Ranked]:
        """The first cases that wait for a label by this client, best first; the free ones before others."""
        return [candidate for _, candidate in self._in_turn(client)][:count]

    def _in_turn(self, client: str) -> list[tuple[Turn, Ranked]]:
        cases = self.source.cases()
        histories = self.source.histories() if self.spec.review.readings > 1 else {}
        waiting = [case for case in cases if wants_label(case, histories.get(case.id, []), client, self.spec)]
        labelled = [case for case in cases if case.label is not None]
        scores = self.scores.best(self.registry.history(), [case.id for case in waiting])
        # another draw once a label has come, the same until then
        pool = Pool(waiting, labelled, scores, self.spec, seed=len(labelled))
        done = {name: {found.entry.author for found in readings(of_case)} for name, of_case in histories.items()}
        notes = self.source.notes()
        found = []
        for candidate in rank(self.name, pool):
            turn, when = _turn(notes.get(candidate.case, {}), client, done.get(candidate.case, set()))
            found.append((turn, when, _assigned(candidate) if turn == Turn.ASSIGNED else candidate))
        found.sort(key=lambda entry: (entry[0], entry[1], entry[2].place))
        return [(turn, candidate) for turn, _, candidate in found]

    def assign(self, case_id: str, client: str) -> None:
        """Keep a case for someone until it was offered to them."""
        self.source.update_info(case_id, {"strategy": {ASSIGNED: {"ts": time.time(), "client_id": client}}})

    def given_to(self, case_id: str) -> str:
        """To whom a case is assigned, or was given lately; '' if to nobody."""
        info = self.source.info(case_id)
        assigned, _ = _assignment(info)
        who, when = max(_given(info.get("strategy")), key=lambda entry: entry[1], default=("", 0.0))
        return assigned or (who if time.time() - when < RESERVED_S else "")


def _turn(info: Mapping[str, object], client: str, done: set[str]) -> tuple[Turn, float]:
    """When a case with these notes is offered to a client, and since when it is so; `done` need it no longer."""
    assigned, since = _assignment(info)
    if assigned and assigned not in done:
        return Turn.ASSIGNED if assigned == client else Turn.KEPT, since
    given = [(who, when) for who, when in _given(info.get("strategy")) if who not in done]
    others = [when for who, when in given if who != client]
    if time.time() - max(others, default=0.0) < RESERVED_S:
        return Turn.TAKEN, max(others)
    # who asks again without saving wants another case
    postponed = [when for who, when in [*given, (client, _time(info.get("skipped")))] if who == client and when]
    return (Turn.LATER, max(postponed)) if postponed else (Turn.FREE, 0.0)


def _assigned(candidate: Ranked) -> Ranked:
    return replace(candidate, tell=lambda: f"assigned to you; {candidate.reason}")


def _assignment(info: Mapping[str, object]) -> tuple[str, float]:
    """To whom a case is assigned who was not offered it since, and when; ("", 0) if to nobody."""
    notes = info.get("strategy")
    if not isinstance(notes, dict):
        return "", 0.0
    who, when = next(iter(_given({ASSIGNED: notes.get(ASSIGNED)})), ("", 0.0))
    # nobody else is offered it meanwhile: who was given it since is the one to whom it is assigned
    later = [given for _, given in _given({name: entry for name, entry in notes.items() if name != ASSIGNED})]
    return (who, when) if when > max([*later, _time(info.get("skipped"))], default=0.0) else ("", 0.0)


def _given(notes: object) -> list[tuple[str, float]]:
    """To whom a case was given, and when; what is damaged in the notes says nothing."""
    entries = [entry for entry in notes.values() if isinstance(entry, dict)] if isinstance(notes, dict) else []
    found = [(str(entry.get("client_id") or ""), _time(entry.get("ts"))) for entry in entries]
    return [(who, when) for who, when in found if when]


def _time(value: object) -> float:
    """Seconds since 1970; 0 for what is no time."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 < value < 1e11 else 0.0  # type: ignore[operator,arg-type]


def _count(request: dict[str, Any]) -> int:
    try:
        return max(1, int(request.get("count") or 1))
    except (TypeError, ValueError):
        raise StudiesError(f"count: expected a whole number of cases, got {request.get('count')!r}") from None
