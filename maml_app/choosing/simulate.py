"""Annotation played on labelled cases: what each strategy would have asked for, and how good the model would be then.

Every state of the play (a set of labelled cases and a seed) is one file, so that strategies share the states they have
in common, a stopped simulation goes on where it was, and several processes may work in one folder:

<folder>/states/KEY.json     the labelled cases, the test cases' scores, the scores of all that may be chosen; the key
                             is a hash of the task, the seed, and the files of all of them
<folder>/prepared/           prepared cases
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.choosing.look import opinions_of
from maml_app.choosing.strategies import STRATEGIES, Pool, rank
from maml_app.choosing.worth import CaseScore
from maml_app.disk import write_text
from maml_app.errors import TrainingError
from maml_app.evaluation.evaluate import score_case
from maml_app.evaluation.scores import Scores, number
from maml_app.imaging.geometry import restore_label
from maml_app.imaging.labels import read_case_label
from maml_app.imaging.preprocess import Prepared, prepare
from maml_app.imaging.volume import Array, Volume
from maml_app.training.dataset import content_key
from maml_app.training.recipe import Recipe
from maml_app.training.train import train
from maml_app.versions.predict import Model

FORMAT = "simulation 2"  # to be changed with training or scores: states from before are not used again


@dataclass(frozen=True)
class Schedule:
    """What is played: `start` cases are labelled at random, then `batch` more in each round, at most `at_most`."""

    strategies: tuple[str, ...]
    start: int = 4
    rounds: int = 6
    batch: int = 3
    at_most: int = 20
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    def __post_init__(self) -> None:
        unknown = [name for name in self.strategies if name not in STRATEGIES]
        if unknown or not self.strategies:
            raise TrainingError(f"--strategies: expected some of {', '.join(STRATEGIES)}, got {', '.join(unknown)!r}")
        if min(self.start, self.rounds, self.batch, len(self.seeds)) < 1 or self.at_most < self.start:
            raise TrainingError(
                "expected at least one case to start with, one round, a batch of one, one seed, and --at-most no less "
                f"than --start, got {self}"
            )


@dataclass(frozen=True)
class State:
    """How things stand with some cases labelled: the test cases' scores, and how much each case can teach.

    `path_mm`: of each case that waits, the contour that has to be drawn to correct what the model proposes.
    """

    labelled: tuple[str, ...]
    test: Scores
    scores: dict[str, CaseScore]
    path_mm: dict[str, float]


class Simulation:
    """Cases to choose from, cases to test on (other patients), and what is kept of every state."""

    def __init__(
        self, spec: TaskSpec, choose: Sequence[Case], test: Sequence[Case], folder: Path, device: torch.device
    ) -> None:
        shared = {case.patient_id for case in choose} & {case.patient_id for case in test}
        if shared or not test:
            raise TrainingError(f"expected test cases of patients of their own, got shared patients {sorted(shared)}")
        # all that is labelled is trained on: the test cases are the validation
        self.spec = spec.model_copy(update={"training": spec.training.model_copy(update={"validation": 0.0})})
        self.choose = {case.id: case for case in choose}
        self.test = list(test)
        self.folder = folder
        self.device = device
        self._prepared: dict[str, Prepared] = {}

    @cached_property
    def truth(self) -> dict[str, Volume]:
        """The label of each case that may be chosen."""
        return {case_id: read_case_label(case, self.spec) for case_id, case in self.choose.items()}

    @cached_property
    def foreground_ml(self) -> dict[str, float]:
        """How much is labelled in each case that may be chosen, ml."""
        return {case_id: float((label.voxels > 0).sum()) * label.grid.voxel_ml for case_id, label in self.truth.items()}

    @cached_property
    def content(self) -> str:
        """What changes with which cases there are to choose from and to test on, and with any of their files."""
        parts = [("choose", self.choose.values()), ("test", self.test)]
        keys = {part: {case.id: content_key(case, self.spec) for case in cases} for part, cases in parts}
        return json.dumps(keys, sort_keys=True)

    def path_mm(self, case_id: str, proposal: Array | None = None) -> float:
        """The contour that an annotator draws in a case, from a proposal on its label's grid, or from nothing."""
        from maml_app.labelling.comparing import changes  # asks for scipy, which machines that only train may lack

        truth = self.truth[case_id]
        before = Volume(np.zeros_like(truth.voxels) if proposal is None else proposal, truth.affine)
        return sum(change.added_path_mm for change in changes(truth, before, self.spec).values())

    def play(self, strategy: str, seed: int, schedule: Schedule) -> list[State]:
        """The states from `schedule.start` labels on, one a round; the same start for every strategy of a seed.

        Where nothing is labelled in any of the first cases, the last of them makes room for one where something is:
        nobody trains before that.

        Raises:
            TrainingError: fewer cases than the schedule starts with, or nothing is labelled in any of them.
        """
        ids = sorted(self.choose)
        if len(ids) < schedule.start:
            raise TrainingError(f"expected at least {schedule.start} labelled cases to choose from, got {len(ids)}")
        order = [ids[place] for place in np.random.default_rng(seed).permutation(len(ids))]
        something = next((case_id for case_id in order if self.foreground_ml[case_id]), None)
        if something is None:
            raise TrainingError(
                f"expected something labelled in a case to choose from, got {len(ids)} labels, all empty"
            )
        labelled = order[: schedule.start]
        if something not in labelled:
            labelled[-1] = something
        states = [self.state(labelled, seed)]
        most = min(schedule.at_most, len(ids))
        for _ in range(schedule.rounds):
            count = min(schedule.batch, most - len(labelled))
            if count <= 0:
                break
            pool = Pool(
                [self.choose[case_id] for case_id in ids if case_id not in labelled],
                [self.choose[case_id] for case_id in labelled],
                states[-1].scores,
                self.spec,
                seed=1000 * seed + len(labelled),
            )
            labelled = [*labelled, *(candidate.case for candidate in rank(strategy, pool)[:count])]
            states.append(self.state(labelled, seed))
        return states

    def state(self, labelled: Sequence[str], seed: int) -> State:
        """Train on these cases from new weights, test, and score all that may be chosen; or what is kept of that."""
        labelled = sorted(labelled)
        parts = [FORMAT, self.spec.model_dump_json(), str(seed), *labelled, self.content]
        path = self.folder / "states" / f"{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:24]}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            content = self._reach(labelled, seed)
            write_text(path, json.dumps(content))
        scores = {
            candidate["case"]: CaseScore(
                **candidate | {name: tuple(candidate.get(name, ())) for name in ("present", "features", "left_out")}
            )
            for candidate in content["scores"]
        }
        return State(tuple(labelled), Scores.of(self.spec, content["test"]), scores, content["path_mm"])

    def _reach(self, labelled: Sequence[str], seed: int) -> dict[str, Any]:
        chosen = [self.choose[case_id] for case_id in labelled]
        recipe = Recipe(seed=seed, devices=(self.device,), prepared=self.folder / "prepared")
        result = train(self.spec, chosen, recipe)
        model = Model("simulated", result.network, result.checkpoint, self.device)
        test = {case.id: score_case(model.segmenter(self.spec), case, self._prepare(case)).dice for case in self.test}
        scores, path_mm = [], {}
        for case in self.choose.values():
            prepared = self._prepare(case)
            opinions, score = opinions_of(prepared, case, model, self.spec)
            scores.append(asdict(score))
            if case.id not in labelled:
                proposal = restore_label(opinions.fused, prepared.grid, self.truth[case.id].grid)
                path_mm[case.id] = self.path_mm(case.id, proposal)
        return {"labelled": labelled, "seed": seed, "test": test, "scores": scores, "path_mm": path_mm}

    def _prepare(self, case: Case) -> Prepared:
        if case.id not in self._prepared:
            self._prepared[case.id] = prepare(case, self.spec)
        return self._prepared[case.id]


