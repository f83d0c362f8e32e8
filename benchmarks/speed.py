"""What a request and a training step cost: ratios to named rivals, each pair run in turn in one process.

Parts: `windows2`, `windows3`, `windows4`, `steps2`, `steps3`, `steps4` (windows and training steps of so many
modalities against an early-fusion U-Net), `growth` (of a window with its voxels), `samples` (training patches from
prepared cases and from files), `request` (a case through the infer task against MONAI Label's stock task with MONAI's
transforms around the same network), `brain` (the same for four sequences of a brain on nothing), `stem` (the same as
`brain`, the network with a stem), `memory` (of a large request), `threads` (two threads alone and beside a busy
process), `start` (command line and server). One thread unless said.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import openvino
import torch
import typer
from monai.networks.nets.dynunet import DynUNet
from torch import nn

from benchmarks.speed_request import (
    STEM,
    WIDTHS,
    Seconds,
    abdomen,
    against,
    brain,
    four_sequences,
    memory,
    request,
    two_phases,
    write_phases,
)
from maml_app.disk import write_text
from maml_app.imaging.files import write_label
from maml_app.imaging.labels import prepare_label
from maml_app.imaging.preprocess import prepare
from maml_app.lean import lean_path
from maml_app.network.compiled import Compiled
from maml_app.network.ensemble import SegmentationNetwork, build_network
from maml_app.network.layers import QUICK
from maml_app.network.losses import MutualLearningLoss
from maml_app.network.settings import Loss
from maml_app.network.unet import NORM
from maml_app.network.window import Answering
from maml_app.stores.choice import shipped_tasks
from maml_app.stores.folder import FolderStore
from maml_app.training.dataset import PatchSource, build_samples, load_sample
from tests.harness.server import Server

RIVAL = WIDTHS.model_copy(update={"kind": "early-fusion"})
DYNUNET = "MONAI's DynUNet"


def in_turn(calls: Mapping[str, Callable[[], object]], repeats: int) -> Seconds:
    """Median seconds of each, all of them once and then again, so that what else the machine does meets all alike."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn:  # the first one warms up
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in taken.items()}


def windows(modalities: int, side: int, repeats: int) -> dict[str, Any]:
    """Seconds of a window of this many voxels along each axis, of so many modalities.

    In bfloat16 as well where the processor multiplies it itself.
    """
    maml, rival, stem = (build_network(modalities, 4, settings).eval() for settings in (WIDTHS, RIVAL, STEM))
    window = torch.randn(1, modalities, side, side, side)
    everything = torch.ones(modalities, dtype=torch.bool)
    calls: dict[str, Callable[[], object]] = {
        DYNUNET: partial(dynunet(modalities), window),
        "early fusion": partial(Answering(rival, everything), window),
    }
    for count in range(1, modalities + 1):
        present = torch.arange(modalities) < count
        calls[f"{count} of {modalities}"] = partial(Answering(maml, present), window)
    calls["a stem"] = partial(Answering(stem, everything), window)
    for name, network in (("early fusion", rival), (f"{modalities} of {modalities}", maml), ("a stem", stem)):
        calls[f"{name}, torch's own layers"] = partial(Answering(torchs_own(network), everything), window)
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    halves = (False, True) if "BF16" in able else (False,)
    for name, network in (("early fusion", rival), (f"{modalities} of {modalities}", maml), ("a stem", stem)):
        for half in halves:
            graph = Compiled(network, window.shape[2:], half).answer(everything, wait=True)
            assert graph is not None
            calls[f"{name}, OpenVINO{' bfloat16' * half}"] = partial(graph, window)
    with torch.inference_mode():
        seconds = in_turn(calls, repeats)
    return {f"{modalities} modalities, {side} voxels": against(seconds, DYNUNET)}


