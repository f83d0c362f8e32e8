"""Practice: a refinement learns from the clicks of played annotators on training cases, with the ensemble as it is.

Each lesson begins with a mask such as models make of patients that they have not seen: what the ensemble says, or one
expert, under smooth noise on the logits, which wears borders off and lets blobs come and go. Then clicks follow into
the largest error, as a played annotator's do, and the mask is carried on: training prompts like those in use are what
counts (arXiv 2510.09499). A step learns from one click of each of several lessons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.losses.dice import DiceLoss
from scipy import ndimage
from torch.nn import functional as F

from maml_app.correcting.annotator import next_click
from maml_app.correcting.marks import Crop, Path, Scene
from maml_app.correcting.refinement import filled, half, shown
from maml_app.correcting.view import View, logit
from maml_app.imaging.volume import Array, Volume
from maml_app.network.refine import Refiner
from maml_app.training.progress import Meter
from maml_app.training.recipe import Recipe

BATCH = 8  # lessons that go on beside each other
ROUNDS = 8  # clicks of a lesson at most
LEARNING_RATE = 3e-3
ARENA = 2  # sides of a lesson's part of an image, in those of the crop around a click: fine grids would take too long
DROPPED = 0.3  # how often a random part of the modalities is drawn
EMPTY, BY_EXPERT, WORN = 0.05, 0.2, 0.2  # how often a mask begins with nothing, by one expert, under strong noise
DOUBTED, DOUBT = 0.67, 2.0  # how often all that is said is under noise, and of which standard deviation at most (logit)
NOISE_MM = (8.0, 25.0)  # how smooth it is


@dataclass(frozen=True, eq=False)
class Lesson:
    """One label of one training case on the network's grid: what is seen of it, and the truth, bool (X, Y, Z)."""

    view: View
    truth: Array
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Step:
    """One click to learn from: channels (C, X, Y, Z) of its crop, and the truth there (1, X, Y, Z)."""

    scene: Scene
    crop: Crop
    shown: torch.Tensor
    truth: torch.Tensor


class Play:
    """A lesson that goes on: its mask and clicks."""

    def __init__(self, lesson: Lesson, modalities: int, rng: np.random.Generator) -> None:
        self.modalities, self.rng = modalities, rng
        self.spacing_mm = lesson.spacing_mm
        lesson = _turned(_part(lesson, 2 * ARENA * half(lesson.spacing_mm), rng), rng)
        self.truth = lesson.truth
        self.view, self.mask = begun(lesson, rng)
        self.paths: list[Path] = []
        self.rounds = rng.integers(1, ROUNDS + 1)

    def step(self) -> Step | None:
        """The next click, into the largest error; None after the last."""
        if len(self.paths) == self.rounds:
            return None
        label = Volume(self.mask.astype(np.uint8), np.diag([*self.spacing_mm, 1.0]))
        click = next_click(label, self.truth.astype(np.uint8), 1, self.rng)
        if click is None:
            return None
        self.paths.append((click.path_mm / self.spacing_mm, click.inside))
        crop = Crop(self.paths[-1][0], half(self.spacing_mm), self.mask.shape)
        scene = crop.scene(self.mask, self.paths, self.spacing_mm)
        channels = shown(scene, self.view.cut(crop.box), crop, self.modalities)
        return Step(scene, crop, channels, filled(self.truth[crop.box][None], crop))

    def carry(self, step: Step, logits: torch.Tensor) -> None:
        """Carry the mask on: what the network says of the crop (X, Y, Z), under the rules of clicks."""
        self.mask[step.crop.box] = step.scene.mended(logits[step.crop.inner].numpy() > 0)


