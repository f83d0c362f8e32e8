"""What a request and a training step cost: ratios to named rivals, each pair run in turn in one process.

Parts: `forward` (windows and training steps against an early-fusion U-Net), `request` (a case through the infer task
against MONAI Label's stock task with MONAI's transforms around the same network), `threads` (two threads alone and
beside a busy process), `start` (command line and server). One thread unless said.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import nibabel as nib
import numpy as np
import torch
import typer
from monai.inferers.inferer import SlidingWindowInferer
from monai.transforms.intensity.dictionary import NormalizeIntensityd
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.post.dictionary import Activationsd, AsDiscreted
from monai.transforms.spatial.array import Resize
from monai.transforms.spatial.dictionary import Orientationd, Spacingd
from monai.transforms.transform import MapTransform
from monai.transforms.utility.dictionary import DeleteItemsd, EnsureChannelFirstd
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask

from maml_app.cases.spec import TaskSpec, load_task
from maml_app.disk import write_text
from maml_app.imaging.files import write_image
from maml_app.imaging.volume import Volume
from maml_app.network.checkpoint import Checkpoint
from maml_app.network.compiled import Compiled
from maml_app.network.ensemble import Outputs, SegmentationNetwork, build_network
from maml_app.network.losses import MutualLearningLoss
from maml_app.network.settings import Loss, Network
from maml_app.network.window import Answering
from maml_app.stores.choice import shipped_tasks
from maml_app.stores.folder import FolderStore
from maml_app.tasks.infer import SegmentCase
from maml_app.versions.registry import ModelRegistry
from tests.harness.server import Server

# a rival is twice as wide
WIDTHS = Network(channels=(16, 32, 64, 128), strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)))
RIVAL = WIDTHS.model_copy(update={"kind": "early-fusion"})
SPACING_MM, PATCH = 3.0, (64, 64, 64)
Seconds = dict[str, float]


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


def forward(side: int, repeats: int) -> dict[str, Any]:
    """Seconds of a window of this many voxels along each axis, and of a training step, by number of modalities."""
    found: dict[str, Any] = {}
    for modalities in (2, 3, 4):
        maml, rival = (build_network(modalities, 4, settings).eval() for settings in (WIDTHS, RIVAL))
        window = torch.randn(1, modalities, side, side, side)
        everything = torch.ones(modalities, dtype=torch.bool)
        windows: dict[str, Callable[[], object]] = {"early fusion": partial(Answering(rival, everything), window)}
        for count in range(1, modalities + 1):
            present = torch.arange(modalities) < count
            windows[f"{count} of {modalities}"] = partial(Answering(maml, present), window)
        for name, network in (("early fusion", rival), (f"{modalities} of {modalities}", maml)):
            for half in (False, True):
                graph = Compiled(network, window.shape[2:], half).answer(everything, wait=True)
                assert graph is not None
                windows[f"{name}, OpenVINO{' bfloat16' * half}"] = partial(graph, window)
        with torch.inference_mode():
            seconds = in_turn(windows, repeats)
        steps = in_turn(
            {
                "training step, early fusion": training_step(rival, window, None),
                "training step": training_step(maml, window, torch.ones(1, 1, modalities, dtype=torch.bool)),
                "training step, each alone": training_step(
                    maml, window, torch.cat([torch.eye(modalities)[:, None], torch.ones(1, 1, modalities)]) > 0
                ),
            },
            max(1, repeats // 2),
        )
        found[f"{modalities} modalities, {side} voxels"] = against(seconds, "early fusion") | against(
            steps, "training step, early fusion"
        )
    return found


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


def against(seconds: Seconds, rival: str) -> dict[str, dict[str, float]]:
    """Each with its share of the rival's time."""
    return {name: {"s": round(value, 4), "ratio": round(value / seconds[rival], 3)} for name, value in seconds.items()}


class ResizedBack(MapTransform):  # type: ignore[misc]  # this part of MONAI has no types
    """A mask to the image's own size by nearest neighbours, as MONAI Label's `Restored` does."""

    def __call__(self, data: Any) -> Any:
        found = dict(data)
        for key in self.keys:
            size = found["image"].meta["spatial_shape"][:3]
            found[key] = Resize(spatial_size=size, mode="nearest")(found[key])
        return found


class Stock(BasicInferTask):  # type: ignore[misc]  # MONAI Label has no types
    """MONAI Label's task as its radiology app builds them, for channels that lie on one grid in one file."""

    def __init__(self, path: Path, network: torch.nn.Module) -> None:
        labels = {"liver": 1, "tumour": 2}
        super().__init__(str(path), network, InferType.SEGMENTATION, labels, 3, "stock")

    def pre_transforms(self, data: Any = None) -> list[Any]:
        return [
            LoadImaged(keys="image"),
            DeleteItemsd(keys="image_path"),  # Spacingd of MONAI 1.6 takes it for the image's metadata
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS"),
            Spacingd(keys="image", pixdim=[SPACING_MM] * 3),
            NormalizeIntensityd(keys="image", channel_wise=True),
        ]

    def inferer(self, data: Any = None) -> Any:
        return SlidingWindowInferer(roi_size=PATCH, sw_batch_size=1, overlap=0.5, mode="gaussian")

    def post_transforms(self, data: Any = None) -> list[Any]:
        return [
            Activationsd(keys="pred", softmax=True),
            AsDiscreted(keys="pred", argmax=True),
            ResizedBack(keys="pred"),
        ]

    def writer(self, data: Any, extension: Any = None, dtype: Any = None) -> Any:
        """Its own stumbles over the affine of an image with four axes."""
        file = Path(data["image"].meta["filename_or_obj"]).with_name("answer.nii.gz")
        mask = np.asarray(data["pred"])[0].astype(np.uint8)
        nib.save(nib.Nifti1Image(mask, np.asarray(data["image"].meta["original_affine"])), file)
        return str(file), {}


