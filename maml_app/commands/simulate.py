"""`python -m maml_app simulate`: annotation played on labelled cases."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from maml_app.commands.common import MAX_SEED, Device, Studies, TaskOption, out, ready_folder, tell_unused
from maml_app.commands.opening import labelled_cases, open_task
from maml_app.errors import CaseError


def simulate(
    studies: Studies,
    out_dir: Annotated[Path, typer.Option("--out", help="folder for the reports, the curves and the states")],
    task: TaskOption = "",
    strategies: Annotated[
        str, typer.Option(help="names with commas between")
    ] = "random,foreground_random,entropy,disagreement,maml",
    rounds: Annotated[int, typer.Option(help="how often cases are added")] = 6,
    batch: Annotated[int, typer.Option(help="how many are added at a time")] = 3,
    start: Annotated[int, typer.Option(help="labelled cases to start with, drawn at random")] = 4,
    at_most: Annotated[int, typer.Option(help="labelled cases in the end")] = 20,
    seeds: Annotated[int, typer.Option(help="how many seeds: of the start, the weights, and chance")] = 5,
    first_seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="the first of them")] = 0,
    test: Annotated[
        str, typer.Option(help="ids of the test cases, with commas between; without it the validation patients")
    ] = "",
    steps: Annotated[int | None, typer.Option(min=1, help="training steps a round; without it as in task.yaml")] = None,
    device: Device = "",
) -> None:
    """Play annotation with each strategy and draw the learning curves; stopped at any moment, it goes on where it was.

    Each round trains from new weights on what is labelled by then, tests on patients that are never chosen from, and
    lets the strategy choose. Several processes with seeds of their own may share one folder.
    """
    from maml_app.choosing.curves import curves_markdown, draw_curves, summarise_curves
    from maml_app.choosing.simulate import Schedule, Simulation
    from maml_app.choosing.simulate import simulate as play
    from maml_app.disk import write_text
    from maml_app.imaging.check import usable
    from maml_app.training.load import memory_told
    from maml_app.training.split import split
    from maml_app.versions.predict import pick_device

    spec, source = open_task(studies, task)
    if steps:
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"steps": steps})})
    schedule = Schedule(
        tuple(strategies.replace(",", " ").split()),
        start=start,
        rounds=rounds,
        batch=batch,
        at_most=at_most,
        seeds=tuple(range(first_seed, first_seed + seeds)),
    )
    ready_folder(out_dir)
    labelled = usable(labelled_cases(source, spec), spec, tell_unused)
    wanted = set(test.replace(",", " ").split()) or {case.id for case in split(labelled, spec.training.validation)[1]}
    unknown = sorted(wanted - {case.id for case in labelled})
    if unknown:
        raise CaseError(f"--test: expected ids of labelled cases, got {', '.join(unknown)}")
    held = [case for case in labelled if case.id in wanted]
    chosen = [case for case in labelled if case.id not in wanted and not case.held_out]
    if not any(set(spec.modality_names) <= set(case.images) for case in held):
        out.print("no test case has all modalities: there will be no Dice of all of them together", style="yellow")
    simulation = Simulation(spec, chosen, held, out_dir, pick_device(device))
    with memory_told():
        curves = play(simulation, schedule, lambda text: out.print(text, soft_wrap=True))
    summary = summarise_curves(curves)
    seen = f"{len(chosen)} cases to choose from, {len(held)} to test, {spec.training.steps} steps a round"
    head = f"{spec.title}: {seen}, from new weights each time; {len(schedule.seeds)} seeds; {simulation.device}."
    report = {"plan": asdict(schedule), "test": sorted(wanted), "task": spec.model_dump(mode="json")}
    texts = {
        "report.json": json.dumps({**report, "summary": summary, "curves": curves}, indent=1),
        "report.md": curves_markdown(curves, summary, head),
    }
    for name, text in texts.items():
        write_text(out_dir / name, text)
    draw_curves(out_dir / "curves.png", curves)
    out.print(texts["report.md"], markup=False)
    out.print(f"written to {out_dir}")
