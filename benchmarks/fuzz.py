"""Damaged files through the functions that read them: every one is refused in words or read, none hangs or takes all
memory. The same seed makes the same files.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import resource
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import numpy as np
import pydicom
import torch
import typer

from maml_app.cases.case import FileRef
from maml_app.cases.spec import load_task
from maml_app.disk import write_text
from maml_app.errors import MamlError
from maml_app.imaging.claims import claimed_shape
from maml_app.imaging.dicom import read_series, stack
from maml_app.imaging.files import read_image, read_label, write_label
from maml_app.imaging.seg_info import seg_info
from maml_app.imaging.seg_read import read_seg
from maml_app.imaging.survey import survey
from maml_app.network.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from maml_app.network.ensemble import build_network
from maml_app.network.settings import Network
from maml_app.phantom.dicom import make_study
from maml_app.stores.choice import shipped_tasks
from maml_app.stores.layouts import read_cases
from maml_app.versions.registry import ModelRegistry

MEMORY_GB, LONGEST_S = 4.0, 10.0
ABSURD = (b"\xff" * 4, b"\x00" * 4, b"\xff\xff\xff\x7f", b"\x00\x00\x80\x7f")  # the last two: largest int32, infinity
TASK = shipped_tasks()["sarcoma_pet_ct_mr"]
SPEC = load_task(TASK)


class Unreadable(Exception):
    """The library that parses a file's format says that it is none: the server says so in its words."""


@dataclass(frozen=True)
class Kind:
    """A kind of file: a good one, its name, and what reads it."""

    name: str
    good: bytes
    read: Callable[[Path], object]


def damaged(good: bytes, rng: np.random.Generator) -> bytes:
    """A file with a few bytes changed, cut, doubled, or numbers made absurd; more often at its beginning."""
    content = bytearray(good)
    for _ in range(rng.integers(1, 6)):
        where = int(rng.integers(len(content)) if rng.random() < 0.4 else rng.integers(min(len(content), 600)))
        match rng.integers(6):
            case 0:
                content[where] = int(rng.integers(256))
            case 1:
                content[where : where + 4] = rng.choice(
                    [b"\xff" * 4, b"\x00" * 4, b"\xff\xff\xff\x7f", b"\x00\x00\x80\x7f"]
                )
            case 2:
                content[where : where + int(rng.integers(1, 64))] = b""
            case 3:
                content[where:where] = content[where : where + int(rng.integers(1, 64))]
            case 4:
                del content[max(1, where) :]
            case 5:
                content[where] ^= 1 << int(rng.integers(8))
        if not content:
            return b"x"
    return bytes(content)


