"""One file with all that is kept about a store's labels, and the models; and the way back.

Every file in it was written whole and is never changed, so it can be copied while people save: a label is in the copy
with its record, or not at all. Which version is served is copied before the versions, which only become more.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from maml_app.cases.source import CaseSource
from maml_app.disk import write_atomically, write_bytes
from maml_app.errors import StudiesError

MODELS = "models"
LEDGER = "ledger.sqlite"
AGAIN = frozenset({"prepared", "scores", "seen"})  # MODELS/TASK/…: what is computed again


def backup(source: CaseSource, models: Path | None, out_file: Path) -> int:
    """Write a tar file that only its owner may read; it is there whole or not at all. Returns how many files are in it.

    Raises:
        StudiesError: it is there already, or cannot be written.
    """
    if out_file.exists():
        raise StudiesError(f"{out_file}: expected a file that is not there yet, so that no backup is overwritten")
    count = 0

    def fill(part: Path) -> None:
        nonlocal count
        with tempfile.TemporaryDirectory() as work, tarfile.open(part, "w") as tar:
            for name, path in _places(source, models, Path(work)).items():
                for inside, file in _files(path, AGAIN if name == MODELS else frozenset()):
                    with suppress(FileNotFoundError):  # pruned or replaced in this very moment
                        content = file.read_bytes()
                        info = tarfile.TarInfo(str(PurePosixPath(name) / inside))
                        info.size, info.mtime = len(content), file.stat().st_mtime
                        tar.addfile(info, io.BytesIO(content))
                        count += 1

    try:
        write_atomically(out_file, fill, replace=False, mode=0o600)
    except OSError as error:
        raise StudiesError(f"{out_file}: the backup could not be written ({error})") from None
    return count


def bring_back(file: Path, source: CaseSource, models: Path | None) -> int:
    """Put back what is not there. Returns how many files were; nothing is written if anything differs.

    Raises:
        StudiesError: it is no backup, or a file of it is there with other content.
    """
    try:
        with tempfile.TemporaryDirectory() as work, tarfile.open(file) as tar:
            places = _places(source, models, Path(work))
            new = dict(_missing(tar, places, file))
            for target, content in new.items():
                write_bytes(target, content)
    except (OSError, tarfile.TarError) as error:
        raise StudiesError(f"{file}: could not be read or put back ({error})") from None
    return len(new)


def _missing(tar: tarfile.TarFile, places: Mapping[str, Path], file: Path) -> Iterator[tuple[Path, bytes]]:
    for member in tar:
        name, *parts = PurePosixPath(member.name).parts
        if not member.isfile() or ".." in parts or member.name.startswith("/"):
            raise StudiesError(f"{file}: expected files of a backup, got {member.name!r}")
        if name == MODELS and MODELS not in places:
            continue
        if name not in places:
            raise StudiesError(
                f"{file}: expected a backup of studies of this kind ({', '.join(places)}), got {name}: a folder's "
                "cannot be put into an archive, nor the other way round"
            )
        target = places[name].joinpath(*parts)
        taken = tar.extractfile(member)
        content = taken.read() if taken else b""
        if name == LEDGER and (target.exists() or not target.parent.exists()):
            continue  # it is made anew from what comes back
        if not target.exists():
            yield target, content
        elif target.read_bytes() != content:
            raise StudiesError(
                f"{target}: is there and differs from the backup; move it away first. Nothing was put back"
            )


def _places(source: CaseSource, models: Path | None, work: Path) -> dict[str, Path]:
    return {**source.kept(work), **({MODELS: models} if models else {})}


def _files(path: Path, again: frozenset[str]) -> Iterator[tuple[PurePosixPath, Path]]:
    """The files below a folder, without those of a task's folders `again`, or the one file; `served` first."""
    if path.is_file():
        yield PurePosixPath(), path
        return
    found = sorted(path.rglob("*"), key=lambda file: (file.name != "served", file))
    for file in found:
        inside = file.relative_to(path)
        hidden = any(part.startswith(".") for part in inside.parts)
        if file.is_file() and not hidden and again.isdisjoint(inside.parts[1:2]):
            yield PurePosixPath(*inside.parts), file
