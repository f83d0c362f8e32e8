"""A rival of clicks after DeepEdit (arXiv 2305.10655): one early-fusion network, to which clicks are more channels.

It answers anew from all images and all clicks each time, and without any click by itself. It is trained as DeepEdit is,
on its own errors: of some patches it sees no click, of the others a few, each into the largest error that it still
makes. Its clicks fall off with Euclidean distance, as our refinement's do: better than DeepEdit's Gaussians in autoPET
IV (arXiv 2508.21680).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.rivals_variants import RIVALS, changed
from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.correcting.annotator import Annotator, next_click
from maml_app.correcting.correct import Corrected, Marked, Prompt
from maml_app.correcting.refinement import NEAR_MM
from maml_app.imaging.files import read_grid
from maml_app.imaging.geometry import restore_label
from maml_app.imaging.preprocess import Prepared, prepare
from maml_app.imaging.volume import Array, Grid, Volume
from maml_app.network.ensemble import SegmentationNetwork, build_network
from maml_app.network.losses import MutualLearningLoss
from maml_app.network.window import predict
from maml_app.training.dataset import Batch, PatchSource, build_samples, load_sample
from maml_app.training.optimise import optimiser_of
from maml_app.training.progress import Meter
from maml_app.training.recipe import Recipe
from maml_app.versions.predict import Model

UNCLICKED = 0.4  # of the patches, as the share that DeepEdit is shown without a click
MOST = 5  # clicks on a patch


@dataclass(frozen=True, eq=False)
class Click:
    """A voxel (3,) that has a class: a label's value, or 0 where the label that is mended is not."""

    voxel: Array
    value: int


@dataclass(eq=False)
class DeepEdit:
    """The trained rival, in the place of a corrector; what was prepared of a case is kept.

    Attributes:
        minutes: of the processor, for its training.
    """

    spec: TaskSpec
    network: SegmentationNetwork
    patch: tuple[int, ...]
    minutes: float
    kept: dict[str, Prepared] = field(default_factory=dict)

    @property
    def sees(self) -> list[int]:
        return list(range(len(self.spec.modalities)))

    def answer(self, case: Case, target: Grid, clicks: Sequence[tuple[Prompt, int]] = ()) -> Volume:
        """The label map on a grid, from all images and from prompts, each with the value of its label."""
        if case.id not in self.kept:
            self.kept = {case.id: prepare(case, self.spec)}
        prepared = self.kept[case.id]
        inverse = np.linalg.inv(prepared.grid.affine)
        marked = [
            Click(inverse[:3, :3] @ prompt.path_mm[0] + inverse[:3, 3], value if prompt.inside else 0)
            for prompt, value in clicks
        ]
        channels = guidance(marked, prepared.grid.shape, prepared.grid.spacing_mm, self.spec.classes)
        images = torch.cat([prepared.images, channels])
        likely = predict(self.network, images, with_clicks(prepared.presence, self.spec.classes), self.patch)
        return Volume(restore_label(likely, prepared.grid, target), target.affine)

    def correct(self, case: Case, label: Volume, marked: Marked, model: Model | None = None) -> Corrected:
        """The label map after all prompts."""
        after = self.answer(case, label.grid, [(prompt, marked.value) for prompt in marked.prompts])
        gained, lost = (
            float(((one == marked.value) & (two != marked.value)).sum()) * label.grid.voxel_ml
            for one, two in ((after.voxels, label.voxels), (label.voxels, after.voxels))
        )
        return Corrected(after, gained, lost)


class DeepEditAnnotator(Annotator):
    """An annotator who begins with what the rival says without a click."""

    def begin(self, case: Case, asked: str) -> Volume:
        assert isinstance(self.corrector, DeepEdit)
        return self.corrector.answer(case, read_grid(case.grids[asked]))


def guidance(clicks: Sequence[Click], shape: Sequence[int], spacing_mm: Sequence[float], classes: int) -> torch.Tensor:
    """1 at a click, falling to 0 around it: a channel for each class (K, X, Y, Z)."""
    channels = np.zeros((classes, *shape), np.float32)
    for value in {click.value for click in clicks}:
        others = np.ones(tuple(shape), dtype=bool)
        for click in clicks:
            if click.value == value:
                others[tuple(np.clip(np.round(click.voxel).astype(int), 0, np.array(shape) - 1))] = False
        away = ndimage.distance_transform_edt(others, sampling=spacing_mm)
        channels[value] = np.maximum(1 - away / NEAR_MM, 0)
    return torch.from_numpy(channels)


