"""Which store holds the studies, and which task is served."""

from __future__ import annotations

from pathlib import Path

from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec, load_task
from maml_app.errors import StudiesError, TaskSpecError
from maml_app.stores.folder import FolderStore
from maml_app.stores.layouts import read_cases

APPS = Path(__file__).resolve().parents[2] / "apps"


def shipped_tasks() -> dict[str, Path]:
    """The tasks in `apps/`, by folder name."""
    return {path.parent.name: path for path in sorted(APPS.glob("*/task.yaml"))}


def choose_task(studies: Path, asked: str = "", app_dir: Path | None = None) -> TaskSpec:
    """The task by `asked` (a shipped name or a path), else <studies>/task.yaml, else the app folder's own, else the
    one shipped task whose file rules match the studies best.

    Raises:
        TaskSpecError: a task.yaml does not validate, or none, or several tasks fit; the choices are listed.
    """
    shipped = shipped_tasks()
    if asked:
        if asked in shipped:
            return load_task(shipped[asked])
        if Path(asked).exists():
            return load_task(Path(asked))
        raise TaskSpecError(f"expected a task of {sorted(shipped)} or a path to a task.yaml, got {asked!r}")
    home = studies if studies.is_dir() else studies.parent
    for folder in (home, app_dir):
        if folder and (folder / "task.yaml").is_file():
            return load_task(folder / "task.yaml")
    counts: dict[str, int] = {}
    refused: list[str] = []
    for name, path in shipped.items():
        try:
            counts[name] = sum(len(case.images) for case in read_cases(studies, load_task(path)))
        except StudiesError as error:
            refused.append(str(error))
    best = [name for name, count in counts.items() if count and count == max(counts.values())]
    if len(best) == 1:
        return load_task(shipped[best[0]])
    found = f"several that fit equally: {best}" if best else "none that fits"
    reasons = "".join(f"\n  {reason}" for reason in dict.fromkeys(refused)) if not best else ""
    raise TaskSpecError(
        f"{studies}: expected files that match one of the tasks {sorted(shipped)}, got {found}; name one with "
        f"--conf task NAME (server) or --task NAME, or put a task.yaml into the studies folder{reasons}"
    )


def open_studies(studies: str, spec: TaskSpec) -> CaseSource:
    """The store behind a studies argument.

    Raises:
        StudiesError: a DICOMweb address (not served yet), or a location that is not there.
    """
    if studies.startswith(("http://", "https://")):
        raise StudiesError(f"{studies}: expected a folder of NIfTI studies or a datalist JSON, got a DICOMweb address")
    path = Path(studies)
    if not path.exists():
        raise StudiesError(f"{path}: expected a folder of studies or a datalist JSON, got nothing there")
    return FolderStore(path, spec)