def simulate(
    simulation: Simulation, schedule: Schedule, tick: Callable[[str], None] = lambda text: None
) -> dict[str, list[list[dict[str, Any]]]]:
    """Play every strategy with every seed: strategy -> one list a seed -> one row a round.

    A row holds `labels`, `full` and `mean` (Dice of the test cases, all modalities and over subsets), `drawn_ml` (what
    is labelled), `path_m` (the contours drawn for it so far: the first cases from nothing, others from what the model
    of the round before proposed), and `cases`, those that were added. `full` and `mean` are None where nothing can be
    scored, as where no test case has all modalities.

    Raises:
        TrainingError: no label of a test case holds anything; before any training.
    """
    if not any(read_case_label(case, simulation.spec).voxels.any() for case in simulation.test):
        raise TrainingError(
            f"expected something labelled in at least one test case, got {len(simulation.test)} labels, all empty"
        )
    curves: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in schedule.strategies}
    for seed in schedule.seeds:
        for name in schedule.strategies:
            rows: list[dict[str, Any]] = []
            before: set[str] = set()
            path_m, proposed_mm = 0.0, dict[str, float]()
            for state in simulation.play(name, seed, schedule):
                added = sorted(set(state.labelled) - before)
                drawn = [proposed_mm[case] if proposed_mm else simulation.path_mm(case) for case in added]
                path_m += sum(drawn) / 1000
                rows.append(
                    {
                        "labels": len(state.labelled),
                        "full": state.test.full,
                        "mean": state.test.mean,
                        "drawn_ml": round(sum(simulation.foreground_ml[case_id] for case_id in state.labelled), 1),
                        "path_m": round(path_m, 3),
                        "cases": added,
                    }
                )
                before, proposed_mm = set(state.labelled), state.path_mm
            curves[name].append(rows)
            tick(f"{name}, seed {seed}: {rows[-1]['labels']} labels, Dice {number(rows[-1]['mean'])}")
    return curves
