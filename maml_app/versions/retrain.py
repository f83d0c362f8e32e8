"""Retraining on all final labels: warm start, validation, the gate before a model is served, what people are told."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import ModelError, TrainingError
from maml_app.evaluation.evaluate import evaluate
from maml_app.evaluation.scores import Scores, number
from maml_app.machine import Turns
from maml_app.network.ensemble import SegmentationNetwork
from maml_app.training.progress import Progress, Report
from maml_app.training.recipe import Recipe
from maml_app.training.split import known, split, taught
from maml_app.training.train import Trained, cross_validate, train
from maml_app.versions.gate import Outcome, forgotten, weigh
from maml_app.versions.predict import Model, load_served
from maml_app.versions.registry import ModelRegistry
from maml_app.versions.runs import Run

Finish = Callable[[Trained, Sequence[Case], Recipe], Trained]


def as_it_is(trained: Trained, cases: Sequence[Case], recipe: Recipe) -> Trained:
    """The finish of a retraining whose model is complete."""
    return trained


@dataclass(frozen=True)
class Retraining:
    """One retraining of a task's model.

    Attributes:
        recipe: seed, devices and limits; what a retraining starts from and whom it tells is added here.
        run: keeps what `say` tells.
        warm_start: go on from the served model, if it can be.
        finish: what is added to the trained model before it is judged and stored.
    """

    spec: TaskSpec
    registry: ModelRegistry
    recipe: Recipe
    run: Run
    say: Callable[[str], None]
    warm_start: bool = True
    finish: Finish = as_it_is

    def __call__(self, cases: Sequence[Case]) -> dict[str, Any]:
        """Train, judge, store, and serve if nothing got worse. Returns the version, the served one, and the scores.

        Raises:
            MamlError: nothing to train on, a case that cannot be used, no memory, no disk.
        """
        labelled = [case for case in cases if case.label]
        spec, devices = self.spec, self.recipe.devices
        on = f"{len(devices)} x {devices[0].type}" if len(devices) > 1 else str(self.recipe.device)
        self.say(f"{len(labelled)} of {len(cases)} cases have a final label; {on}")
        self._keep_split(labelled)
        champion = self._champion(labelled)
        start = self._start(champion)
        shared = replace(self.recipe, prepared=self.registry.prepared, wait=Turns(self.registry.turns).wait)
        weights = _new(labelled, champion, spec.training.new_labels)
        told = replace(shared, report=self._shown())
        inherited = taught(champion.checkpoint) if champion and start else {}
        result = train(spec, cases, replace(told, start=start, inherited=inherited, weights=weights))
        result = self.finish(result, labelled, told)
        report = {**result.checkpoint.notes, "parent": champion.version if champion else None}
        report["task"] = spec.model_dump(mode="json")
        report["task_hash"] = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:16]
        report["trained"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        report["run"] = self.run.folder.name
        outcome, forgot = self._outcome(result, champion, cases)
        report["gate"] = outcome.as_dict() if outcome else None
        report["forgotten"] = forgot
        version = self.registry.store(result.network, result.checkpoint, report)
        if outcome is None or outcome.publish:
            self.registry.serve(version)
            self.say(f"published {version}")
        else:
            for reason in outcome.reasons[:3]:  # the task's log keeps 20 lines; report.json has them all
                self.say(f"worse than {outcome.against}: {reason}")
            self.say(
                f"{version} is kept as a candidate and {outcome.against} stays served: {len(outcome.reasons)} scores "
                f"fell by more than {outcome.tolerance} on the same {outcome.cases} cases; to serve it all the same: "
                f"python -m maml_app models promote {version}"
            )
        scores = report["validation"]
        if result.validation is None and spec.training.folds > 1:
            usable = [case for case in cases if case.id not in result.refused]
            scores = self._cross_validated(usable, version, shared)
        return {"version": version, "served": self.registry.served(), "validation": scores}

    def _cross_validated(self, cases: Sequence[Case], version: str, recipe: Recipe) -> dict[str, Any] | None:
        """An estimate while no patient is kept aside; the model is served already, nobody waits for this."""
        spec = self.spec
        patients = len({case.patient_id for case in cases if case.label})
        folds = min(spec.training.folds, patients)
        kind = "leave-one-out" if folds == patients else f"{folds}-fold cross-validation"
        if folds < 2:
            return None
        self.say(f"few labels: estimating by {kind} over {patients} patients; {version} is in use meanwhile")
        try:
            scores = cross_validate(spec, cases, folds, replace(recipe, report=self._folds_only()))
        except TrainingError as error:  # as when all that one fold leaves has empty labels
            self.say(f"no estimate: {error}")
            return None
        assert scores is not None  # two patients at least
        self.say(f"{kind} Dice: mean over subsets {number(scores.mean)}, all modalities {number(scores.full)}")
        summary = {"kind": kind, "patients": patients, **scores.summary()}
        self.registry.annotate(version, cross_validation=summary)
        return summary

    def _tell_scores(self, scores: Scores, what: str) -> None:
        for subset, row in scores.subsets.items():
            by_name = ", ".join(f"{name} {number(value)}" for name, value in row.dice.items())
            self.say(f"{what}, {subset} ({row.cases} cases): {by_name}")

    def _outcome(
        self, result: Trained, champion: Model | None, cases: Sequence[Case]
    ) -> tuple[Outcome | None, list[str]]:
        """The gate's decision, None where there is nothing to compare, said why; and cases that were forgotten."""
        if result.validation is None:
            self.say(
                "no validation, so no comparison: none of the labelled patients belongs to the validation fifth yet; "
                "label more cases to see Dice here"
            )
            return None, []
        self._tell_scores(result.validation, "validation Dice")
        self.run.scores(self.spec.training.steps, result.validation.subsets)
        if champion is None:
            return None, []
        held_out = [case for case in cases if case.id in result.checkpoint.notes["validated_on"]]
        before = evaluate(champion.segmenter(self.spec), held_out)
        forgot = forgotten(result.validation, before, champion.checkpoint.notes.get("validated_on", {}))
        for line in forgot[:3]:
            self.say(f"ALARM, forgotten since {champion.version}: {line}")
        return weigh(result.validation, before, champion.version, self.spec.training.tolerance), forgot

    def _keep_split(self, labelled: Sequence[Case]) -> None:
        """What models were validated on is never trained on later, or their scores would mean nothing.

        Raises:
            TrainingError: another rule for patients, or another fraction, would do that.
        """
        reports = [self.registry.report(version) for version in self.registry.versions()]
        validated = {case_id for report in reports for case_id in report.get("validated_on", {})}
        moved = [case for case in split(labelled, self.spec.training.validation)[0] if case.id in validated]
        if moved:
            names = ", ".join(f"{case.id} (patient {case.patient_id})" for case in moved[:5])
            raise TrainingError(
                f"{len(moved)} cases that models were validated on would be trained on now: {names}; the rule for "
                "patients or the fraction changed: set patient and training.validation in task.yaml as they were (with "
                "patient: (.*) each case is a patient of its own), or keep new models elsewhere (--conf models DIR)"
            )

    def _shown(self) -> Report:
        last: dict[str, Any] = {"stage": "", "time": 0.0}

        def show(progress: Progress) -> None:
            self.run.progress(progress)
            now = time.monotonic()
            # the task's log keeps 20 lines: not one for every case
            if (
                progress.note
                or progress.dice
                or progress.stage != last["stage"]
                or progress.done == progress.total
                or (now - last["time"] > 5)
            ):
                last.update(stage=progress.stage, time=now)
                self.say(str(progress))

        return show

    def _folds_only(self) -> Report:
        """The task's log keeps 20 lines: of the folds it tells that they are done, and what was odd."""

        def show(progress: Progress) -> None:
            if progress.note or (progress.stage.endswith(": train") and progress.done == progress.total):
                self.say(str(progress))

        return show

    def _champion(self, labelled: Sequence[Case]) -> Model | None:
        """The served model, to go on from and to be compared with; None if there is none that can be used."""
        if self.registry.served() is None:
            self.say("no model yet: there is nothing to compare with")
            return None
        try:
            model = load_served(self.registry, self.spec, self.recipe.device)
        except ModelError as error:
            self.say(f"the served model cannot be used, there is nothing to compare with: {error}")
            return None
        version = model.version
        # as when the first labels were all of validation patients: going on from it would score it on what it knows
        held_out = split(labelled, self.spec.training.validation)[1]
        seen = sorted(case.id for case in known(held_out, model.checkpoint))
        if seen:
            self.say(
                f"{version} was trained on validation cases ({', '.join(seen)}), or on others of their patients: not "
                "compared with, nor gone on from"
            )
            return None
        return model

    def _start(self, champion: Model | None) -> SegmentationNetwork | None:
        """The network to go on from; None for new weights, said why."""
        if champion is None or not self.warm_start:
            self.say("training starts from new weights")
            return None
        if champion.checkpoint.network != self.spec.network:
            self.say(
                f"training starts from new weights: {champion.version} has another network than task.yaml asks for"
            )
            return None
        self.say(f"training goes on from {champion.version}")
        return champion.network


def _new(labelled: Sequence[Case], champion: Model | None, weight: int) -> dict[str, int]:
    """The weight of each case whose label the served model has not seen; rehearsal of the others goes on."""
    if champion is None or weight == 1:
        return {}
    seen = {**champion.checkpoint.notes["trained_on"], **champion.checkpoint.notes["validated_on"]}
    return {case.id: weight for case in labelled if case.label and seen.get(case.id) != case.label.id}
