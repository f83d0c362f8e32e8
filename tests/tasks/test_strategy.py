"""Strategies and the scores behind them."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException

from maml_app.choosing.store import ScoreStore
from maml_app.choosing.strategies import STRATEGIES
from maml_app.tasks.datastore import CaseDatastore
from maml_app.tasks.scoring import ScoreCases
from maml_app.tasks.strategy import RankedCase
from maml_app.tasks.train import TrainEnsemble
from maml_app.versions.registry import ModelRegistry


def asked(trainer: TrainEnsemble, datastore: CaseDatastore, name: str, **request: Any) -> dict[str, Any]:
    """`next` as MONAI Label's endpoint does it, which notes what was given to whom."""
    strategy = RankedCase(name, trainer.source, trainer.spec, trainer.registry)
    answer = strategy(request, datastore) or {}
    if answer:
        info = datastore.get_image_info(answer["id"])
        given = {**info.get("strategy", {}), name: {"ts": int(time.time()), "client_id": request.get("client_id")}}
        datastore.update_image_info(answer["id"], {"strategy": given})
    return answer


def unlabel(studies: Path, *cases: str) -> None:
    for case in cases:
        (studies / case / "label.nii.gz").unlink()


def test_strategies_offer_unlabelled_cases_only(
    trainer: TrainEnsemble, datastore: CaseDatastore, studies: Path
) -> None:
    unlabel(studies, "phantom_001")
    for name in STRATEGIES:
        ranked = RankedCase(name, trainer.source, trainer.spec, trainer.registry)({"count": 9}, datastore)
        assert ranked is not None
        assert sorted(ranked["batch"]) == ["phantom_001", "phantom_004"]
        assert ranked["id"] == ranked["batch"][0]
        assert (ranked["waiting"], ranked["choice"]["of"]) == (2, 2)
    assert asked(trainer, datastore, "first")["id"] == "phantom_001"
    for case in ("phantom_001", "phantom_004"):
        label = studies / "phantom_000" / "label.nii.gz"
        shutil.copy(label, studies / case / "label.nii.gz")
    assert RankedCase("maml", trainer.source, trainer.spec, trainer.registry)({}, datastore) is None


def test_a_case_given_to_one_is_not_offered_to_another(
    trainer: TrainEnsemble, datastore: CaseDatastore, studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlabel(studies, "phantom_000", "phantom_001")
    assert asked(trainer, datastore, "first", client_id="anna")["id"] == "phantom_000"
    assert asked(trainer, datastore, "first", client_id="ben")["id"] == "phantom_001"
    # asking again without saving: another one, then the first again
    assert asked(trainer, datastore, "first", client_id="anna")["id"] == "phantom_004"
    assert asked(trainer, datastore, "first", client_id="anna")["id"] == "phantom_000"
    monkeypatch.setattr("maml_app.tasks.strategy.RESERVED_S", -1)
    assert asked(trainer, datastore, "first", client_id="carla")["id"] == "phantom_000"


def test_a_skipped_case_comes_after_all_others(trainer: TrainEnsemble, datastore: CaseDatastore, studies: Path) -> None:
    unlabel(studies, "phantom_000", "phantom_001")
    strategy = RankedCase("first", trainer.source, trainer.spec, trainer.registry)
    assert (strategy({"skip": "phantom_000", "count": 3}, datastore) or {})["batch"] == [
        "phantom_001",
        "phantom_004",
        "phantom_000",
    ]
    with pytest.raises(HTTPException, match="unknown id"):
        strategy({"skip": "nobody"}, datastore)
    with pytest.raises(HTTPException, match="whole number of cases, got 'many'"):
        strategy({"count": "many"}, datastore)


def test_cases_are_scored_once_a_version_and_next_says_why(
    trainer: TrainEnsemble, datastore: CaseDatastore, registry: ModelRegistry, studies: Path
) -> None:
    unlabel(studies, "phantom_000", "phantom_003")
    scoring = ScoreCases(trainer.source, trainer.spec, registry)
    assert scoring.is_due()
    assert scoring({}, datastore) == {"version": "none", "scored": 5, "cases": 5}  # no model: by their looks
    assert not scoring.is_due()
    cold = asked(trainer, datastore, "maml")
    assert (cold["choice"]["model_version"], "picture" in cold) == ("none", False)
    trainer({"steps": 2}, datastore)
    assert scoring.is_due()
    assert scoring({}, datastore) == {"version": "v0001", "scored": 5, "cases": 5}
    assert scoring({}, datastore)["scored"] == 0
    answer = asked(trainer, datastore, "disagreement", client_id="x")
    assert answer["choice"]["strategy"] == "disagreement"
    assert answer["choice"]["model_version"] == "v0001"
    assert isinstance(answer["choice"]["score"], float)
    assert re.match(r"\d of 3: ", answer["reason"])
    assert answer["picture"] == f"/maml/picture/{answer['id']}"
    picture = ScoreStore(registry.scores).picture("v0001", answer["id"])
    assert picture is not None
    assert picture.read_bytes().startswith(b"\x89PNG")
    # a modality arrives: the score of that case is computed again, and only that
    shutil.copy(studies / "phantom_002" / "ct.nii.gz", studies / "phantom_003" / "ct.nii.gz")
    assert scoring({}, datastore)["scored"] == 1
    # a damaged case is told and does not stop the others; a damaged score is computed again
    (registry.scores / "v0001" / "phantom_002.json").write_text("{")
    for path in (studies / "phantom_004").glob("*.nii.gz"):
        path.write_bytes(b"")
    (registry.scores / "v0001" / "phantom_004.json").unlink()
    assert scoring({}, datastore)["scored"] == 1


def test_a_new_version_chooses_by_the_old_scores_until_half_are_there(
    trainer: TrainEnsemble, datastore: CaseDatastore, registry: ModelRegistry, studies: Path
) -> None:
    unlabel(studies, "phantom_000", "phantom_001", "phantom_002")
    scoring = ScoreCases(trainer.source, trainer.spec, registry)
    trainer({"steps": 1}, datastore)
    scoring({}, datastore)
    trainer({"steps": 1}, datastore)
    assert asked(trainer, datastore, "entropy")["choice"]["model_version"] == "v0001"
    scoring({}, datastore)
    assert asked(trainer, datastore, "entropy")["choice"]["model_version"] == "v0002"
