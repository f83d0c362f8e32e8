"""A store of many cases: how long a server takes to start on it, and to answer, by the number of cases.

Every case is three links to small images, one in ten has a label, all have scores of a model version with features.
What the model itself takes is not in it: nothing is segmented.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import requests
import torch
import typer

from maml_app.cases.spec import TaskSpec, load_task
from maml_app.choosing.worth import CaseScore
from maml_app.disk import write_text
from maml_app.imaging.files import read_label, write_label
from maml_app.network.checkpoint import Checkpoint
from maml_app.network.ensemble import build_network
from maml_app.phantom.scene import write_cases
from maml_app.stores.choice import shipped_tasks
from maml_app.stores.folder import FolderStore
from maml_app.versions.registry import ModelRegistry
from tests.builders import keep
from tests.harness.server import Server

TASK = shipped_tasks()["sarcoma_pet_ct_mr"]
REPEATS, FEATURES, LABELLED = 15, 96, 10


def make(folder: Path, count: int, spec: TaskSpec) -> None:
    """A studies folder, and a folder of models with one version and its scores."""
    write_cases(folder / "one", spec, count=1, seed=1, size=16, labelled=1)
    (source,) = (folder / "one").iterdir()
    for number in range(count):
        case = folder / "studies" / f"case_{number:05d}"
        case.mkdir(parents=True)
        for name in spec.modality_names:
            os.link(source / f"{name}.nii.gz", case / f"{name}.nii.gz")
    store = FolderStore(folder / "studies", spec)
    first = keep(store, "case_00000", source / "label.nii.gz", author="anna")
    for number in range(LABELLED, count, LABELLED):
        home = store.label_root / f"case_{number:05d}"
        home.mkdir()
        os.link(first.path, home / first.path.name)
    registry = ModelRegistry(folder / "models" / spec.name)
    registry.belongs_to(store, claim=True)
    torch.manual_seed(0)
    notes: dict[str, object] = {"trained_on": {}, "validated_on": {}}
    sizes = len(spec.modalities), spec.classes, spec.network
    checkpoint = Checkpoint(spec.name, spec.signature(), *sizes, spec.training.patch, notes)
    network = build_network(*sizes)
    version = registry.publish(network, checkpoint, notes)
    rng = np.random.default_rng(0)
    scores = registry.scores / version
    scores.mkdir(parents=True)
    for number in range(count):
        made = score(f"case_{number:05d}", version, spec, rng)
        (scores / f"{made.case}.json").write_text(json.dumps(asdict(made)))


def score(case: str, version: str, spec: TaskSpec, rng: np.random.Generator) -> CaseScore:
    """What a model may have said of a case."""
    first, *others = spec.modality_names
    pairs = {f"{first}+{other}": {"divergence": float(rng.uniform()), "differ_ml": 3.0} for other in others}
    labels = {
        label.name: {"entropy": float(rng.uniform()), "divergence": float(rng.uniform())} for label in spec.labels
    }
    features = tuple(float(value) for value in rng.normal(size=FEATURES).round(4))
    low, high = (float(rng.uniform()) for _ in range(2))
    return CaseScore(case, version, spec.modality_names, low, high, low, pairs, labels, 5.0, 3, features)


def median_s(call: Callable[[], requests.Response]) -> float:
    """Seconds of the median of some calls; the first is not counted."""
    taken = []
    for _ in range(REPEATS + 1):
        began = time.monotonic()
        call().raise_for_status()
        taken.append(time.monotonic() - began)
    return round(float(np.median(taken[1:])), 3)


def measure(folder: Path, spec: TaskSpec) -> dict[str, float]:
    """Start a server twice, the second time with what the first one kept, and ask it."""
    conf = {"task": str(TASK), "models": str(folder / "models"), "cache": str(folder / "cache")}
    found = {}
    for name in ("first_start_s", "start_s"):
        began = time.monotonic()
        with Server(folder / "studies", folder / "log", conf=conf) as server:
            found[name] = round(time.monotonic() - began, 1)
            if name == "start_s":
                found |= answers(server.url, folder)
    return found


def answers(url: str, folder: Path) -> dict[str, float]:
    """Seconds of each call, by name."""
    session = requests.Session()
    file = next((folder / "studies" / "maml_labels").glob("*/*.nii.gz"))
    volume = read_label(file)
    numbers = iter(range(1, 1000))

    def save() -> requests.Response:
        number = next(numbers)
        voxels = np.zeros_like(volume.voxels)
        voxels.reshape(-1)[:number] = 1
        write_label(folder / "drawn.nii.gz", voxels, volume.affine)
        with (folder / "drawn.nii.gz").open("rb") as label:
            path = f"{url}/datastore/label?image=case_00005"
            return session.put(path, files={"label": ("a.nii.gz", label)}, timeout=600)

    asked: dict[str, Callable[[], requests.Response]] = {
        "info_s": lambda: session.get(f"{url}/info/", timeout=600),
        "next_random_s": lambda: session.post(f"{url}/activelearning/random", json={}, timeout=600),
        "next_maml_s": lambda: session.post(f"{url}/activelearning/maml", json={}, timeout=600),
        "datastore_s": lambda: session.get(f"{url}/datastore/", timeout=600),
        "datastore_page_s": lambda: session.get(f"{url}/datastore/?output=all&start=500&count=100", timeout=600),
        "history_s": lambda: session.get(f"{url}/maml/cases/case_00010/history", timeout=600),
        "save_s": save,
    }
    return {name: median_s(call) for name, call in asked.items()}


def main(
    out_file: Annotated[Path, typer.Argument(help="the JSON to write")],
    counts: Annotated[str, typer.Option(help="numbers of cases, with commas between")] = "100,2000,10000",
) -> None:
    """Make stores of several sizes and measure each; medians, seconds."""
    spec = load_task(TASK)
    rows = {}
    for count in map(int, counts.split(",")):
        with tempfile.TemporaryDirectory(prefix="maml-scale-") as home:
            make(Path(home), count, spec)
            rows[str(count)] = measure(Path(home), spec)
        typer.echo(f"{count} cases: {rows[str(count)]}")
        result = {"machine": f"{psutil.cpu_count()} cores, {platform.machine()}", "repeats": REPEATS, "cases": rows}
        write_text(out_file, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
