"""Rivals and ablations under one trainer: who segments better, with how much arithmetic, under each subset.

Each unit (variant, split, seed) is one JSON file; a stopped study goes on where it was, and several processes may share
the folder. The table is made of the units that are there, and says how many.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from maml_app.cases.case import Case, subsets
from maml_app.cases.spec import TaskSpec, parse_task
from maml_app.errors import MamlError, TrainingError
from maml_app.imaging.files import write_bytes, write_text
from maml_app.learning.evaluate import case_means, evaluate, subset_name, summarise
from maml_app.learning.figures import inside
from maml_app.learning.metrics import bootstrap_interval, mean
from maml_app.learning.predict import load_model, pick_device
from maml_app.learning.registry import store_model
from maml_app.learning.report import table_header, table_row
from maml_app.learning.train import train
from maml_app.network.ensemble import MamlEnsemble, build_network
from maml_app.network.fusion import AverageHead
from maml_app.stores.choice import choose_task
from maml_app.stores.folder import FolderStore

out = Console(highlight=False)
OURS = "maml"
ALONE = "single_unets_averaged"
PUBLISHED = "maml_as_published"
# the same models: the paper does not say what answers where a modality is missing; here the mean of its experts
BY_EXPERTS = "maml_as_published_by_experts"

Change = dict[str, Any]
NO_LEARNING_TOGETHER: Change = {"mutual": 0.0, "subset": 0.0, "consistency": 0.0, "ranking": 0.0}
# what differs from the task file, by section
RIVALS: dict[str, dict[str, Change]] = {
    OURS: {},
    "early_fusion_dropout": {"network": {"kind": "early-fusion", "fusion_width": 1.75}},
    "early_fusion_dropout_double": {"network": {"kind": "early-fusion", "fusion_width": 2.5}},
    "early_fusion": {
        "network": {"kind": "early-fusion", "fusion_width": 1.75},
        "training": {"modality_dropout": 0.0},
    },
    ALONE: {
        "network": {"head": "average", "shared_decoder": False},
        "loss": {**NO_LEARNING_TOGETHER, "fused": 0.0, "experts": 1.0},
    },
    PUBLISHED: {
        "network": {"head": "paper", "shared_decoder": False},
        "loss": {"subset": 0.0, "consistency": 0.0, "ranking": 0.0},
    },
}
ABLATIONS: dict[str, dict[str, Change]] = {
    "attention_alone": {"network": {"head": "light"}},
    "own_decoders": {"network": {"shared_decoder": False}},
    "attention_alone_own_decoders": {"network": {"head": "light", "shared_decoder": False}},
    "without_mutual": {"loss": {"mutual": 0.0}},
    "without_subset_and_consistency": {"loss": {"subset": 0.0, "consistency": 0.0, "ranking": 0.0}},
    "without_consistency": {"loss": {"consistency": 0.0}},
    "with_ranking": {"loss": {"ranking": 0.5}},
    "without_experts_loss": {"loss": {"experts": 0.0, "mutual": 0.0}},
    "temperature_2": {"loss": {"temperature": 2.0}},
    "without_deep_supervision": {"loss": {"deep": 0.0}},
    "without_clipping": {"training": {"clip": 0.0}},
    "without_ema": {"training": {"ema": False}},
    "with_sgd": {"training": {"optimiser": "sgd", "learning_rate": 0.01}},
    "with_agreement": {"network": {"agreement": True}},
    "with_crosstalk": {"network": {"crosstalk": True}},
    "with_more_augmentation": {"augment": {"misalignment_mm": 3.0, "elastic_mm": 6.0, "low_resolution": 0.2}},
    "without_foreground_oversampling": {"training": {"foreground": 0.0}},
}
VARIANTS = {**RIVALS, **ABLATIONS}
ROWS = [*RIVALS, BY_EXPERTS, *ABLATIONS]


def changed(spec: TaskSpec, change: Mapping[str, Change]) -> TaskSpec:
    """The task with some settings of its network, training, loss or augmentation changed, validated again."""
    content = spec.model_dump(mode="json")
    content["training"]["validation"] = 0.0
    places = {
        "network": content["network"],
        "training": content["training"],
        "loss": content["training"]["loss"],
        "augment": content["training"]["augment"],
    }
    for section, values in change.items():
        places[section].update(values)
    return parse_task(json.dumps(content), "variant")


def arithmetic(spec: TaskSpec) -> float:
    """Billions of floating-point operations of one forward pass on one patch with all modalities."""
    network = build_network(len(spec.modalities), spec.classes, spec.network.model_dump()).eval()
    images = torch.zeros(1, len(spec.modalities), *spec.training.patch)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(images, torch.ones(images.shape[:2], dtype=torch.bool))
    return float(counter.get_total_flops()) / 1e9


def splits(cases: list[Case], test: str, folds: int) -> list[list[str]]:
    """The test cases of each split: the ones named, or folds by patient."""
    if test:
        return [test.replace(",", " ").split()]
    patients = sorted({case.patient_id for case in cases})
    return [[case.id for case in cases if case.patient_id in patients[fold::folds]] for fold in range(folds)]


def run_unit(
    spec: TaskSpec, cases: list[Case], held: list[str], seed: int, device: torch.device, out_dir: Path, model: Path
) -> dict[str, Any]:
    """Train on all but the held cases, keep the model, and score it on them.

    `minutes` of training are of the processor on a CPU, as other work may share it, and of the clock on a GPU.
    """
    clock = time.monotonic if device.type == "cuda" else time.process_time
    began = clock()
    training = [case for case in cases if case.id not in held]
    result = train(spec, training, seed=seed, device=device, prepared=out_dir / "prepared")
    minutes = (clock() - began) / 60
    store_model(model, result.network, result.checkpoint)
    scores = evaluate(result.network, [c for c in cases if c.id in held], spec, spec.training.patch, device)
    return {
        "minutes": round(minutes, 2),
        "gflop": round(arithmetic(spec), 2),
        "steps": spec.training.steps,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cases": scores["cases"],
    }


def by_experts(
    unit: dict[str, Any], network: MamlEnsemble, cases: list[Case], spec: TaskSpec, device: torch.device
) -> dict[str, Any]:
    """A unit's cases scored with the mean of the experts' opinions wherever a modality is missing."""
    average = copy.deepcopy(network)
    average.head, average.averaged = AverageHead(len(spec.modalities), spec.network.channels[0], spec.classes), True
    scores = evaluate(average, cases, spec, spec.training.patch, device)["cases"]
    full = subset_name(spec.modality_names)
    whole = {case: {full: known[full]} if full in known else {} for case, known in unit["cases"].items()}
    return {**unit, "cases": {case: {**scores[case], **whole[case]} for case in scores}}


def table(spec: TaskSpec, folder: Path, names: list[str]) -> str:
    """What the units in a folder show, as Markdown; Dice by case is averaged over seeds, then over cases.

    One table of Dice under each subset, and one of what an ensemble promises. Differences are between units of the same
    splits and seeds.
    """
    # variant -> "split-seed" -> unit
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted((folder / "units").glob("*.json")):
        name, split, seed = path.stem.rsplit("-", 2)
        found.setdefault(name, {})[f"{split}-{seed}"] = json.loads(path.read_text(encoding="utf-8"))
    reports = {name: summarise(_merged(found[name].values()), spec) for name in names if name in found}
    if not reports:
        return "nothing yet\n"
    columns = list(reports[next(iter(reports))]["subsets"])
    full = subset_name(spec.modality_names)
    head = ["variant", "units", "GFLOP", "min", *columns, "mean over subsets", "minus ours, mean", "minus ours, full"]
    lines = table_header(*head)
    for name, report in reports.items():
        units = list(found[name].values())
        numbers = [f"{report['subsets'][subset]['mean']:.3f}" for subset in columns]
        low, high = report["interval"] or (float("nan"), float("nan"))
        both = sorted(found[name].keys() & found.get(OURS, {}).keys())
        theirs, ours = (_merged([found[one][key] for key in both]) for one in (name, OURS))
        gaps = [_gap(theirs, ours, subset) if name != OURS else "–" for subset in (None, full)]
        cells = [name, str(len(units)), f"{units[0]['gflop']:.1f}", f"{mean([u['minutes'] for u in units]):.1f}"]
        cells += [*numbers, f"{report['mean']:.3f} ({low:.3f} to {high:.3f})", *gaps]
        lines.append(table_row(*cells))
    lines += ["", *_promises(spec, {name: reports[name] for name in (*RIVALS, BY_EXPERTS) if name in reports})]
    return "\n".join(lines) + "\n"


def _promises(spec: TaskSpec, reports: Mapping[str, dict[str, Any]]) -> list[str]:
    """What a missing modality costs at most, where one more does harm, and each alone minus a U-Net trained on it.

    U-Nets without mutual learning whose opinions are averaged are, under a single modality, that U-Net.
    """
    singles = [(name,) for name in spec.modality_names]
    lines = table_header(
        "variant",
        "missing one costs at most",
        "worse with one more",
        *(f"{name} minus its U-Net alone" for name in spec.modality_names),
    )
    for variant, report in reports.items():
        dice = {subset: report["subsets"][subset_name(subset)]["mean"] for subset in subsets(spec.modality_names)}
        more = [(fewer, subset) for subset in dice for fewer in dice if set(fewer) < set(subset)]
        next_to = [(fewer, subset) for fewer, subset in more if len(fewer) + 1 == len(subset)]
        costs = [(dice[subset] - dice[fewer], fewer) for fewer, subset in next_to if subset == spec.modality_names]
        cost, left = max(costs)
        missing = next(name for name in spec.modality_names if name not in left)
        harm = [
            f"{subset_name(fewer)} > {subset_name(subset)} ({dice[subset] - dice[fewer]:+.3f})"
            for fewer, subset in next_to
            if dice[subset] < dice[fewer]
        ]
        alone = [
            _gap(report["cases"], reports[ALONE]["cases"], subset_name(single))
            if ALONE in reports and variant != ALONE
            else "–"
            for single in singles
        ]
        lines.append(table_row(variant, f"{cost:.3f} ({missing})", ", ".join(harm) or "none", *alone))
    return lines


def _merged(units: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Dice by case, subset and name, averaged over the seeds that scored the case."""
    every: dict[str, list[Any]] = {}
    for unit in units:
        for case_id, scores in unit["cases"].items():
            every.setdefault(case_id, []).append(scores)
    return {
        case_id: {
            subset: {name: mean([one[subset][name] for one in scored]) for name in scored[0][subset]}
            for subset in scored[0]
        }
        for case_id, scored in every.items()
    }


