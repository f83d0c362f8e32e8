"""Cases in a folder, or in a datalist JSON, and their labels: kept beside them, only ever added.

<studies>/maml_labels/<case>/final-0001.nii.gz      a person's label, with who, when, from what in its header
<studies>/maml_labels/<case>/original-0001.nii.gz   a model's proposal
<studies>/maml_labels/<case>/decision-0001.json     what someone decided about a label
<studies>/maml_labels/<case>/info.json              notes that clients left
<studies>/maml_labels/studies.json                  what tells these studies from others
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from maml_app.cases.case import Case, check_id
from maml_app.cases.history import Decision, Entry, Recorded, Told, now
from maml_app.cases.series import Choice
from maml_app.cases.source import LabelMap, Unused
from maml_app.cases.spec import TaskSpec
from maml_app.cases.values import values_by_name
from maml_app.disk import private_folder, write_text
from maml_app.errors import CaseError, ImageError, LabelError, StudiesError
from maml_app.imaging.labels import volumes_ml
from maml_app.imaging.reading import readable_frame
from maml_app.imaging.volume import Volume
from maml_app.stores.identity import folder_identity
from maml_app.stores.label_folder import LabelFolder
from maml_app.stores.layouts import LABEL_STORE, Listings
from maml_app.stores.ledger import LEDGER, Ledger
from maml_app.stores.notes import merged

INFO = "info.json"
TAG = re.compile(r"[A-Za-z0-9_]+")


class FolderStore:
    """The CaseSource of a folder of NIfTI studies. New files are seen at the next call.

    Args:
        state: folder of this machine for the ledger; None: one that ends with the process, for those who only read.
    """

    def __init__(self, studies: Path, spec: TaskSpec, state: Path | None = None) -> None:
        self.studies = studies
        self.spec = spec
        self.label_root = (studies if studies.is_dir() else studies.parent) / LABEL_STORE
        self._state = state
        self._listings = Listings(studies, spec)
        self._labels = LabelFolder(self.label_root, Ledger(state / LEDGER if state else None), spec)

    @property
    def state(self) -> Path:
        return self._state or private_folder("state") / self.identity().replace("/", "-")

    def cases(self) -> list[Case]:
        stored = self._labels.every()
        return [
            replace(case, labels=(*case.labels, *stored[case.id])) if case.id in stored else case
            for case in self._listings.now().cases
        ]

    def unused(self) -> list[Unused]:
        listing = self._listings.now()
        known = {case.id for case in listing.cases}
        labelled = [path.name for path in self._folders() if path.name not in known and any(path.glob("*.nii.gz"))]
        gone = [
            Unused(f"{LABEL_STORE}/{name}", "labels that were saved for a case that is not there any more")
            for name in sorted(labelled)
        ]
        return [*listing.unused, *gone]

    def _folders(self) -> list[Path]:
        return [path for path in self.label_root.iterdir() if path.is_dir()] if self.label_root.is_dir() else []

    def identity(self, claim: bool = False) -> str:
        return folder_identity(self.label_root, "" if self.studies.is_dir() else self.studies.name, claim)

    def case(self, case_id: str) -> Case:
        case = self._listings.case(case_id)
        if case is None:
            raise CaseError(f"expected a case in {self.studies}, got the unknown id {case_id!r}")
        return replace(case, labels=(*case.labels, *self._labels.refs(case_id)))

    def resolve(self, image_id: str) -> tuple[Case, str]:
        case_id, _, modality = image_id.partition("@")
        case = self.case(case_id)
        try:
            modality = modality or readable_frame(case, self.spec)
        except ImageError:  # told by who reads it
            modality = case.frame_modality(self.spec.preference)
        if modality not in case.images:
            raise CaseError(f"case {case_id}: expected one of its images {sorted(case.images)}, got {modality!r}")
        return case, modality

    def save_label(self, case: Case, image: str, label: LabelMap, tag: str, told: Told) -> Entry:
        if not TAG.fullmatch(tag):
            raise LabelError(f"expected a label tag of letters, digits and '_', got {tag!r}")
        volume = Volume(label.voxels, label.affine)
        entry = Entry(
            **told.model_dump(),
            case=case.id,
            label="",
            version=0,
            tag=tag,
            image=image,
            content=volume.content,
            saved=now(),
            volume_ml=volumes_ml(volume, self.spec),
            values=values_by_name(self.spec),
        )
        return self._labels.add(entry, volume)

    def history(self, case_id: str) -> list[Recorded]:
        return self._labels.history(case_id)

    def histories(self) -> dict[str, list[Recorded]]:
        return self._labels.histories()

    def decide(self, decision: Decision) -> None:
        self._labels.decide(decision)

    def kept(self, work: Path) -> dict[str, Path]:
        self._labels.ledger.copy(work / LEDGER)
        return {"labels": self.label_root, LEDGER: work / LEDGER}

    def holding(self, case_id: str) -> AbstractContextManager[None]:
        return self._labels.holding(case_id)

    def slices(self, case: Case, asked: str) -> list[str]:
        return []  # files have no names for their slices

    def choices(self, study: str) -> list[Choice]:
        return []  # names say what a file is

    def set_modality(self, series: str, modality: str) -> None:
        raise CaseError(f"expected a series of an archive, got {series!r}: files are told apart by their names")

    def info(self, case_id: str) -> dict[str, Any]:
        return self._info(self.label_root / check_id(case_id) / INFO)

    def notes(self) -> Mapping[str, Mapping[str, object]]:
        return {path.parent.name: self._info(path) for path in self.label_root.glob(f"*/{INFO}")}

    @staticmethod
    def _info(path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def update_info(self, case_id: str, info: dict[str, Any]) -> None:
        case_id = self.case(case_id).id
        with self.holding(case_id):
            self._write_json(self.label_root / case_id / INFO, merged(self.info(case_id), info))

    @staticmethod
    def _write_json(path: Path, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=1, default=str)
        try:
            write_text(path, text)
        except OSError as error:
            raise StudiesError(f"{path}: could not be written ({error})") from None
