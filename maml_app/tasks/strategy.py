"""Which case next: the strategies of `choosing/strategies.py`, for annotators who come and go."""

from __future__ import annotations

import time
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec
from maml_app.choosing.store import ScoreStore
from maml_app.choosing.strategies import STRATEGIES, Pool, rank
from maml_app.errors import StudiesError
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

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        with answering():
            return self._next(request)

    def _next(self, request: dict[str, Any]) -> dict[str, Any] | None:
        skip = str(request.get("skip") or "")
        if skip:
            self.source.update_info(self.source.resolve(skip)[0].id, {"skipped": time.time()})
        cases = self.source.cases()
        waiting = [case for case in cases if case.label is None]
        if not waiting:
            return None  # MONAI Label answers {}, which clients take as "all done"
        labelled = [case for case in cases if case.label is not None]
        versions = self.registry.history()
        scores = ScoreStore(self.registry.scores).best(versions, [case.id for case in waiting])
        # another draw once a label has come, the same until then
        pool = Pool(waiting, labelled, scores, self.spec, seed=len(labelled))
        ranked = rank(self.name, pool)
        notes = {one.case: self._held(one.case, str(request.get("client_id") or "")) for one in ranked}
        # free ones in their order, then skipped and postponed ones, then those that others were given lately
        order = sorted(ranked, key=lambda one: (notes[one.case], one.place))
        chosen = order[0]
        batch = [one.case for one in order[: _count(request)]]
        version = scores[chosen.case].version if chosen.case in scores else None
        answer: dict[str, Any] = {
            "id": chosen.case,
            "waiting": len(waiting),
            "choice": {
                "strategy": self.name,
                "rank": chosen.place,
                "of": chosen.of,
                "score": chosen.value,
                "model_version": version,
            },
            "reason": f"{chosen.place} of {chosen.of}: {chosen.reason}",
        }
        if version and ScoreStore(self.registry.scores).picture(version, chosen.case):
            answer["picture"] = f"/maml/picture/{chosen.case}"
        if len(batch) > 1:
            answer["batch"] = batch
        return answer

    def _held(self, case_id: str, client: str) -> tuple[int, float]:
        """(0, 0) free, (1, when) skipped, or given to the same client before, (2, when) given to another lately."""
        info = self.source.info(case_id)
        given = [one for one in (info.get("strategy") or {}).values() if isinstance(one, dict) and one.get("ts")]
        others = [float(one["ts"]) for one in given if str(one.get("client_id") or "") != client]
        if time.time() - max(others, default=0.0) < RESERVED_S:
            return 2, max(others)
        # who asks again without saving wants another case
        postponed = [float(one["ts"]) for one in given if str(one.get("client_id") or "") == client]
        if info.get("skipped"):
            postponed.append(float(info["skipped"]))
        return (1, max(postponed)) if postponed else (0, 0.0)


def _count(request: dict[str, Any]) -> int:
    try:
        return max(1, int(request.get("count") or 1))
    except (TypeError, ValueError):
        raise StudiesError(f"count: expected a whole number of cases, got {request.get('count')!r}") from None
