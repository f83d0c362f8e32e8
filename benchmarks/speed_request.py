"""A whole request through the infer task, against MONAI Label's stock task with MONAI's transforms."""

from __future__ import annotations

import cProfile
import pstats
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
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

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec, load_task
from maml_app.evaluation.metrics import dice
from maml_app.imaging.files import read_label, write_image
from maml_app.imaging.geometry import resample_label
from maml_app.imaging.preprocess import prepare
from maml_app.imaging.volume import Array, Volume
from maml_app.network.checkpoint import Checkpoint
from maml_app.network.compiled import Engine
from maml_app.network.ensemble import Outputs, SegmentationNetwork, build_network
from maml_app.network.losses import MutualLearningLoss
from maml_app.network.settings import Loss, Network
from maml_app.stores.choice import shipped_tasks
from maml_app.stores.folder import FolderStore
from maml_app.tasks.infer import SegmentCase
from maml_app.versions.registry import ModelRegistry

# a rival is twice as wide
WIDTHS = Network(channels=(16, 32, 64, 128), strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)))
# two voxels of each axis taken together in place of the first level
STEM = WIDTHS.model_copy(
    update={"stem": (2, 2, 2), "channels": WIDTHS.channels[1:], "strides": ((1, 1, 1), *WIDTHS.strides[2:])}
)
PATCH = (64, 64, 64)
STEPS = 60  # until the network of `request` knows its case
PARTS = {  # function -> what a request spends on it
    "read_image": "load",
    "resample": "resample",
    "normalise": "normalise",
    "predict_opinions": "network",
    "restore_label": "back",
    "write_label": "write",
}
Seconds = dict[str, float]


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

    def __init__(self, path: Path, network: torch.nn.Module, spec: TaskSpec) -> None:
        labels = {label.name: label.value for label in spec.labels}
        super().__init__(str(path), network, InferType.SEGMENTATION, labels, 3, "stock")
        self.spacing_mm = spec.preprocess.spacing_mm

    def pre_transforms(self, data: Any = None) -> list[Any]:
        return [
            LoadImaged(keys="image"),
            DeleteItemsd(keys="image_path"),  # Spacingd of MONAI 1.6 takes it for the image's metadata
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS"),
            Spacingd(keys="image", pixdim=self.spacing_mm),
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


def request(
    folder: Path, spec: TaskSpec, images: list[Array], truth: Array, zooms: tuple[float, float, float]
) -> dict[str, Any]:
    """Seconds of whole requests for a case of images (X, Y, Z) on one grid, the answer written as .nii.gz included."""
    affine, count = np.diag([*zooms, 1.0]), len(images)
    write_phases(folder / "studies" / "case", spec, images, affine)
    nib.save(nib.Nifti1Image(np.stack(images, axis=-1).astype(np.int16), affine), folder / "stacked.nii.gz")
    store = FolderStore(folder / "studies", spec)
    network = taught(spec, store.case("case"), Volume(truth, affine))
    torch.save({"model": Fused(network).state_dict()}, folder / "stock.pt")
    registry = ModelRegistry(folder / "models")
    registry.publish(network, Checkpoint(spec.name, spec.signature(), count, spec.classes, spec.network, PATCH), {})
    stock: Any = Stock(folder / "stock.pt", Fused(build_network(count, spec.classes, spec.network)), spec)

    answers: dict[str, Path] = {}
    seconds: Seconds = {}
    parts: dict[str, Seconds] = {}

    def ours(task: SegmentCase, series: str, name: str) -> None:
        profile = cProfile.Profile()
        profile.enable()
        file, _ = task({"image": f"case@{series}", "result_extension": ".nii.gz", "device": "cpu"})
        profile.disable()
        parts[name] = split(profile)
        answers[name] = Path(file)

    engines: tuple[Engine, ...] = ("torch", "openvino", "openvino-bf16")
    tasks = {engine: SegmentCase(store, spec, registry, engine) for engine in engines}
    for task in tasks.values():
        graph = task.model("cpu").compiled
        if graph:
            graph.answer(torch.ones(count, dtype=torch.bool), wait=True)
    first, second, *_ = spec.modality_names
    calls: dict[str, Callable[[], None]] = {
        "stock": lambda: Path(
            stock({"image": str(folder / "stacked.nii.gz"), "device": "cpu", "result_extension": ".nii.gz"})[0]
        ).unlink(),
    }
    for engine, task in tasks.items():
        calls[f"{engine}, first"] = partial(ours, task, first, f"{engine}, first")
        calls[f"{engine}, again"] = partial(ours, task, first, f"{engine}, again")
        calls[f"{engine}, another series"] = partial(ours, task, second, f"{engine}, another series")
    for name, call in calls.items():
        began = time.perf_counter()
        call()
        seconds[name] = time.perf_counter() - began
        print(name, round(seconds[name], 2), flush=True)
    masks = {name: read_label(file).voxels for name, file in answers.items() if name.endswith("first")}
    plain = masks["torch, first"]
    for file in answers.values():
        file.unlink()
    return {
        " × ".join(map(str, truth.shape)): against(seconds, "stock"),
        "parts, s": parts,
        "Dice of the foreground against torch": {
            name: round(dice(mask, plain, tuple(spec.label_values)) or 0, 5) for name, mask in masks.items()
        },
        "foreground": round(float((plain > 0).mean()), 3),
        "peak memory of all, GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


LARGE = """
import sys
from pathlib import Path
import torch
from benchmarks.speed_request import FolderStore, ModelRegistry, SegmentCase, two_phases
from maml_app.machine import proc_bytes
torch.set_num_threads(1)
folder, spec = Path(sys.argv[1]), two_phases()
task = SegmentCase(FolderStore(folder / "studies", spec), spec, ModelRegistry(folder / "models"))
print(proc_bytes("self/status", "VmHWM"))
file, _ = task({"image": "case@" + spec.modality_names[0], "result_extension": ".nii.gz", "device": "cpu"})
Path(file).unlink()
print(proc_bytes("self/status", "VmHWM"))
"""


def memory(folder: Path) -> dict[str, Any]:
    """Peak memory of a process that answers one request for two phases of 512 × 512 × 800, its programs alone beside.

    The network has learnt nothing: what it says is noise, the worst for the way back to the asked grid.
    """
    spec = two_phases()
    phases, _ = abdomen((512, 512, 800))
    write_phases(folder / "large" / "studies" / "case", spec, phases, np.diag([0.8, 0.8, 1.0, 1.0]))
    del phases
    network = build_network(2, spec.classes, WIDTHS).eval()
    checkpoint = Checkpoint(spec.name, spec.signature(), 2, spec.classes, WIDTHS, PATCH)
    ModelRegistry(folder / "large" / "models").publish(network, checkpoint, {})
    call = [sys.executable, "-c", LARGE, str(folder / "large")]
    before, after = subprocess.run(call, capture_output=True, text=True, check=True).stdout.split()
    # VmHWM and not ru_maxrss, which a process takes over from the one that started it
    return {"programs, GB": round(float(before) / 1e9, 2), "with the request, GB": round(float(after) / 1e9, 2)}


def abdomen(shape: tuple[int, int, int]) -> tuple[list[Array], Array]:
    """Two phases, HU (X, Y, Z), and what is there: a liver in a body, and a tumour that one phase hardly shows."""
    places = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in shape), indexing="ij", sparse=True)

    def ball(centre: tuple[float, ...], radii: tuple[float, ...]) -> Array:
        away = sum(((axis - at) / radius) ** 2 for axis, at, radius in zip(places, centre, radii, strict=True))
        inside: Array = np.asarray(away < 1)
        return inside

    body, liver = ball((0, 0, 0), (0.85, 0.65, 2)), ball((0.35, 0.05, 0.1), (0.4, 0.35, 0.6))
    tumour = ball((0.45, 0.1, 0.2), (0.12, 0.12, 0.2))
    rng = np.random.default_rng(0)
    phases = []
    for enhanced, dark in ((60, 20), (120, 60)):
        values = np.where(body, 30, -1000) + enhanced * liver - dark * tumour
        phases.append((values + rng.normal(0, 15, shape)).round().astype(np.int16))
    return phases, liver.astype(np.uint8) + tumour