def _gap(one: dict[str, Any], other: dict[str, Any], subset: str | None) -> str:
    ours, theirs = case_means(other, subset), case_means(one, subset)
    differences = [theirs[case_id] - ours[case_id] for case_id in theirs if case_id in ours]
    interval = bootstrap_interval(differences)
    if interval is None:
        return "–"
    return f"{mean(differences):+.3f} ({interval[0]:+.3f} to {interval[1]:+.3f})"


def main(
    studies: Annotated[Path, typer.Argument(help="folder of labelled studies")],
    out_dir: Annotated[Path, typer.Argument(help="folder for the units and the table")],
    task: Annotated[str, typer.Option(help="a shipped task's name or a path to a task.yaml")] = "sarcoma_pet_ct_mr",
    variants: Annotated[str, typer.Option(help="names with commas between; `rivals`, `ablations`, `all`")] = "all",
    test: Annotated[str, typer.Option(help="ids of the test cases with commas; without it folds by patient")] = "",
    leave_out: Annotated[str, typer.Option(help="cases to do without, ids with commas between")] = "",
    folds: Annotated[int, typer.Option(min=2)] = 5,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    steps: Annotated[int | None, typer.Option(min=1, help="without it as in task.yaml")] = None,
    device: Annotated[str, typer.Option(help="cuda, cpu; without it the GPU if there is one")] = "",
    picture: Annotated[bool, typer.Option("--picture", help="also draw what goes on in the ensemble")] = False,
) -> None:
    """Train and score variants of a task's network and loss; print and write the table."""
    groups = {"rivals": list(RIVALS), "ablations": list(ABLATIONS), "all": list(VARIANTS)}
    names = [name for word in variants.split(",") for name in groups.get(word, [word])]
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise typer.BadParameter(f"expected some of {', '.join([*groups, *VARIANTS])}, got {', '.join(unknown)}")
    spec = choose_task(studies, task)
    where = pick_device(device)
    left = leave_out.replace(",", " ").split()
    cases = [case for case in FolderStore(studies, spec).cases() if case.label is not None and case.id not in left]
    parts = splits(cases, test, folds)
    _same_study(out_dir / "study.json", spec, parts, steps or spec.training.steps)
    for seed in range(seeds):
        for number, held in enumerate(parts):
            for name in names:
                change = VARIANTS[name]
                if steps:
                    change = {**change, "training": {**change.get("training", {}), "steps": steps}}
                path = out_dir / "units" / f"{name}-{number}-{seed}.json"
                claim = path.with_suffix(".claim")
                if path.exists() or not _claimed(claim):
                    continue
                try:
                    model = out_dir / "models" / f"{path.stem}.safetensors"
                    unit = run_unit(changed(spec, change), cases, held, seed, where, out_dir, model)
                    if name == PUBLISHED:
                        network = load_model(model, changed(spec, change), name, where).network
                        assert isinstance(network, MamlEnsemble)
                        part = by_experts(unit, network, [case for case in cases if case.id in held], spec, where)
                        write_text(path.with_name(f"{BY_EXPERTS}-{number}-{seed}.json"), json.dumps(part, indent=1))
                    write_text(path, json.dumps(unit, indent=1))
                finally:
                    claim.unlink()
                scores = summarise(unit["cases"], spec)
                out.print(
                    f"{name}, split {number}, seed {seed}: mean over subsets {scores['mean']:.3f}, "
                    f"all modalities {scores['full']:.3f}, {unit['minutes']} min"
                )
    if picture:
        _picture(spec, cases, parts[0], out_dir)
    write_text(out_dir / "table.md", table(spec, out_dir, ROWS))
    out.print(table(spec, out_dir, ROWS), markup=False, soft_wrap=True)


