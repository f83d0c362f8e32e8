"""Prepared cases on disk, and patches drawn from them.

<folder>/<key>/images.npy label.npy places.npz    one case; the key is a hash of its files' content and of the task
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.disk import sweep, workspace
from maml_app.errors import CaseError, TrainingError
from maml_app.imaging.augment import MARGIN, apply, draw
from maml_app.imaging.labels import prepare_label, stated_label
from maml_app.imaging.preprocess import form, prepare
from maml_app.imaging.volume import Array

UNKNOWN = -1  # in place of a label's value: nobody says what is there
LEFT_OUT = "left_out.json"
SPARED_S = 24 * 3600  # longer than trainings take to prepare their cases; what they have opened stays readable
SEEDS_PER_LABEL = 2000  # foreground voxels remembered for each label of a case


@dataclass(frozen=True)
class Sample:
    """One prepared case: images (M, X, Y, Z) and label (X, Y, Z) mapped from disk, and foreground places a label.

    A case that nobody has labelled has no label; one that was labelled in part is UNKNOWN elsewhere.
    """

    case_id: str
    images: Array
    label: Array | None
    presence: Array
    places: tuple[Array, ...]
    values: tuple[int, ...] = ()  # of the labels that are in it


def build_samples(
    cases: Sequence[Case],
    spec: TaskSpec,
    folder: Path,
    tick: Callable[[str], None] = lambda case_id: None,
    skip: Callable[[str, str], None] | None = None,
) -> dict[str, Path]:
    """Prepare cases into `folder`, half precision; what is there already is used again.

    Returns case id -> the folder of the prepared case.

    Args:
        skip: called with the id of a case that cannot be used and the reason, and the case is left out.

    Raises:
        CaseError: a case that cannot be used, where there is no `skip`; the message names it.
        TrainingError: the disk is full or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        built = {}
        for case in cases:
            tick(case.id)
            try:
                target = folder / content_key(case, spec)
                if target.is_dir():
                    os.utime(target)
                else:
                    _build(case, spec, target)
            except CaseError as error:
                if skip is None:
                    raise
                skip(case.id, str(error))
            else:
                built[case.id] = target
    except OSError as error:
        raise TrainingError(f"{folder}: prepared cases could not be written ({error}); make room on the disk") from None
    return built


def read_left_out(folder: Path) -> dict[str, str]:
    """Modalities that a prepared case does without although it has them, and why."""
    content: dict[str, str] = json.loads((folder / LEFT_OUT).read_text(encoding="utf-8"))
    return content


def load_sample(case_id: str, folder: Path) -> Sample:
    """A prepared case, its voxels mapped from disk."""
    with np.load(folder / "places.npz") as stored:
        presence = stored["presence"]
        names = sorted(name for name in stored.files if name != "presence")
        places = tuple(stored[name] for name in names)
    images = np.load(folder / "images.npy", mmap_mode="r")
    file = folder / "label.npy"
    label = np.load(file, mmap_mode="r") if file.exists() else None
    return Sample(case_id, images, label, presence, places, tuple(map(int, names)))


def content_key(case: Case, spec: TaskSpec) -> str:
    """A name that changes with the content of any of the case's files, and with what the task makes of them.

    Raises:
        LabelError: what is known of the label before it is read speaks against it.
    """
    label = stated_label(case) if case.label else None
    meaning = dict(label.meaning().values) if label and label.meaning else {}
    digest = hashlib.sha256(f"{form(spec)} {meaning}".encode())
    for name in spec.modality_names:
        if name in case.images:
            ref = case.images[name]
            digest.update(f"{name} {ref.channel} {_content(ref.found())}".encode())
    digest.update(_content(label.local()).encode() if label else b"no label")
    return digest.hexdigest()[:32]


def _content(path: Path | None) -> str:
    unreadable = "cannot be read"  # whoever reads it says so
    try:
        return unreadable if path is None else _digest(path)
    except OSError:
        return unreadable


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build(case: Case, spec: TaskSpec, target: Path) -> None:
    prepared = prepare(case, spec)
    label = prepare_label(case, spec, prepared.grid) if case.label else None
    places = {} if label is None else {f"{value:03d}": found for value, found in seeds(label, spec).items()}
    with workspace(target.parent) as work:
        part = work / "case"
        part.mkdir()
        np.save(part / "images.npy", prepared.images.numpy().astype(np.float16))
        if label is not None:
            np.save(part / "label.npy", label)
        (part / LEFT_OUT).write_text(json.dumps(dict(prepared.left_out)), encoding="utf-8")
        np.savez(part / "places.npz", presence=prepared.presence.numpy(), **places)
        try:
            part.rename(target)
        except OSError:
            if not target.is_dir():  # else prepared by another process meanwhile
                raise


def seeds(label: Array, spec: TaskSpec) -> dict[int, Array]:
    """Some voxel indices (N, 3) of each label that is there, by its value: where patches are drawn around."""
    rng = np.random.default_rng(0)
    found = {value: np.argwhere(label == value) for value in spec.label_values}
    return {value: rng.permutation(places)[:SEEDS_PER_LABEL] for value, places in found.items() if len(places)}