def brain(shape: tuple[int, int, int]) -> tuple[list[Array], Array]:
    """Four sequences (X, Y, Z) of a brain on nothing, as BraTS has them, and its three tumour labels."""
    places = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in shape), indexing="ij", sparse=True)
    x, y, z = places
    inside = (x / 0.57) ** 2 + (y / 0.72) ** 2 + (z / 0.85) ** 2 < 1  # a third of the voxels, with a margin
    away = np.sqrt((x - 0.2) ** 2 + (y - 0.2) ** 2 + ((z - 0.2) / 1.5) ** 2)
    truth = np.select([away < 0.08, away < 0.14, away < 0.24], [1, 3, 2], 0).astype(np.uint8)
    rng = np.random.default_rng(0)
    images = []
    for shows in ((400, 300, 340, 360), (400, 300, 350, 700), (400, 700, 600, 500), (400, 450, 700, 550)):  # by value
        values = np.array(shows)[truth] + rng.normal(0, 30, shape)
        images.append(np.where(inside, values, 0).round().astype(np.int16))
    return images, truth


def write_phases(folder: Path, spec: TaskSpec, phases: list[Array], affine: Array) -> None:
    """A case of these phases (X, Y, Z)."""
    folder.mkdir(parents=True)
    for name, phase in zip(spec.modality_names, phases, strict=True):
        write_image(folder / f"{name}.nii.gz", Volume(phase, affine))


