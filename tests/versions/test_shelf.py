"""What a model saw of a case comes back from its file to the last bit, or is worked out anew."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maml_app.imaging.preprocess import Prepared
from maml_app.network.window import Opinions
from maml_app.versions.kept import Kept, half
from maml_app.versions.shelf import Seen, Shelf
from tests.imaging.shapes import oblique


def some(seed: int = 0) -> Seen:
    draw = torch.Generator().manual_seed(seed)
    shape = (7, 6, 5)
    prepared = Prepared(
        torch.randn(3, *shape, generator=draw),
        torch.tensor([True, False, True]),
        oblique(shape, (1.2, 2.5, 3.1), seed),
        ("ct", "mr_t1"),
        {"pet": "it is no SUV"},
    )
    fused = torch.randn(2, *shape, generator=draw).softmax(dim=0)
    return Seen(prepared, half(Opinions(fused, {0: fused.flip(1), 2: fused.flip(2)}, torch.randn(8, generator=draw))))


def never() -> Seen:
    raise AssertionError("it is known")


def on_disk(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_a_case_is_known_after_a_restart(tmp_path: Path) -> None:
    key = ("case", None, 3)
    shelf = Shelf(tmp_path / "v0001", 1e6)
    seen = Kept(shelf=shelf).of(key, some)
    shelf.settle()
    [file] = on_disk(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = Kept(shelf=Shelf(tmp_path / "v0001", 1e6)).of(key, never)
    assert torch.equal(again.prepared.images, seen.prepared.images)
    assert torch.equal(again.prepared.presence, seen.prepared.presence)
    assert (again.prepared.grid.affine == seen.prepared.grid.affine).all()
    assert again.prepared.grid.shape == seen.prepared.grid.shape
    assert (again.prepared.used, again.prepared.left_out) == (seen.prepared.used, seen.prepared.left_out)
    assert torch.equal(again.opinions.fused, seen.opinions.fused)
    assert torch.equal(again.opinions.features, seen.opinions.features)
    assert again.opinions.experts.keys() == seen.opinions.experts.keys()
    for index, said in seen.opinions.experts.items():
        assert torch.equal(again.opinions.experts[index], said)
    other = Kept(shelf=Shelf(tmp_path / "v0002", 1e6)).of(key, lambda: some(1))
    assert not torch.equal(other.opinions.fused, seen.opinions.fused)


@pytest.mark.parametrize("content", [b"", b"damaged", None])
def test_what_cannot_be_read_is_worked_out_anew(tmp_path: Path, content: bytes | None) -> None:
    shelf = Shelf(tmp_path / "v0001", 1e6)
    shelf.put("a", some())
    shelf.settle()
    [file] = on_disk(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-40] if content is None else content)
    assert Kept(shelf=shelf).of("a", lambda: some(1)).prepared.grid.same_as(some(1).prepared.grid)
    shelf.settle()
    assert len(file.read_bytes()) == len(whole)


def test_the_least_recently_used_make_room(tmp_path: Path) -> None:
    first, second = Shelf(tmp_path / "v0001", 1e9), Shelf(tmp_path / "v0002", 1e9)
    for age, (shelf, key) in enumerate(((first, "a"), (first, "b"), (second, "c"))):
        shelf.put(key, some())
        shelf.settle()
        os.utime(shelf._path(key), (1e9 + age, 1e9 + age))
    size = on_disk(tmp_path)[0].stat().st_size
    assert first.read("a") is not None  # used again: now the newest
    small = replace(second, room=2.5 * size)
    small.put("d", some())
    small.settle()
    assert on_disk(tmp_path) == sorted([first._path("a"), second._path("d")])
    replace(second, room=10).put("e", some())
    second.settle()
    assert len(on_disk(tmp_path)) == 2


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "v0001").write_text("a file where the folder should be")
    shelf = Shelf(tmp_path / "v0001", 1e6)
    assert Kept(shelf=shelf).of("a", some).prepared.used == ("ct", "mr_t1")
    shelf.settle()
    assert "could not be kept" in caplog.text
