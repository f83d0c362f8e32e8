"""Small studies on disk, sound ones and such with one fault, for the tables of what is read, used and refused."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from maml_app.cases.case import FINAL, LabelRef
from maml_app.cases.history import Told
from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec, load_task
from maml_app.imaging.files import read_label
from maml_app.imaging.volume import Array
from maml_app.labelling.incoming import Segment
from maml_app.labelling.saving import Sent, find_label
from maml_app.labelling.saving import save as save_label
from maml_app.network.checkpoint import Checkpoint
from maml_app.network.ensemble import build_network
from maml_app.stores.choice import shipped_tasks
from maml_app.versions.registry import store_model

SHAPE = (12, 10, 8)
NAMES = {"t1": 300.0, "t1ce": 500.0, "t2": 700.0, "flair": 900.0}  # modality -> intensity of the tissue


def shipped(name: str) -> TaskSpec:
    """A task that comes with the app."""
    return load_task(shipped_tasks()[name])


def as_datalist(studies: Path, test: set[str]) -> Path:
    """A datalist of a folder of cases; those in `test` are of its section of that name."""
    sections: dict[str, list[dict[str, object]]] = {"training": [], "test": []}
    for folder in sorted(path for path in studies.iterdir() if path.is_dir()):
        files = {path.name.split(".")[0]: f"{folder.name}/{path.name}" for path in sorted(folder.iterdir())}
        label = files.pop("label", "")
        entry: dict[str, object] = {"id": folder.name, "image": files, "label": label}
        sections["test" if folder.name in test else "training"].append(entry)
    (studies / "datalist.json").write_text(json.dumps(sections))
    return studies / "datalist.json"


def oblique(spacing_mm: tuple[float, float, float] = (4.0, 5.0, 7.0)) -> Array:
    """An affine turned about two axes, of voxels with three different edges."""
    a, b = np.deg2rad(20), np.deg2rad(-15)
    turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn_z @ turn_x @ np.diag(spacing_mm)
    affine[:3, 3] = (-20.0, 15.0, 30.0)
    return affine


def lesion(values: tuple[int, ...] = (1, 2, 3)) -> Array:
    """An asymmetric label map (12, 10, 8): of the first value 12 voxels, of the next 6, 4 and 3."""
    label = np.zeros(SHAPE, np.uint8)
    places = (np.s_[3:6, 2:4, 2:4], np.s_[6:9, 2:3, 2:4], np.s_[3:7, 4:5, 3:4], np.s_[3:6, 6:7, 6:7])
    for value, place in zip(values, places, strict=False):
        label[place] = value
    return label


def tissue(intensity: float, seed: int = 0) -> Array:
    """An MR-like image: a noisy block in air that is 0."""
    image = np.zeros(SHAPE, np.float32)
    image[1:11, 1:9, 1:7] = intensity + np.random.default_rng(seed).normal(0, 20, (10, 8, 6))
    return image


def save(path: Path, voxels: Array, affine: Array | None = None) -> Path:
    """Write NIfTI with qform and sform alike, in mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, oblique() if affine is None else affine)
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def brain(folder: Path, label: Array | None = None, prefix: str = "") -> Path:
    """A case of the task brats_mr: four modalities on one oblique grid, and a label if one is given."""
    for seed, (name, intensity) in enumerate(NAMES.items()):
        save(folder / f"{prefix}{name}.nii.gz", tissue(intensity, seed))
    if label is not None:
        save(folder / f"{prefix}label.nii.gz", label)
    return folder


def touch(root: Path, *names: str) -> Path:
    """Files of which only the names count."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def edit(path: Path, *changes: tuple[int, str, tuple[float, ...]]) -> None:
    """Overwrite fields of a .nii.gz header: offset (NIfTI-1 standard), struct format, values."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    for offset, form, values in changes:
        struct.pack_into(f"<{len(values)}{form}", content, offset, *values)
    path.write_bytes(gzip.compress(bytes(content)))


def codes(qform: int, sform: int) -> tuple[int, str, tuple[float, ...]]:
    """The change of both form codes."""
    return 252, "h", (qform, sform)


def changed(change: Callable[[Array], Array]) -> Callable[[Path], None]:
    """A fault that changes the affine of a file."""

    def fault(path: Path) -> None:
        image = nib.load(path)
        save(path, np.asarray(image.dataobj), change(image.affine.copy()))

    return fault


def keep(
    source: CaseSource, image: str, file: Path, tag: str = FINAL, segments: Sequence[Segment] = (), **told: Any
) -> LabelRef:
    """Save the label map in a file, as a server does."""
    nothing_there = bool(told.pop("nothing_there", False))
    sent = Sent(image, read_label(file), Told(**told), tag, segments, nothing_there)
    entry = save_label(source, source.spec, sent)  # type: ignore[attr-defined]
    return find_label(source.case(entry.case), entry.label)


def stored_model(
    path: Path, spec: TaskSpec, trained_on: dict[str, str] | None = None, seed: int = 0, task: str = "", **notes: Any
) -> Path:
    """A model file with weights drawn by the seed."""
    torch.manual_seed(seed)
    sizes = len(spec.modalities), spec.classes, spec.network
    notes = {"trained_on": trained_on or {}, "validated_on": {}, **notes}
    checkpoint = Checkpoint(task or spec.name, spec.signature(), *sizes, spec.training.patch, notes)
    store_model(path, build_network(*sizes), checkpoint)
    return path