def steps(modalities: int, side: int, repeats: int) -> dict[str, Any]:
    """Seconds of a training step on one patch of this many voxels along each axis, of so many modalities."""
    maml, rival, stem = (build_network(modalities, 4, settings).eval() for settings in (WIDTHS, RIVAL, STEM))
    window = torch.randn(1, modalities, side, side, side)
    apart = torch.cat([torch.eye(modalities)[:, None], torch.ones(1, 1, modalities)]) > 0
    seconds = in_turn(
        {
            "training step, early fusion": training_step(rival, window, None),
            "training step": training_step(maml, window, torch.ones(1, 1, modalities, dtype=torch.bool)),
            "training step, each alone": training_step(maml, window, apart),
            "training step, each alone, a stem": training_step(stem, window, apart),
        },
        max(1, repeats // 2),
    )
    return {f"{modalities} modalities, {side} voxels": against(seconds, "training step, early fusion")}


def dynunet(modalities: int) -> nn.Module:
    """The rival as MONAI builds it: a U-Net on all modalities as channels, in torch's default layout."""
    wide = [round(channel * RIVAL.fusion_width) for channel in RIVAL.channels]
    network: nn.Module = DynUNet(
        3, modalities, 4, [3] * len(wide), RIVAL.strides, RIVAL.strides[1:], filters=wide, norm_name=NORM
    )
    return network.eval()


def torchs_own(network: SegmentationNetwork) -> SegmentationNetwork:
    """The same network, in the same layout, without its quicker layers."""
    own = {quick: slow for slow, quick in QUICK.items()}
    plain = copy.deepcopy(network)
    for module in plain.modules():
        module.__class__ = own.get(type(module), type(module))
    return plain


def training_step(network: SegmentationNetwork, window: torch.Tensor, parts: torch.Tensor | None) -> Callable[[], None]:
    """Forward, loss and backward on one patch."""
    loss, truth = MutualLearningLoss(Loss()), (torch.rand(1, *window.shape[2:]) > 0.9).long()
    everything = torch.ones(1, window.shape[1], dtype=torch.bool)

    def step() -> None:
        network.train()
        loss(network(window, everything, parts), truth)["total"].backward()
        network.zero_grad()
        network.eval()

    return step


def growth(repeats: int) -> dict[str, Any]:
    """Seconds of a window by its voxels, all of three modalities there and one of them; ratios for the same voxels."""
    network = build_network(3, 4, WIDTHS).eval()
    found: dict[str, Any] = {}
    for count in (3, 1):
        present = torch.arange(3) < count
        windows = {side: torch.randn(1, 3, side, side, side) for side in (32, 64, 96, 128)}
        with torch.inference_mode():
            seconds = in_turn(
                {str(side): partial(Answering(network, present), window) for side, window in windows.items()}, repeats
            )
        a_voxel = {side: value / int(side) ** 3 for side, value in seconds.items()}
        found[f"{count} of 3 modalities"] = {
            f"{side}³": {"s": round(seconds[side], 4), "ratio of a voxel": round(a_voxel[side] / a_voxel["64"], 3)}
            for side in seconds
        }
    return found


def samples(folder: Path, repeats: int) -> dict[str, Any]:
    """Seconds of one augmented patch of two phases of 512 × 512 × 200: the case prepared before, or anew each time."""
    spec, home = two_phases(), folder / "samples"
    phases, truth = abdomen((512, 512, 200))
    affine = np.diag([0.8, 0.8, 2.5, 1.0])
    write_phases(home / "case", spec, phases, affine)
    write_label(home / "case" / "label.nii.gz", truth, affine)
    [case] = FolderStore(home, spec).cases()
    built = build_samples([case], spec, folder / "prepared")
    source = PatchSource([load_sample(*item) for item in built.items()], spec, 0)

    def from_files() -> None:
        prepare_label(case, spec, prepare(case, spec).grid)
        source.batch(0, [0])

    calls = {"from the files": from_files, "from the prepared case": lambda: source.batch(0, [0])}
    return against(in_turn(calls, repeats), "from the files")


BUSY = """
import subprocess, sys, time, statistics, torch
from benchmarks.speed import WIDTHS, build_network
torch.set_num_threads(2)
network, images = build_network(3, 2, WIDTHS).eval(), torch.randn(1, 3, 64, 64, 64)
present = torch.ones(1, 3, dtype=torch.bool)
def median():
    taken = []
    with torch.inference_mode():
        for turn in range(6):
            began = time.perf_counter()
            network(images, present)
            taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])
quiet = median()
other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
try:
    print(quiet, median())
finally:
    other.kill()
"""


def threads() -> dict[str, Any]:
    """Two threads alone, and beside a process that keeps a core busy, by how threads wait for each other."""
    found = {}
    for policy in ("ACTIVE", "PASSIVE"):
        environment = {**os.environ, "OMP_WAIT_POLICY": policy, "OMP_NUM_THREADS": "2"}
        done = subprocess.run([sys.executable, "-c", BUSY], env=environment, capture_output=True, text=True, check=True)
        quiet, busy = map(float, done.stdout.split())
        found[policy.lower()] = {"quiet_s": round(quiet, 3), "busy_s": round(busy, 3), "ratio": round(busy / quiet, 2)}
    return found


def start(folder: Path) -> dict[str, Any]:
    """Seconds until the command line's help, and until a server on no studies answers; what they cannot do without."""

    def run(*words: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        return time.perf_counter() - began

    seconds = in_turn(
        {
            "import of MONAI Label's server": lambda: run("-c", "import monailabel.main, monailabel.app"),
            "python -m maml_app --help": lambda: run("-m", "maml_app", "--help"),
            "the app, as a training loads it": lambda: run("-c", "import maml_app.main"),
            "the same with all that MONAI tries": lambda: run("-c", "import maml_app.app"),
        },
        3,
    )
    (folder / "none").mkdir()
    conf = {"task": str(shipped_tasks()["sarcoma_pet_ct_mr"]), "models": str(folder / "m"), "cache": str(folder / "c")}
    plain = os.environ.get("PYTHONPATH", "")
    for program, path in (("monailabel start_server", plain), ("maml-app serve", lean_path())):
        os.environ["PYTHONPATH"] = path
        began = time.perf_counter()
        with Server(folder / "none", folder / "log", conf=conf):
            seconds[f"{program}, until it answers"] = time.perf_counter() - began
    os.environ["PYTHONPATH"] = plain
    return against(seconds, "import of MONAI Label's server")


def main(
    out: Annotated[Path, typer.Argument(help="JSON file; parts that are not run anew stay in it")],
    parts: Annotated[str, typer.Option(help="names with commas between")] = (
        "windows2,windows3,windows4,steps2,steps3,steps4,growth,samples,request,brain,stem,memory,threads,start"
    ),
    side: Annotated[int, typer.Option(help="of a window, voxels")] = 64,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Measure, print, and keep the numbers."""
    torch.set_num_threads(1)
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measured: dict[str, Callable[[], dict[str, Any]]] = {
            **{f"windows{count}": partial(windows, count, side, repeats) for count in (2, 3, 4)},
            **{f"steps{count}": partial(steps, count, side, repeats) for count in (2, 3, 4)},
            "growth": lambda: growth(repeats),
            "samples": lambda: samples(folder, repeats),
            "request": lambda: request(folder / "abdomen", two_phases(), *abdomen((512, 512, 200)), (0.8, 0.8, 2.5)),
            "brain": lambda: request(folder / "brain", four_sequences(), *brain((240, 240, 155)), (1.0, 1.0, 1.0)),
            "stem": lambda: request(folder / "stem", four_sequences(STEM), *brain((240, 240, 155)), (1.0, 1.0, 1.0)),
            "memory": lambda: memory(folder),
            "threads": threads,
            "start": lambda: start(folder),
        }
        for part in parts.split(","):
            if part not in measured:
                raise typer.BadParameter(f"expected some of {', '.join(measured)}, got {part!r}")
            name, told = part.rstrip("234"), measured[part]()
            # those of another size, or of other modalities, stay
            found[name] = (found.get(name, {}) if name != part else {}) | told
            machine = {"processor": processor(), "cores": os.cpu_count(), "torch": torch.__version__}
            found["machines"] = found.get("machines", {}) | {name: machine}
            write_text(out, json.dumps(found, indent=1) + "\n")
            print(json.dumps({name: told}, indent=1), flush=True)


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    typer.run(main)
