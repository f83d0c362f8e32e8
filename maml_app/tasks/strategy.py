"""Which case next: the strategies of `choosing/strategies.py`, for annotators who come and go."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
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


class RankedCase(Strategy):
    """The first waiting case in a strategy's order that nobody else was just given.

    The request may hold `client_id` (who asks), `count` (a batch: their ids are in `batch`), and `skip` (a case that is
    to be offered again only after all others).
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
        order = self.waiting(str(request.get("client_id") or ""), _count(request))
        if not order:
            return None  # MONAI Label answers {}, which clients take as "all done"
        chosen = order[0]
        batch = [candidate.case for candidate in order]
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

    def waiting(self, client: str, count: int = sys.maxsize) -> list[Ranked]:
        """The first cases that wait for a label by this client, best first; the free ones before others."""
        cases = self.source.cases()
        histories = self.source.histories() if self.spec.review.readings > 1 else {}
        waiting = [case for case in cases if wants_label(case, histories.get(case.id, []), client, self.spec)]
        labelled = [case for case in cases if case.label is not None]
        scores = self.scores.best(self.registry.history(), [case.id for case in waiting])
        # another draw once a label has come, the same until then
        pool = Pool(waiting, labelled, scores, self.spec, seed=len(labelled))
        done = {name: {found.entry.author for found in readings(of_case)} for name, of_case in histories.items()}
        return self._in_turn(rank(self.name, pool), client, done, count)

    def given_to(self, case_id: str) -> str:
        """To whom a case was given lately; '' if to nobody."""
        given = _given(self.source.info(case_id).get("strategy"))
        who, when = max(given, key=lambda entry: entry[1], default=("", 0.0))
        return who if time.time() - when < RESERVED_S else ""

    def _in_turn(self, ranked: Sequence[Ranked], client: str, done: dict[str, set[str]], count: int) -> list[Ranked]:
        """The first free ones in their order, then skipped and postponed ones, then those that others were given."""
        free, others = [], []
        for candidate in ranked:
            held = self._held(candidate.case, client, done.get(candidate.case, set()))
            if held == (0, 0.0):
                free.append(candidate)
                if len(free) == count:
                    return free
            else:
                others.append((held, candidate.place, candidate))
        return [*free, *(candidate for _, _, candidate in sorted(others, key=lambda entry: entry[:2]))][:count]

    def _held(self, case_id: str, client: str, done: set[str]) -> tuple[int, float]:
        """(0, 0) free, (1, when) skipped, or given to the same client before, (2, when) given to another lately.

        Those in `done` have read the case and need it no longer.
        """
        info = self.source.info(case_id)
        given = [(who, when) for who, when in _given(info.get("strategy")) if who not in done]
        others = [when for who, when in given if who != client]
        if time.time() - max(others, default=0.0) < RESERVED_S:
            return 2, max(others)
        # who asks again without saving wants another case
        postponed = [when for who, when in [*given, (client, _time(info.get("skipped")))] if who == client and when]
        return (1, max(postponed)) if postponed else (0, 0.0)


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