def with_clicks(presence: torch.Tensor, classes: int) -> torch.Tensor:
    """Presence (..., M) of images, and of the channels of clicks, which are always there (..., M + K)."""
    return torch.cat([presence, presence.new_ones((*presence.shape[:-1], classes))], dim=-1)


def train_deepedit(spec: TaskSpec, cases: Sequence[Case], steps: int, recipe: Recipe) -> DeepEdit:
    """Train the rival on labelled cases: the study's early-fusion network and patches, optimised as all of its rows."""
    began = time.process_time()
    spec = changed(spec, RIVALS["early_fusion_dropout"] | {"training": {"each_alone": False, "steps": steps}})
    torch.manual_seed(recipe.seed)
    network = build_network(len(spec.modalities) + spec.classes, spec.classes, spec.network).train()
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / max(2.0, steps / 10)))  # type: ignore[no-untyped-call]
    criterion = MutualLearningLoss(spec.training.loss, list(spec.scored.values()))
    optimiser, schedule = optimiser_of(spec, network)
    with tempfile.TemporaryDirectory() as folder:
        built = build_samples(cases, spec, recipe.prepared or Path(folder))
        source = PatchSource([load_sample(*item) for item in built.items()], spec, recipe.seed)
        meter = Meter(recipe.report, steps, source.steps_an_epoch, "deepedit")
        for step in range(steps):
            batch = source.batch(step)
            presence = with_clicks(batch.parts[-1], spec.classes)
            images = clicked(network, batch, presence, spec, np.random.default_rng((recipe.seed, step)))
            terms = criterion(network(images, presence), batch.label)
            optimiser.zero_grad()
            terms["total"].backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), spec.training.clip)
            optimiser.step()
            schedule.step()
            average.update_parameters(network)
            meter.step(step + 1, {"total": float(terms["total"].detach())})
        meter.end()
    result = average.module.eval()
    assert isinstance(result, SegmentationNetwork)
    return DeepEdit(spec, result, spec.training.patch, (time.process_time() - began) / 60)


@torch.no_grad()
def clicked(
    network: SegmentationNetwork, batch: Batch, presence: torch.Tensor, spec: TaskSpec, rng: np.random.Generator
) -> torch.Tensor:
    """The images of a batch with channels of clicks (B, M + K, X, Y, Z): into what the network still gets wrong."""
    shape, spacing = batch.label.shape[1:], spec.preprocess.spacing_mm
    rounds = [int(rng.integers(1, MOST + 1)) if rng.random() >= UNCLICKED else 0 for _ in batch.label]
    clicks: list[list[Click]] = [[] for _ in rounds]

    def shown() -> torch.Tensor:
        channels = [guidance(row, shape, spacing, spec.classes) for row in clicks]
        return torch.cat([batch.images, torch.stack(channels)], dim=1)

    network.eval()
    for done in range(max(rounds)):
        rows = [row for row, count in enumerate(rounds) if count > done]
        said = network(shown()[rows], presence[rows]).fused[0].argmax(dim=1)
        for row, mask in zip(rows, said.numpy(), strict=True):
            clicks[row] += _next(mask, batch.label[row].numpy(), spec, rng)
    network.train()
    return shown()


def _next(mask: Array, truth: Array, spec: TaskSpec, rng: np.random.Generator) -> list[Click]:
    """A click on one of the labels that are wrong somewhere; none where all is right."""
    label = Volume(mask.astype(np.uint8), np.diag([*spec.preprocess.spacing_mm, 1.0]))
    for value in rng.permutation(list(spec.label_values)).tolist():
        click = next_click(label, truth, value, rng)
        if click:
            voxel = np.round(click.path_mm[0] / spec.preprocess.spacing_mm).astype(int)
            return [Click(voxel, value if click.inside else 0)]
    return []