def _same_study(path: Path, spec: TaskSpec, parts: list[list[str]], steps: int) -> None:
    """Units of one folder are compared with each other: they must be of one task, its splits and steps."""
    wanted = {"task": spec.model_dump(mode="json"), "splits": parts, "steps": steps}
    if not path.exists():
        write_text(path, json.dumps(wanted, indent=1))
    elif json.loads(path.read_text(encoding="utf-8")) != wanted:
        raise TrainingError(f"{path}: expected the study that this folder holds, got another task, split or steps")


def _picture(spec: TaskSpec, cases: list[Case], held: list[str], out_dir: Path) -> None:
    """What each expert of our first model sees in the first held case, the attention, and the fused result."""
    model = load_model(out_dir / "models" / f"{OURS}-0-0.safetensors", changed(spec, {}), OURS, torch.device("cpu"))
    assert isinstance(model.network, MamlEnsemble)
    case = next(case for case in cases if case.id in held and not case.missing(spec.modality_names))
    content = inside(model.network, case, spec, spec.training.patch, model.device)
    write_bytes(out_dir / "inside.png", content)


def _claimed(path: Path) -> bool:
    """Whether this process is the first to take the unit; the claim of a process that was killed is taken over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        try:
            os.kill(int(path.read_text() or "0"), 0)
            return False
        except (ProcessLookupError, ValueError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return _claimed(path)
    return True


if __name__ == "__main__":
    try:
        typer.run(main)
    except MamlError as error:
        raise SystemExit(f"error: {error}") from None