def practise(lessons: Sequence[Lesson], modalities: int, steps: int, recipe: Recipe) -> Refiner:
    """A refinement trained on lessons, ready for use; the same for the same seed.

    Args:
        lessons: in each of them the label is somewhere, so that there is an error to click on now and then.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    network = Refiner(modalities).to(recipe.device).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps + 1, pct_start=0.1)
    meter = Meter(recipe.report, steps, len(lessons) * ROUNDS / BATCH, "refine")
    coming = _plays(lessons, modalities, rng)
    plays = [next(coming) for _ in range(BATCH)]
    for done in range(1, steps + 1):
        meter.waited_s += recipe.wait()
        batch = []
        for place in range(BATCH):
            while (step := plays[place].step()) is None:
                plays[place] = next(coming)
            batch.append(step)
        logits = network(torch.stack([step.shown for step in batch]).to(recipe.device))
        loss = loss_of(logits[:, None], torch.stack([step.truth for step in batch]).to(recipe.device))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        for play, step, answer in zip(plays, batch, logits.detach().cpu(), strict=True):
            play.carry(step, answer)
        meter.step(done, {"total": float(loss.detach())})
    meter.end()
    return network.cpu().eval()


def loss_of(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Dice + cross-entropy of the crops (B, 1, X, Y, Z)."""
    overlap: torch.Tensor = DiceLoss(sigmoid=True)(logits, truth)
    return overlap + F.binary_cross_entropy_with_logits(logits, truth)


def _plays(lessons: Sequence[Lesson], modalities: int, rng: np.random.Generator) -> Iterator[Play]:
    """Lessons begun, every one once in a new order each time."""
    while True:
        for index in rng.permutation(len(lessons)):
            yield Play(lessons[index], modalities, rng)


def begun(lesson: Lesson, rng: np.random.Generator) -> tuple[View, Array]:
    """What is seen of a lesson and the mask that it begins with, drawn: any part of the modalities, any doubt."""
    images, experts, fused = lesson.view.images, lesson.view.experts, lesson.view.fused
    there = list(images)
    if experts and rng.random() < DROPPED:
        there = rng.permutation(there)[: rng.integers(1, len(there) + 1)].tolist()
    doubt = DOUBT * rng.random() * (rng.random() < DOUBTED)

    def doubted(said: Array) -> Array:
        return _under_noise(said, doubt, lesson.spacing_mm, rng)

    whole = fused is not None and len(there) == len(images)
    said = doubted(fused if fused is not None and whole else np.mean([experts[index] for index in there], axis=0))
    shown = View(
        {index: images[index] * rng.uniform(0.8, 1.2) + rng.uniform(-0.2, 0.2) for index in there},
        {index: doubted(experts[index]) for index in there if index in experts},
        said if whole or rng.random() < 0.5 else None,
    )
    kind = rng.random()
    if kind < EMPTY:
        return shown, np.zeros(said.shape, dtype=bool)
    kind -= EMPTY
    if kind < BY_EXPERT and experts:
        said = experts[there[rng.integers(len(there))]]
    elif kind < BY_EXPERT + WORN:
        said = _under_noise(said, DOUBT, lesson.spacing_mm, rng, rng.normal())
    return shown, said > 0.5


def _under_noise(
    said: Array, deviation: float, spacing_mm: Sequence[float], rng: np.random.Generator, bias: float = 0.0
) -> Array:
    """Probabilities (X, Y, Z) whose logits got smooth noise."""
    if not deviation:
        return said
    noise = ndimage.gaussian_filter(rng.standard_normal(said.shape), rng.uniform(*NOISE_MM) / np.array(spacing_mm))
    changed = logit(said) + deviation * noise / max(noise.std(), 1e-6) + bias
    return np.asarray(1 / (1 + np.exp(-changed)), np.float32)


def _part(lesson: Lesson, sides: Array, rng: np.random.Generator) -> Lesson:
    """A part of a lesson around a random place of its truth; all of it where it is no larger."""
    places = np.argwhere(lesson.truth)
    centre = places[rng.integers(len(places))] if len(places) else np.array(lesson.truth.shape) // 2
    # not beyond the border of the image
    low = np.clip(centre - sides // 2, 0, np.maximum(np.array(lesson.truth.shape) - sides, 0))
    x, y, z = (slice(int(start), int(start + side)) for start, side in zip(low, sides, strict=True))
    return Lesson(lesson.view.cut((x, y, z)), lesson.truth[x, y, z], lesson.spacing_mm)


def _turned(lesson: Lesson, rng: np.random.Generator) -> Lesson:
    """A lesson flipped along any of its axes."""
    x, y, z = (slice(None, None, -1 if rng.random() < 0.5 else 1) for _ in range(3))
    turned = lesson.view.cut((x, y, z))
    return Lesson(turned, lesson.truth[x, y, z], lesson.spacing_mm)
