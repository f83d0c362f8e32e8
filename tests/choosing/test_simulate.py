"""Simulated annotation, and what is made of its curves."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from maml_app.__main__ import app
from maml_app.cases.spec import TaskSpec
from maml_app.choosing import simulate as module
from maml_app.choosing.curves import (
    area,
    area_by_effort,
    curves_markdown,
    draw_curves,
    labels_to_reach,
    saving,
    stands_still,
    summarise_curves,
)
from maml_app.choosing.simulate import Schedule, Simulation, simulate
from maml_app.errors import MamlError, TrainingError
from maml_app.imaging.files import read_label, write_label
from maml_app.phantom.scene import write_cases
from maml_app.stores.folder import FolderStore
from maml_app.training.train import train
from tests.conftest import TOY

CPU = torch.device("cpu")


@pytest.fixture
def simulation(spec: TaskSpec, tmp_path: Path) -> Simulation:
    write_cases(tmp_path / "studies", spec, count=8, seed=3, size=16)
    cases = FolderStore(tmp_path / "studies", spec).cases()
    return Simulation(spec, cases[:6], cases[6:], tmp_path / "out", CPU)


def test_each_round_labels_what_the_strategy_puts_first(simulation: Simulation) -> None:
    schedule = Schedule(("entropy",), start=2, rounds=3, batch=2, at_most=5, seeds=(0,))
    states = simulation.play("entropy", 0, schedule)
    assert [len(state.labelled) for state in states] == [2, 4, 5]  # the last batch is cut to what may be labelled
    for before, after in pairwise(states):
        added = set(after.labelled) - set(before.labelled)
        assert set(before.labelled) < set(after.labelled)
        waiting = [score for case, score in before.scores.items() if case not in before.labelled]
        best = sorted(waiting, key=lambda score: -score.entropy)[: len(added)]
        assert added == {score.case for score in best}
    assert sorted(states[0].test.cases) == ["phantom_006", "phantom_007"]
    assert not {"phantom_006", "phantom_007"} & set(states[-1].labelled)


def test_strategies_share_states_and_a_stopped_play_goes_on(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = Schedule(("random", "foreground_random", "maml"), start=2, rounds=1, batch=2, seeds=(0, 1))
    trained: list[list[str]] = []
    whole = train

    def counted(spec: TaskSpec, cases: Any, recipe: Any) -> Any:
        trained.append(sorted(case.id for case in cases))
        if len(trained) == 3:
            raise KeyboardInterrupt
        return whole(spec, cases, recipe)

    monkeypatch.setattr(module, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        simulate(simulation, schedule)
    told: list[str] = []
    curves = simulate(simulation, schedule, told.append)
    assert len(trained) == len({tuple(ids) for ids in trained}) + 1  # only the one that was stopped is done again
    assert len(told) == 6
    starts = {(name, seed): rows[0] for name, seeds in curves.items() for seed, rows in enumerate(seeds)}
    for seed in (0, 1):
        assert starts["random", seed] == starts["maml", seed]  # the same start for every strategy
    assert starts["random", 0]["cases"] != starts["random", 1]["cases"]
    count = len(trained)
    assert simulate(simulation, schedule) == curves
    assert len(trained) == count  # all was kept


def test_what_is_kept_is_of_the_same_files_and_cases(
    simulation: Simulation, spec: TaskSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = Schedule(("random",), start=2, rounds=1, batch=1, seeds=(0,))
    trained: list[int] = []

    def counted(*asked: Any) -> Any:
        trained.append(1)
        return train(*asked)

    monkeypatch.setattr(module, "train", counted)

    def played(choose: int = 6) -> int:
        cases = FolderStore(simulation.folder.parent / "studies", spec).cases()
        simulate(Simulation(spec, cases[:choose], cases[6:], simulation.folder, CPU), schedule)
        count = len(trained)
        trained.clear()
        return count

    assert played(choose=5) == 2
    assert played() == 2  # each state has the scores of all that may be chosen
    assert played() == 0
    for number in (0, 7):  # one to choose, one to test
        path = simulation.folder.parent / "studies" / f"phantom_00{number}" / "label.nii.gz"
        label = read_label(path)
        write_label(path, np.roll(label.voxels, 2, axis=0), label.affine)
        assert played() == 2
    assert played() == 0


def test_what_was_drawn_is_the_foreground_of_the_labels(simulation: Simulation, spec: TaskSpec) -> None:
    schedule = Schedule(("random",), start=3, rounds=1, batch=1, seeds=(0,))
    (rows,) = simulate(simulation, schedule)["random"]
    for row in rows:
        assert 0 < row["drawn_ml"] < 2000
    first = sum(simulation.foreground_ml[case] for case in rows[0]["cases"])
    assert rows[0]["drawn_ml"] == pytest.approx(first, abs=0.1)
    assert rows[1]["drawn_ml"] > rows[0]["drawn_ml"]


def test_contours_are_drawn_from_nothing_first_and_then_from_the_proposal(simulation: Simulation) -> None:
    schedule = Schedule(("random",), start=2, rounds=1, batch=1, seeds=(0,))
    (rows,) = simulate(simulation, schedule)["random"]
    first, second = simulation.play("random", 0, schedule)
    assert rows[0]["path_m"] == pytest.approx(sum(map(simulation.path_mm, first.labelled)) / 1000, abs=1e-3)
    (added,) = rows[1]["cases"]
    assert set(first.path_mm) == set(simulation.choose) - set(first.labelled)
    assert rows[1]["path_m"] - rows[0]["path_m"] == pytest.approx(first.path_mm[added] / 1000, abs=2e-3)
    assert added not in second.path_mm
    truth = simulation.truth[added].voxels
    assert simulation.path_mm(added, truth) == 0  # nothing to correct
    worse = np.roll(truth, 3, axis=0)
    assert 0 < simulation.path_mm(added, worse) <= simulation.path_mm(added)


def test_test_patients_are_never_chosen_from(spec: TaskSpec, simulation: Simulation, tmp_path: Path) -> None:
    cases = list(simulation.choose.values())
    with pytest.raises(TrainingError, match="patients of their own, got shared patients"):
        Simulation(spec, cases, cases[:1], tmp_path, CPU)
    with pytest.raises(TrainingError, match="expected at least 7 labelled cases to choose from, got 6"):
        simulation.play("random", 0, Schedule(("random",), start=7))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategies": ("best",)}, "expected some of maml, .*, got 'best'"),
        ({"strategies": ()}, "--strategies: expected some of"),
        ({"batch": 0}, "a batch of one"),
        ({"at_most": 2}, "--at-most no less than --start"),
    ],
)
def test_a_schedule_that_cannot_be_played_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MamlError, match=message):
        Schedule(**{"strategies": ("random",), **changes})


def rows(*dice: float) -> list[dict[str, Any]]:
    return [
        {"labels": 4 + 2 * n, "full": value, "mean": value / 2, "drawn_ml": 10.0 * n, "path_m": 3.0 + n}
        for n, value in enumerate(dice)
    ]


def test_areas_and_labels_saved_have_their_analytic_values() -> None:
    assert area(rows(0.2, 0.6, 0.6), "full") == pytest.approx((0.4 + 0.6) / 2)
    assert area(rows(0.3), "full") == 0.3
    assert labels_to_reach([0.2, 0.6], [4, 6], 0.5) == pytest.approx(5.5)
    assert labels_to_reach([0.2, 0.6], [4, 6], 0.1) == 4
    assert labels_to_reach([0.2, 0.6], [4, 6], 0.7) == math.inf
    curves = {"random": [rows(0.2, 0.4, 0.6)] * 3, "maml": [rows(0.2, 0.6, 0.7)] * 3, "slow": [rows(0.2, 0.3, 0.4)] * 3}
    assert saving(curves, "maml", "full") == {"labels": 6.0, "interval": (6.0, 6.0)}
    assert saving(curves, "slow", "full") == {"labels": None, "interval": (None, None)}
    assert saving(curves, "random", "full")["labels"] == pytest.approx(8)
    summary = summarise_curves(curves)["full"]
    assert summary["maml"]["minus_random"]["area"] == pytest.approx(0.525 - 0.4)
    assert "minus_random" not in summary["random"]
    assert summary["maml"]["by_effort_minus_random"]["area"] == pytest.approx(0.525 - 0.4)


def test_effort_is_compared_as_far_as_all_have_drawn() -> None:
    quick, slow = rows(0.2, 0.4, 0.6), rows(0.2, 0.4, 0.6)
    for row in slow[1:]:
        row["path_m"] = 3.0 + 2 * (row["path_m"] - 3.0)  # the same models for twice the contours
    assert area_by_effort(quick, "full", 5.0) == pytest.approx(0.4)
    assert area_by_effort(slow, "full", 5.0) == pytest.approx(0.3)
    assert area_by_effort(slow, "full", 4.0) == pytest.approx(0.25)
    assert area_by_effort(slow, "full", 3.0) == 0.2
    summary = summarise_curves({"random": [slow] * 2, "maml": [quick] * 2})["full"]
    assert summary["maml"]["area"] == summary["random"]["area"]
    assert summary["maml"]["by_effort_minus_random"]["area"] == pytest.approx(0.1)


def test_a_measure_that_some_row_lacks_is_left_out(tmp_path: Path) -> None:
    some, none = rows(0.2, 0.4), rows(0.2, 0.4)
    none[0]["full"] = None
    curves = {"random": [some], "maml": [none]}
    summary = summarise_curves(curves)
    assert list(summary) == ["mean"]
    text = curves_markdown(curves, summary, "head")
    assert "## Dice of the test cases, all modalities\n\nLeft out: " in text
    assert "| maml | 0.100 | 0.200 |" in text
    draw_curves(tmp_path / "curves.png", curves)
    none[0]["mean"] = None
    assert summarise_curves(curves) == {}
    assert curves_markdown(curves, {}, "head").count("Left out: ") == 2
    draw_curves(tmp_path / "curves.png", curves)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_labels_that_hold_nothing_to_test_on_are_told_before_a_training(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "train", lambda *asked: pytest.fail("trained for nothing"))
    for case in simulation.test:
        assert case.label
        label = read_label(case.label.path)
        write_label(case.label.path, label.voxels * 0, label.affine)
    with pytest.raises(TrainingError, match="something labelled in at least one test case, got 2 labels, all empty"):
        simulate(simulation, Schedule(("random",), start=2, rounds=1))


def test_a_start_without_anything_labelled_gets_a_case_with_something(spec: TaskSpec, tmp_path: Path) -> None:
    """Half of an archive may be healthy, and a training on nothing but that is refused."""
    write_cases(tmp_path / "studies", spec, count=6, seed=3, size=16)
    for number in range(5):
        if number != 2:
            path = tmp_path / "studies" / f"phantom_{number:03d}" / "label.nii.gz"
            label = read_label(path)
            path.unlink()
            write_label(path, np.zeros_like(label.voxels), label.affine)
    cases = FolderStore(tmp_path / "studies", spec).cases()
    simulation = Simulation(spec, cases[:5], cases[5:], tmp_path / "out", CPU)
    schedule = Schedule(("random",), start=2, rounds=1, batch=1, seeds=(0, 1, 2, 3))
    starts = [simulation.play("random", seed, schedule)[0].labelled for seed in schedule.seeds]
    assert all("phantom_002" in start and len(start) == 2 for start in starts)
    nothing = Simulation(spec, [case for case in cases[:5] if case.id != "phantom_002"], cases[5:], tmp_path / "b", CPU)
    with pytest.raises(TrainingError, match="something labelled in a case to choose from, got 4 labels, all empty"):
        nothing.play("random", 0, schedule)


def test_test_cases_without_all_modalities_have_a_mean_over_subsets(spec: TaskSpec, tmp_path: Path) -> None:
    write_cases(tmp_path / "studies", spec, count=4, seed=3, size=16)
    (tmp_path / "studies" / "task.yaml").write_text(TOY)
    command = f"simulate --studies {tmp_path / 'studies'} --out {tmp_path / 'out'} --strategies random --seeds 1"
    command += " --steps 1 --start 2 --rounds 1 --batch 1 --test phantom_003"  # which has no CT
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, done.output
    assert "no test case has all modalities" in done.output.split("random, seed 0")[0]
    assert list(json.loads((tmp_path / "out" / "report.json").read_text())["summary"]) == ["mean"]


def test_one_could_stop_where_rounds_in_a_row_gain_nothing() -> None:
    labels = [4, 6, 8, 10, 12]
    assert stands_still([0.2, 0.4, 0.405, 0.41, 0.6], labels) == 10
    assert stands_still([0.2, 0.2, 0.4, 0.4, 0.43], labels) is None
    assert stands_still([0.5, 0.4], labels) is None


def test_on_the_command_line(tmp_path: Path, spec: TaskSpec) -> None:
    studies = tmp_path / "studies"
    write_cases(studies, spec, count=6, seed=3, size=16)
    (studies / "task.yaml").write_text(TOY)
    command = [
        "simulate",
        "--studies",
        str(studies),
        "--out",
        str(tmp_path / "out"),
        "--test",
        "phantom_004,phantom_005",
    ]
    command += [
        "--strategies",
        "random,maml",
        "--start",
        "2",
        "--rounds",
        "1",
        "--batch",
        "1",
        "--seeds",
        "2",
        "--steps",
        "1",
    ]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "maml, seed 1: 3 labels, Dice 0." in done.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["test"] == ["phantom_004", "phantom_005"]
    assert [len(seeds) for seeds in report["curves"].values()] == [2, 2]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| strategy | 2 labels | 3 labels | ml labelled | m drawn |" in text
    assert "| maml | 0." in text
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    wrong = CliRunner().invoke(app, [*command[:-2], "--test", "nobody"])
    assert isinstance(wrong.exception, MamlError)
    assert "--test: expected ids of labelled cases, got nobody" in str(wrong.exception)
