"""Kills during saves: of processes that save, and of the server. What was acknowledged is there, once, and whole."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated

import nibabel as nib
import numpy as np
import requests
import typer

from maml_app.cases.spec import load_task
from maml_app.disk import write_text
from maml_app.imaging.files import read_label, write_label
from maml_app.phantom.scene import write_cases
from maml_app.stores.choice import shipped_tasks
from maml_app.stores.folder import FolderStore
from tests.builders import keep
from tests.harness.server import Server

SPEC = load_task(shipped_tasks()["sarcoma_pet_ct_mr"])
CASE = "phantom_000"


class Book:
    """What was acknowledged: label id -> the number that was drawn into it; and what is wrong with what is kept."""

    def __init__(self, studies: Path, label: Path) -> None:
        self.studies = studies
        self.store = FolderStore(studies, SPEC)
        self.image = nib.load(studies / CASE / f"{SPEC.reference}.nii.gz")
        self.label = label
        self.known: dict[str, int] = {}
        self.faults: list[str] = []

    def draw(self, number: int) -> Path:
        """A label map in which a number can be read again: so many voxels are set."""
        voxels = np.zeros(self.image.shape, np.uint8)
        voxels.reshape(-1)[: number + 1] = 1
        write_label(self.label, voxels, self.image.affine)
        return self.label

    def check(self) -> None:
        """Every acknowledged label is there with what was drawn; each number is there at most once; all can be read."""
        found: dict[str, int] = {}
        for label in self.store.case(CASE).labels:
            if label.version:
                found[label.id] = int((read_label(label.path).voxels > 0).sum()) - 1
        self.faults += [f"{name} is lost" for name in self.known if name not in found]
        self.faults += [
            f"{name} holds {found[name]}, not {n}" for name, n in self.known.items() if found.get(name, n) != n
        ]
        numbers = list(found.values())
        self.faults += [f"number {number} is there twice" for number in set(numbers) if numbers.count(number) > 1]
        for path in self.store.label_root.rglob("*.nii.gz"):
            if not path.name.startswith("."):
                read_label(path)
        recorded = {label.entry.label: label for label in self.store.history(CASE)}
        self.faults += [f"{name} has no record" for name in found if name not in recorded]
        self.faults += [f"{name}'s record is empty" for name, label in recorded.items() if not label.entry.content]
        for path in self.store.label_root.rglob("[!.]*.json"):
            json.loads(path.read_text(encoding="utf-8"))


def of_processes(book: Book, kills: int, rng: np.random.Generator) -> None:
    """Fork, let the child save and tell each save through a pipe, and kill it at a random moment."""
    number = 0
    for _ in range(kills):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            for mine in range(number, number + 1000):
                stored = keep(book.store, CASE, book.draw(mine))
                os.write(write, f"{stored.id} {mine}\n".encode())
            os._exit(0)
        os.close(write)
        time.sleep(float(rng.uniform(0.02, 0.8)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(read) as told:
            for line in told:
                name, drawn = line.split()
                book.known[name] = int(drawn)
                number = int(drawn)
        number += 2  # the one that may have been stored and not told is not drawn again
    book.check()


def of_servers(book: Book, kills: int, rng: np.random.Generator, folder: Path) -> None:
    """Start the server, save through it, and kill it and all its processes at a random moment."""
    number = 100_000
    for turn in range(kills):
        server = Server(book.studies, folder / "log", conf={"models": str(folder / "models"), "task": SPEC.name})
        with server:
            ended = threading.Event()

            def save(address: str = server.url, ended: threading.Event = ended) -> None:
                nonlocal number
                while not ended.is_set():
                    number += 1
                    with book.draw(number % 1000 + 1000).open("rb") as file:
                        try:
                            url = f"{address}/datastore/label?image={CASE}&tag=final"
                            answer = requests.put(url, files={"label": ("a.nii.gz", file)}, timeout=30)
                        except requests.RequestException:
                            return
                    if answer.status_code != 200:
                        book.faults.append(f"{answer.status_code} {answer.text[:100]}")
                        return
                    book.known[answer.json()["label"].partition("@")[2]] = number % 1000 + 1000

            client = threading.Thread(target=save)
            client.start()
            time.sleep(float(rng.uniform(0.1, 1.5)))
            server.kill()
            ended.set()
            client.join()
        number += 1
        typer.echo(f"server {turn + 1}/{kills}: {len(book.known)} acknowledged, {len(book.faults)} faults")
    book.check()


def main(
    out_file: Annotated[Path, typer.Argument(help="the JSON to write")],
    processes: Annotated[int, typer.Option(min=0)] = 500,
    servers: Annotated[int, typer.Option(min=0)] = 60,
) -> None:
    """Kill, check, and write what was seen; exit code 1 if anything acknowledged is lost, doubled or damaged."""
    result: dict[str, object] = {}
    faults = 0
    for name, kills in (("processes", processes), ("servers", servers)):
        with tempfile.TemporaryDirectory(prefix="maml-kills-") as home:
            folder = Path(home)
            write_cases(folder / "studies", SPEC, count=1, seed=1, size=24, labelled=0)
            book, rng = Book(folder / "studies", folder / "drawn.nii.gz"), np.random.default_rng(7)
            if name == "processes":
                of_processes(book, kills, rng)
            else:
                of_servers(book, kills, rng, folder)
            result[name] = {"kills": kills, "acknowledged": len(book.known), "faults": sorted(set(book.faults))}
            faults += len(book.faults)
            typer.echo(f"{name}: {json.dumps(result[name])}")
    write_text(out_file, json.dumps(result, indent=1) + "\n")
    raise typer.Exit(1 if faults else 0)


if __name__ == "__main__":
    typer.run(main)
