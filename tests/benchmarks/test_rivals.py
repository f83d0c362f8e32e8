"""The study of rivals and ablations, at toy size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.rivals import arithmetic, main, with_only
from benchmarks.rivals_table import table
from benchmarks.rivals_variants import ABLATIONS, ALONE, BY_EXPERTS, OURS, PUBLISHED, RIVALS, VARIANTS, changed
from maml_app.cases.case import subsets
from maml_app.cases.spec import TaskSpec, parse_task
from maml_app.evaluation.scores import subset_name
from maml_app.phantom.scene import write_cases
from tests.conftest import TOY

app = typer.Typer()
app.command()(main)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_task_that_can_be_trained(spec: TaskSpec, name: str) -> None:
    variant = changed(spec, VARIANTS[name])
    assert variant.signature() == spec.signature()  # the same cases, prepared alike
    assert variant.training.validation == 0
    if name != OURS:
        assert variant != changed(spec, {})


def test_rivals_and_ablations_are_told_apart() -> None:
    assert not set(RIVALS) & set(ABLATIONS)
    assert next(iter(VARIANTS)) == OURS


def test_the_early_fusion_rival_has_our_arithmetic_or_twice_that() -> None:
    spec = parse_task(TOY.replace("channels: [4, 6]", "channels: [8, 16]"), "toy.yaml")
    ours, equal, double = (
        arithmetic(changed(spec, VARIANTS[name]))
        for name in (OURS, "early_fusion_dropout", "early_fusion_dropout_double")
    )
    assert equal == pytest.approx(ours, rel=0.15)
    assert double == pytest.approx(2 * ours, rel=0.15)


def test_what_an_ensemble_promises_is_read_from_its_units(tmp_path: Path, spec: TaskSpec) -> None:
    dice = {subset_name(subset): 0.5 + 0.1 * len(subset) for subset in subsets(spec.modality_names)}
    dice |= {"ct": 0.9, "ct+mr_t1": 0.55}
    (tmp_path / "units").mkdir()
    for variant, less in ((OURS, 0.0), (ALONE, 0.05)):
        scores = {subset: dict.fromkeys(spec.scored, value - less) for subset, value in dice.items()}
        unit = {"minutes": 1.0, "gflop": 1.0, "cases": {f"case_{number}": scores for number in range(3)}}
        (tmp_path / "units" / f"{variant}-0-0.json").write_text(json.dumps(unit))
    ours = table(spec, tmp_path, list(VARIANTS)).split("\n\n")[1].splitlines()[2]
    harm = "ct > ct+pet (-0.200), ct > ct+mr_t1 (-0.350), mr_t1 > ct+mr_t1 (-0.050)"
    gain = "+0.050 (+0.050 to +0.050)"
    assert ours == f"| {OURS} | 0.250 (pet) | {harm} | {gain} | {gain} | {gain} |"


def test_a_study_goes_on_where_it_was_and_draws(tmp_path: Path, spec: TaskSpec) -> None:
    write_cases(tmp_path / "studies", spec, count=4, seed=3, size=16)
    (tmp_path / "task.yaml").write_text(TOY)
    command = [str(tmp_path / "studies"), str(tmp_path / "out"), "--task", str(tmp_path / "task.yaml"), "--steps", "1"]
    command += ["--folds", "2", "--seeds", "2", "--device", "cpu"]
    some = CliRunner().invoke(app, [*command, "--variants", OURS], env={"COLUMNS": "200"})
    assert some.exit_code == 0, some.output
    units = sorted((tmp_path / "out" / "units").iterdir())
    assert [path.name for path in units] == [f"{OURS}-{fold}-{seed}.json" for fold in (0, 1) for seed in (0, 1)]
    # as if stopped after the first and killed while doing another
    (units[0].with_suffix(".claim")).write_text("999999999")
    units[0].unlink()
    before = units[1].stat().st_mtime_ns
    command += ["--variants", f"{OURS},{ALONE},early_fusion,{PUBLISHED}", "--picture"]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert units[1].stat().st_mtime_ns == before
    assert not list((tmp_path / "out" / "units").glob("*.claim"))
    unit = json.loads(units[0].read_text())
    assert sorted(unit["cases"]) == ["phantom_000", "phantom_002"]  # every second patient
    table = (tmp_path / "out" / "table.md").read_text()
    dice, promises = table.split("\n\n")
    rows = {line.split(" | ")[0][2:]: line.split(" | ") for line in dice.splitlines()[2:]}
    assert set(rows) == {OURS, ALONE, "early_fusion", PUBLISHED, BY_EXPERTS}
    assert rows[OURS][1] == "4"
    assert "to" in rows["early_fusion"][-1]  # an interval of the difference
    assert len(promises.splitlines()) == 2 + 5
    published, answered = (
        json.loads((tmp_path / "out" / "units" / f"{name}-0-0.json").read_text())["cases"]["phantom_000"]
        for name in (PUBLISHED, BY_EXPERTS)
    )
    same = {subset for subset in published if published[subset] == answered[subset]}
    assert subset_name(spec.modality_names) in same
    assert set(published) == set(answered) > same
    assert (tmp_path / "out" / "inside.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "out" / "models").iterdir())) == 16
    other = CliRunner().invoke(app, [*command, "--steps", "2"])
    assert "expected the study that this folder holds" in str(other.exception)
    wrong = CliRunner().invoke(app, [*command, "--variants", "nobody"])
    assert wrong.exit_code == 2


def test_a_study_may_be_of_some_modalities_only(spec: TaskSpec) -> None:
    assert with_only(spec, "") == spec
    pair = with_only(spec, "pet,mr_t1")
    assert pair.modality_names == ("pet", "mr_t1")
    assert pair.reference == "pet" != spec.reference
    with pytest.raises(typer.BadParameter, match="expected some of ct, pet, mr_t1, got pet,t2"):
        with_only(spec, "pet,t2")