class Fused(torch.nn.Module):
    """The ensemble as stock code knows networks: images to logits."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs: Outputs = self.network(images, torch.ones(images.shape[:2], dtype=torch.bool))
        return outputs.fused[0]


def request(folder: Path, shape: tuple[int, int, int], zooms: tuple[float, float, float]) -> dict[str, Any]:
    """Seconds of whole requests for a case of two CT phases on one grid, the answer written as .nii.gz included."""
    spec = two_phases()
    (folder / "studies" / "case").mkdir(parents=True)
    rng = np.random.default_rng(0)
    phases, affine = [], np.diag([*zooms, 1.0])
    for name in spec.modality_names:
        planes = rng.normal(0, 200, (shape[0] // 8, shape[1] // 8, shape[2]))
        phases.append(Volume(np.repeat(np.repeat(planes.round(), 8, axis=0), 8, axis=1), affine))
        write_image(folder / "studies" / "case" / f"{name}.nii.gz", phases[-1])
    stacked = np.stack([phase.voxels for phase in phases], axis=-1).astype(np.int16)
    nib.save(nib.Nifti1Image(stacked, affine), folder / "stacked.nii.gz")
    network = build_network(2, spec.classes, WIDTHS).eval()
    torch.save({"model": Fused(network).state_dict()}, folder / "stock.pt")
    registry = ModelRegistry(folder / "models")
    registry.publish(network, Checkpoint(spec.name, spec.signature(), 2, spec.classes, WIDTHS, PATCH), {})
    store = FolderStore(folder / "studies", spec)
    stock: Any = Stock(folder / "stock.pt", Fused(build_network(2, spec.classes, WIDTHS)))

    def ours(task: SegmentCase, series: str) -> None:
        file, _ = task({"image": f"case@{series}", "result_extension": ".nii.gz", "device": "cpu"})
        Path(file).unlink()

    plain, fast = SegmentCase(store, spec, registry), SegmentCase(store, spec, registry, "openvino")
    graph = fast.model("cpu").compiled
    assert graph is not None
    graph.answer(torch.ones(2, dtype=torch.bool), wait=True)
    seconds: Seconds = {}
    first, second = spec.modality_names
    calls: dict[str, Callable[[], None]] = {
        "stock": lambda: Path(
            stock({"image": str(folder / "stacked.nii.gz"), "device": "cpu", "result_extension": ".nii.gz"})[0]
        ).unlink(),
        "torch, first": lambda: ours(plain, first),
        "torch, again": lambda: ours(plain, first),
        "torch, another series": lambda: ours(plain, second),
        "OpenVINO, first": lambda: ours(fast, first),
        "OpenVINO, another series": lambda: ours(fast, second),
    }
    for name, call in calls.items():
        began = time.perf_counter()
        call()
        seconds[name] = time.perf_counter() - began
        print(name, round(seconds[name], 2), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {" × ".join(map(str, shape)): against(seconds, "stock"), "peak memory of all, GB": round(peak, 2)}


def two_phases() -> TaskSpec:
    """The liver task with two phases, on the benchmark's network and grid."""
    spec = load_task(shipped_tasks()["liver_multiphase_ct"])
    kept = tuple(spec.modalities[:2])
    preprocess = spec.preprocess.model_copy(update={"spacing_mm": (SPACING_MM,) * 3})
    training = spec.training.model_copy(update={"patch": PATCH})
    changes = {"modalities": kept, "reference": kept[0].name, "preprocess": preprocess, "training": training}
    return spec.model_copy(update={**changes, "network": WIDTHS})


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
        },
        3,
    )
    (folder / "none").mkdir()
    began = time.perf_counter()
    conf = {"task": str(shipped_tasks()["sarcoma_pet_ct_mr"]), "models": str(folder / "m"), "cache": str(folder / "c")}
    with Server(folder / "none", folder / "log", conf=conf):
        seconds["the server, until it answers"] = time.perf_counter() - began
    return against(seconds, "import of MONAI Label's server")


def main(
    out: Annotated[Path, typer.Argument(help="JSON file; parts that are not run anew stay in it")],
    parts: Annotated[str, typer.Option(help="names with commas between")] = "forward,request,threads,start",
    side: Annotated[int, typer.Option(help="of a window, voxels")] = 64,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Measure, print, and keep the numbers."""
    torch.set_num_threads(1)
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured: dict[str, Callable[[], dict[str, Any]]] = {
            "forward": lambda: forward(side, repeats),
            "request": lambda: request(folder, (512, 512, 200), (0.8, 0.8, 2.5)),
            "threads": threads,
            "start": lambda: start(folder),
        }
        for part in parts.split(","):
            if part not in measured:
                raise typer.BadParameter(f"expected some of {', '.join(measured)}, got {part!r}")
            found[part] = measured[part]()
            found["machine"] = {"processor": processor(), "cores": os.cpu_count(), "torch": torch.__version__}
            write_text(out, json.dumps(found, indent=1) + "\n")
            print(json.dumps({part: found[part]}, indent=1), flush=True)


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    typer.run(main)