def _kinds(folder: Path) -> list[Kind]:
    """One good file of each kind."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, (12, 11, 9)).astype(np.uint8)
    affine = np.array([[-1.8, 0.2, 0.1, 30], [0.1, -1.9, 0.4, 12], [0.2, 0.2, 3.1, -44], [0, 0, 0, 1]])
    kinds = []
    for name in ("nii", "nii.gz", "nrrd"):
        path = folder / f"good.{name}"
        write_label(path, label, affine)
        kinds.append(Kind(name, path.read_bytes(), _as_label))
    study, _ = make_study(SPEC, 0, 0, 16, labelled=True)
    images = study.series["ct"]
    buffer = io.BytesIO()
    images[2].save_as(buffer, write_like_original=False)
    kinds.append(Kind("dcm", buffer.getvalue(), lambda path: _as_slice(path, images)))
    buffer = io.BytesIO()
    assert study.label is not None
    study.label.save_as(buffer, write_like_original=False)
    drawn = study.series[SPEC.reference]
    order, frame = stack(drawn), str(drawn[0].FrameOfReferenceUID)
    kinds.append(Kind("seg", buffer.getvalue(), lambda path: _as_seg(path, order, frame)))
    settings = Network(channels=(2, 3), strides=((1, 1, 1), (2, 2, 2)))
    checkpoint = Checkpoint(SPEC.name, SPEC.signature(), 3, 2, settings, (8, 8, 8), {"trained_on": {}})
    save_checkpoint(folder / "good.safetensors", build_network(3, 2, settings), checkpoint)
    kinds.append(Kind("safetensors", (folder / "good.safetensors").read_bytes(), _as_model))
    kinds.append(Kind("yaml", TASK.read_bytes(), load_task))
    datalist = {"training": [{"image": {"ct": "a.nii.gz", "pet": "b.nii.gz"}, "label": "c.nii.gz", "id": "x"}]}
    kinds.append(Kind("json", json.dumps(datalist, indent=1).encode(), lambda path: read_cases(path, SPEC)))
    dataset = {"channel_names": {"0": "CT", "1": "PET", "2": "T1"}, "labels": {"background": 0, "tumour": 1}}
    dataset |= {"numTraining": 1, "file_ending": ".nii.gz"}
    kinds.append(Kind("dataset", json.dumps(dataset, indent=1).encode(), _as_dataset))
    kinds.append(Kind("report", json.dumps({"trained_on": {"a": "b"}, "gate": {"publish": True}}).encode(), _as_report))
    return kinds


def _as_label(path: Path) -> object:
    claimed_shape(path)
    if not path.name.endswith(".nrrd"):
        read_image(FileRef(path))
    return read_label(path)


def _parsed(path: Path) -> pydicom.Dataset:
    try:
        found = pydicom.dcmread(path)
        _ = str(found)  # values are parsed when they are looked at
        return found
    except Exception as error:
        raise Unreadable(str(error)) from None


def _as_slice(path: Path, images: list[pydicom.Dataset]) -> object:
    changed = [*images[:2], _parsed(path), *images[3:]]
    survey(changed)
    return read_series(changed)


def _as_seg(path: Path, order: object, frame: str) -> object:
    seg = _parsed(path)
    seg_info(seg)
    return read_seg(seg, order, SPEC, frame)  # type: ignore[arg-type]


def _as_model(path: Path) -> object:
    return open_checkpoint(path, torch.device("cpu"))


def _as_dataset(path: Path) -> object:
    folder = path.parent / "dataset"
    (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
    (folder / "imagesTr" / "a_0000.nii.gz").touch()
    (folder / "dataset.json").write_bytes(path.read_bytes())
    return read_cases(folder, SPEC)


def _as_report(path: Path) -> object:
    version = path.parent / "models" / "v0001"
    version.mkdir(parents=True, exist_ok=True)
    (version / "report.json").write_bytes(path.read_bytes())
    return ModelRegistry(version.parent).report("v0001")


def _work(asked: Connection, told: Connection) -> None:
    """A process that reads what it is asked to; a limit on its memory, and nothing printed."""
    limit = int(MEMORY_GB * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = _kinds(folder)
        while (told_to := asked.recv()) is not None:
            place, seed = told_to
            kind = kinds[place]
            path = folder / f"damaged.{kind.name}"
            path.write_bytes(damaged(kind.good, np.random.default_rng((seed, place))))
            try:
                kind.read(path)
                result = "read"
            except MamlError:
                result = "refused"
            except Unreadable:
                result = "no such format"
            except BaseException as error:  # what nobody expected, memory included
                result = f"{type(error).__name__}: {error}"[:200]
            told.send(result)


class _Reader:
    """The process that reads, started anew when it hangs or dies."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        asked, self._ask = multiprocessing.Pipe(duplex=False)
        self._told, told = multiprocessing.Pipe(duplex=False)
        self._process = multiprocessing.get_context("spawn").Process(target=_work, args=(asked, told), daemon=True)
        self._process.start()
        self._first = True

    def read(self, place: int, seed: int) -> str:
        self._ask.send((place, seed))
        try:
            if self._told.poll(LONGEST_S + 60 * self._first):
                self._first = False
                return str(self._told.recv())
            result = f"longer than {LONGEST_S:g} s"
        except EOFError:
            result = "the process died"
        self._process.kill()
        self.start()
        return result

    def end(self) -> None:
        self._ask.send(None)
        self._process.join(10)


def main(
    out_file: Annotated[Path, typer.Argument(help="the JSON to write")],
    count: Annotated[int, typer.Option(min=1, help="damaged files in all")] = 5000,
    seed: Annotated[int, typer.Option(help="of the first one")] = 0,
) -> None:
    """Read damaged files of every kind; exit code 1 if anything but a MamlError came, or took too long."""
    names = ["nii", "nii.gz", "nrrd", "dcm", "seg", "safetensors", "yaml", "json", "dataset", "report"]
    reader, began = _Reader(), time.monotonic()
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    odd = []
    for number in range(count):
        place = number % len(names)
        result = reader.read(place, seed + number)
        plain = result in ("read", "refused", "no such format")
        counts[names[place]][result if plain else "odd"] += 1
        if not plain:
            odd.append({"kind": names[place], "seed": seed + number, "what": result})
            typer.echo(f"{names[place]} {seed + number}: {result}")
    reader.end()
    minutes = round((time.monotonic() - began) / 60, 1)
    told = {"files": count, "first_seed": seed, "memory_gb": MEMORY_GB, "longest_s": LONGEST_S, "minutes": minutes}
    write_text(out_file, json.dumps({**told, "by_kind": counts, "odd": odd}, indent=1) + "\n")
    typer.echo(f"{count} files, {len(odd)} odd, {minutes} min: {out_file}")
    raise typer.Exit(1 if odd else 0)


if __name__ == "__main__":
    typer.run(main)