def taught(spec: TaskSpec, case: Case, label: Volume) -> SegmentationNetwork:
    """A network that has learnt the case: what it says has surfaces as a real answer has, and not noise."""
    torch.manual_seed(0)
    count = len(spec.modalities)
    network = build_network(count, spec.classes, spec.network)
    prepared = prepare(case, spec)
    truth = torch.from_numpy(resample_label(label.voxels, label.grid, prepared.grid)).long()
    loss, optimiser = MutualLearningLoss(Loss()), torch.optim.AdamW(network.parameters(), lr=2e-3)
    places = torch.nonzero(truth)
    everything = torch.ones(1, count, dtype=torch.bool)
    for _ in range(STEPS):
        place = places[int(torch.randint(len(places), ()))] + torch.randint(-16, 17, (3,))
        start = [
            int(min(max(at - edge // 2, 0), size - edge))
            for at, edge, size in zip(place.tolist(), PATCH, truth.shape, strict=True)
        ]
        box = tuple(slice(at, at + edge) for at, edge in zip(start, PATCH, strict=True))
        loss(network(prepared.images[(slice(None), *box)][None], everything), truth[box][None])["total"].backward()
        optimiser.step()
        optimiser.zero_grad()
    return network.eval()


def split(profile: cProfile.Profile) -> Seconds:
    """Seconds of a request by what they were spent on; the rest is `other`."""
    stats: Any = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    found = dict.fromkeys(PARTS.values(), 0.0)
    for (_, _, function), (_, _, _, cumulative, _) in stats.items():
        if function in PARTS:
            found[PARTS[function]] += cumulative
    total = max(row[3] for row in stats.values())
    return {name: round(value, 3) for name, value in (found | {"other": total - sum(found.values())}).items()}


def two_phases() -> TaskSpec:
    """The liver task with two phases, on the benchmark's network and grid."""
    return _in_small("liver_multiphase_ct", 2, 3.0)


def four_sequences(network: Network = WIDTHS) -> TaskSpec:
    """The brain task, on a network of the benchmark and its grid."""
    return _in_small("brats_mr", 4, 1.5, network)


def _in_small(task: str, modalities: int, spacing_mm: float, network: Network = WIDTHS) -> TaskSpec:
    spec = load_task(shipped_tasks()[task])
    kept = tuple(spec.modalities[:modalities])
    preprocess = spec.preprocess.model_copy(update={"spacing_mm": (spacing_mm,) * 3})
    training = spec.training.model_copy(update={"patch": PATCH})
    changes = {"modalities": kept, "reference": kept[0].name, "preprocess": preprocess, "training": training}
    return spec.model_copy(update={**changes, "network": network})
