"""Which store holds the studies, and which task is served."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maml_app.cases.case import Case
from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec, load_task
from maml_app.cases.values import own_meaning
from maml_app.errors import ArchiveError, LabelError, MamlError, StudiesError, TaskSpecError
from maml_app.imaging.files import read_label_values
from maml_app.settings import Settings
from maml_app.stores.cache import cache_folder
from maml_app.stores.folder import FolderStore

if TYPE_CHECKING:
    from maml_app.stores.dicomweb import DicomWebStore

PACKAGE = Path(__file__).resolve().parents[1]
# inside the package where it is installed, beside it in a checkout
APPS = next(folder for folder in (PACKAGE / "apps", PACKAGE.parent / "apps") if folder.is_dir())


def shipped_tasks() -> dict[str, Path]:
    """The tasks in `apps/`, by folder name."""
    return {path.parent.name: path for path in sorted(APPS.glob("*/task.yaml"))}


def is_archive(studies: str) -> bool:
    """Whether a studies argument is a DICOMweb address."""
    return studies.startswith(("http://", "https://"))


def choose_task(
    studies: str | Path, asked: str = "", app_dir: Path | None = None, settings: Settings | None = None
) -> TaskSpec:
    """The task by `asked` (a shipped name or a path), else <studies>/task.yaml, else the app folder's own, else the
    one shipped task whose rules match the studies best, if what is labelled there fits it too.

    Raises:
        TaskSpecError: a task.yaml does not validate, or none, or several tasks fit, or the labels are of something
            else; the choices are listed.
        ArchiveError: the studies are in an archive that cannot be asked.
    """
    studies = str(studies)
    stated = _stated_task(studies, asked, app_dir)
    return stated if stated else _guessed_task(studies, settings)


def _stated_task(studies: str, asked: str, app_dir: Path | None) -> TaskSpec | None:
    """The task that is asked for, or that a task.yaml in the studies or the app folder states; None if nothing does."""
    shipped = shipped_tasks()
    if asked:
        if asked in shipped:
            return load_task(shipped[asked])
        if Path(asked).exists():
            return load_task(Path(asked))
        raise TaskSpecError(f"expected a task of {sorted(shipped)} or a path to a task.yaml, got {asked!r}")
    home = None if is_archive(studies) else Path(studies)
    home = home.parent if home and not home.is_dir() else home
    for folder in (home, app_dir):
        if folder and (folder / "task.yaml").is_file():
            return load_task(folder / "task.yaml")
    return None


def _guessed_task(studies: str, settings: Settings | None) -> TaskSpec:
    """The one shipped task that finds the most images, if the labels do not speak against it."""
    found: dict[str, tuple[int, TaskSpec, list[Case]]] = {}
    refused: list[str] = []
    for name, path in shipped_tasks().items():
        try:
            task = load_task(path)
            cases = open_studies(studies, task, settings).cases()
            found[name] = sum(len(case.images) for case in cases), task, cases
        except ArchiveError:
            raise
        except (StudiesError, TaskSpecError) as error:  # as when a series is set by hand to another task's modality
            refused.append(str(error))
    most = max((count for count, _, _ in found.values()), default=0)
    best = [name for name, (count, _, _) in found.items() if count and count == most]
    got = f"several that fit equally: {best}"
    if not best:
        got = "none that fits"
    elif len(best) == 1:
        _, task, cases = found[best[0]]
        doubt = "" if is_archive(studies) else labels_against(cases, task)
        if not doubt:
            return task
        got = f"images that fit {best[0]} and labels that do not: {doubt}"
    reasons = "".join(f"\n  {reason}" for reason in dict.fromkeys(refused)) if not best else ""
    raise TaskSpecError(
        f"{studies}: expected files that match one of the tasks {sorted(shipped_tasks())}, got {got}; name one with "
        f"--conf task NAME (server) or --task NAME, or put a task.yaml into the studies folder{reasons}"
    )


def labels_against(cases: Sequence[Case], task: TaskSpec) -> str:
    """What the labels say against a task that the images fit; '' if they fit it, or there are none.

    Together they must hold every label of the task, and nothing else: a mask of another lesion has other values.
    """
    seen: set[int] = set()
    looked = 0
    for case in cases:
        if case.label is None:
            continue
        try:
            values = read_label_values(case.label.local())
            meaning = case.label.meaning() if case.label.meaning else own_meaning(task)
            meaning.check(sorted(values), case.id)
        except LabelError as error:
            return str(error)
        except MamlError:
            continue  # a file that cannot be read says nothing about the task
        looked += 1
        seen |= {meaning.values[value] for value in values}
        if set(task.label_values) <= seen:
            return ""
    lacking = [name for value, name in task.label_values.items() if value not in seen]
    return f"{looked} labels hold no {', '.join(lacking)}" if seen else ""


def open_studies(studies: str, spec: TaskSpec, settings: Settings | None = None) -> CaseSource:
    """The store behind a studies argument.

    An archive's `assign` is a JSON file {SeriesInstanceUID: modality or null} or `UID=MODALITY,UID=none`; it goes
    before the rules, as does assign.json in the archive's cache folder.

    Args:
        settings: without them those of the environment.

    Raises:
        StudiesError: a location that is not there.
        TaskSpecError: an option that cannot be understood.
    """
    if is_archive(studies):
        return open_archive(studies, spec, settings)
    path = Path(studies)
    if not path.exists():
        raise StudiesError(f"{path}: expected a folder of studies or a datalist JSON, got nothing there")
    settings = settings or Settings.read()
    return FolderStore(path, spec, cache_folder(str(path.resolve()), settings.cache))


def open_archive(studies: str, spec: TaskSpec, settings: Settings | None = None) -> DicomWebStore:
    """The store of a DICOMweb address; settings and errors as `open_studies`."""
    # only here: training on a folder of files needs no DICOM library
    from maml_app.stores.cache import Cache
    from maml_app.stores.dicomweb import DicomWebStore
    from maml_app.stores.pacs import Pacs

    settings, url = settings or Settings.read(), studies.rstrip("/")
    folder = cache_folder(url, settings.cache)
    forced = _assigned(folder / "assign.json", spec) if (folder / "assign.json").is_file() else {}
    if settings.assign:
        forced |= _assigned(settings.assign, spec)
    cache = Cache(folder, settings.cache_gb)
    return DicomWebStore(Pacs(url), spec, cache, forced, settings.foreign_segs == "use")


def _assigned(source: Path | str, spec: TaskSpec) -> dict[str, str | None]:
    """Series set by hand: a JSON file, or `UID=MODALITY,UID=none`."""
    expected = "{SeriesInstanceUID: modality or null} in a JSON file, or UID=MODALITY,UID=none"
    if isinstance(source, str) and "=" in source:
        pairs = [pair.partition("=") for pair in source.split(",") if pair.strip()]
        content: object = {uid.strip(): name.strip() for uid, _, name in pairs}
    else:
        try:
            content = json.loads(Path(source).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TaskSpecError(f"assign {source}: expected {expected}, got: {error}") from None
    if not isinstance(content, dict):
        raise TaskSpecError(f"assign {source}: expected {expected}, got {type(content).__name__}")
    result: dict[str, str | None] = {}
    for uid, name in content.items():
        if name is not None and name != "none" and name not in spec.modality_names:
            raise TaskSpecError(f"assign: {uid}: expected one of {[*spec.modality_names, 'none']}, got {name!r}")
        result[str(uid)] = None if name in (None, "none") else str(name)
    return result
