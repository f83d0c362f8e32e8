"""Strategies and the scores behind them."""

from __future__ import annotations

import re
import shutil
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
    """What `next` answers; {} if no case waits."""
    return RankedCase(name, trainer.source, trainer.spec, trainer.registry)(request, datastore) or {}


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


def test_what_is_assigned_comes_first_once_and_to_nobody_else(
    trainer: TrainEnsemble, datastore: CaseDatastore, studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlabel(studies, "phantom_000", "phantom_001")
    strategy = RankedCase("first", trainer.source, trainer.spec, trainer.registry)
    assert asked(trainer, datastore, "first", client_id="anna")["id"] == "phantom_000"
    for case in ("phantom_004", "phantom_000"):  # in the order in which they were assigned, given before or not
        strategy.assign(case, "anna")
        assert strategy.given_to(case) == "anna"
    monkeypatch.setattr("maml_app.tasks.strategy.RESERVED_S", -1)  # what was only given is free again
    assert strategy.given_to("phantom_004") == "anna"
    assert asked(trainer, datastore, "first", client_id="ben", count=3)["id"] == "phantom_001"
    for case in ("phantom_004", "phantom_000"):
        answer = asked(trainer, datastore, "first", client_id="anna")
        assert answer["id"] == case
        assert ": assigned to you; " in answer["reason"]
    assert asked(trainer, datastore, "first", client_id="anna")["id"] == "phantom_001"
    # it stays settled when the case is given to another after a while, and is assigned anew by a reviewer only
    assert asked(trainer, datastore, "first", client_id="ben")["id"] == "phantom_000"
    assert asked(trainer, datastore, "first", client_id="carl")["id"] == "phantom_000"
    strategy.assign("phantom_001", "ben")
    assert "phantom_001" not in asked(trainer, datastore, "first", client_id="carl", count=9)["batch"]
    # skipped by the one to whom it is assigned: no longer first, and free for others
    assert asked(trainer, datastore, "first", client_id="ben", skip="phantom_001")["id"] == "phantom_000"
    assert "phantom_001" in asked(trainer, datastore, "first", client_id="carl", count=9)["batch"]


def test_nothing_is_offered_rather_than_what_another_is_to_do(trainer: TrainEnsemble, datastore: CaseDatastore) -> None:
    RankedCase("first", trainer.source, trainer.spec, trainer.registry).assign("phantom_004", "anna")
    assert asked(trainer, datastore, "random", client_id="ben") == {}
    assert asked(trainer, datastore, "random", client_id="anna")["id"] == "phantom_004"


def test_each_case_of_a_batch_is_reserved(trainer: TrainEnsemble, datastore: CaseDatastore, studies: Path) -> None:
    unlabel(studies, *(f"phantom_00{number}" for number in range(4)))
    assert asked(trainer, datastore, "first", client_id="anna", count=3)["batch"] == [
        "phantom_000",
        "phantom_001",
        "phantom_002",
    ]
    assert asked(trainer, datastore, "first", client_id="ben", count=3)["batch"] == ["phantom_003", "phantom_004"]
    # nothing is left: the one that was given away first, and no batch of them
    answer = asked(trainer, datastore, "first", client_id="carl", count=3)
    assert (answer["id"], "batch" in answer) == ("phantom_000", False)


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