def drop_old(folder: Path, used: set[Path], limit_gb: float) -> None:
    """Delete prepared cases that are not used, the least recently used first, until all take at most `limit_gb`.

    What was used within `SPARED_S` stays all the same: another training may be about to read it.
    """
    kept = []
    for path in folder.iterdir():
        if path.is_dir() and not path.name.startswith("."):
            with suppress(FileNotFoundError):  # another training has just deleted it
                kept.append((path.stat().st_mtime, sum(file.stat().st_size for file in path.iterdir()), path))
    total = sum(size for _, size, _ in kept)
    for last, size, path in sorted(kept):
        if total <= limit_gb * 1e9 or time.time() - last < SPARED_S:
            return
        if path not in used:
            shutil.rmtree(path, ignore_errors=True)
            total -= size


@dataclass(frozen=True)
class Batch:
    """images (B, M, X, Y, Z), label (B, X, Y, Z) int64, presence and random non-empty parts of it (P, B, M) bool."""

    images: torch.Tensor
    label: torch.Tensor
    presence: torch.Tensor
    parts: torch.Tensor


class PatchSource:
    """Augmented batches; each slot of a batch depends on seed, step and slot alone: runs can be repeated, and shared.

    Args:
        samples: all with a label.
        weights: case id -> how many times an epoch a case is drawn; once where it is not named.
    """

    def __init__(
        self, samples: Sequence[Sample], spec: TaskSpec, seed: int, weights: Mapping[str, int] | None = None
    ) -> None:
        self.samples = [sample for sample in samples for _ in range((weights or {}).get(sample.case_id, 1))]
        self.spec = spec
        self.seed = seed

    @property
    def steps_an_epoch(self) -> float:
        return len(self.samples) / self.spec.training.batch

    def batch(self, step: int, slots: Sequence[int] | None = None, patch: Sequence[int] | None = None) -> Batch:
        """The batch of a step, or only some of its slots; `patch` in place of the task's patch size."""
        training = self.spec.training
        apart = training.each_alone and self.spec.network.kind == "maml"
        rows = []
        for slot in range(training.batch) if slots is None else slots:
            rng = np.random.default_rng((self.seed, step, slot))
            # every case once an epoch, in a new order each time
            position = step * training.batch + slot
            order = np.random.default_rng((self.seed, position // len(self.samples))).permutation(len(self.samples))
            sample = self.samples[order[position % len(self.samples)]]
            images, label = self._patch(sample, rng, np.array(patch or training.patch))
            presence = torch.from_numpy(sample.presence.copy())
            images = images * presence[:, None, None, None]
            rows.append((images, label, presence, draw_parts(presence, rng, training.modality_dropout, apart)))
        images, label, presence, parts = (torch.stack(list(column)) for column in zip(*rows, strict=True))
        return Batch(images, label.long(), presence, parts.transpose(0, 1))

    def _patch(self, sample: Sample, rng: np.random.Generator, patch: Array) -> tuple[torch.Tensor, torch.Tensor]:
        assert sample.label is not None
        size = np.ceil(patch * MARGIN).astype(int)
        shape = np.array(sample.label.shape)
        if sample.places and rng.random() < self.spec.training.foreground:
            places = sample.places[rng.integers(len(sample.places))]
            centre = places[rng.integers(len(places))] + rng.integers(-patch // 4, patch // 4 + 1)
        else:
            centre = rng.integers(0, shape)
        # stay inside the image where it is large enough, else keep it in the middle
        start = np.where(shape > size, np.clip(centre - size // 2, 0, np.maximum(shape - size, 0)), (shape - size) // 2)
        images, label = _cut(sample.images, start, size), _cut(sample.label[None], start, size, fill=0)
        training = self.spec.training
        chosen = draw(rng, len(images), training.flips, self.spec.preprocess.spacing_mm, training.augment)
        return apply(
            torch.from_numpy(images.astype(np.float32)),
            torch.from_numpy(label[0].astype(np.int64)),
            patch.tolist(),
            chosen,
        )


def _cut(voxels: Array, start: Array, size: Array, fill: float | None = None) -> Array:
    """Cut (C, X, Y, Z) from `start`, padding with `fill`, else each channel's lowest, where it reaches outside."""
    low, high = np.maximum(start, 0), np.minimum(start + size, voxels.shape[1:])
    inner = np.asarray(voxels[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]])
    before, after = low - start, start + size - high
    if not (before.any() or after.any()):
        return inner
    pads = [(int(b), int(a)) for b, a in zip(before, after, strict=True)]
    values = [channel.min() if fill is None else fill for channel in inner]
    return np.stack(
        [np.pad(channel, pads, constant_values=value) for channel, value in zip(inner, values, strict=True)]
    )


def draw_parts(
    presence: torch.Tensor, rng: np.random.Generator, dropout: float = 1.0, each_alone: bool = False
) -> torch.Tensor:
    """Parts of the present modalities (P, M), none empty, that learn to answer by themselves.

    With `each_alone` every modality by itself (where it is absent, the last part), and last a part that is not all;
    else one of any size. A size is drawn first, evenly, then its members. With a probability of 1 - `dropout` the last
    part is all of them.
    """
    present = np.flatnonzero(presence.numpy())
    most = len(present) - 1 if each_alone and len(present) > 1 else len(present)
    chosen = rng.permutation(present)[: rng.integers(1, most + 1)]
    last = _only(chosen if rng.random() < dropout else present, presence)
    if not each_alone:
        return last[None]
    alone = [_only([index], presence) if there else last for index, there in enumerate(presence.tolist())]
    return torch.stack([*alone, last])


def _only(members: Sequence[int] | Array, presence: torch.Tensor) -> torch.Tensor:
    part = torch.zeros_like(presence)
    part[torch.as_tensor(np.asarray(members))] = True
    return part
