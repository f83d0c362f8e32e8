"""Cases in a folder, or in a datalist JSON, and their labels: kept beside them, only ever added.

<studies>/maml_labels/<case>/final-0001.nii.gz      a person's label
<studies>/maml_labels/<case>/final-0001.json        who, when, from where
<studies>/maml_labels/<case>/original-0001.nii.gz   a model's proposal
<studies>/maml_labels/<case>/info.json              notes that clients left
<studies>/maml_labels/studies.json                  what tells these studies from others
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maml_app.cases.case import Case, LabelRef, check_id
from maml_app.cases.source import Unused
from maml_app.cases.spec import TaskSpec
from maml_app.disk import write_text
from maml_app.errors import CaseError, ImageError, LabelError, StudiesError
from maml_app.imaging.files import write_label
from maml_app.imaging.reading import readable_frame
from maml_app.stores.identity import folder_identity
from maml_app.stores.incoming import checked_label, volumes_ml
from maml_app.stores.layouts import LABEL_STORE, read_studies

TAG = re.compile(r"[A-Za-z0-9_]+")


class FolderStore:
    """The CaseSource of a folder of NIfTI studies. Read afresh at every call, so new files are seen at once."""

    def __init__(self, studies: Path, spec: TaskSpec) -> None:
        self.studies = studies
        self.spec = spec
        self.label_root = (studies if studies.is_dir() else studies.parent) / LABEL_STORE

    def cases(self) -> list[Case]:
        return [self._with_stored(case) for case in read_studies(self.studies, self.spec).cases]

    def unused(self) -> list[Unused]:
        listing = read_studies(self.studies, self.spec)
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
        for case in read_studies(self.studies, self.spec).cases:
            if case.id == case_id:
                return self._with_stored(case)
        raise CaseError(f"expected a case in {self.studies}, got the unknown id {case_id!r}")

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

    def _stored(self, case_id: str) -> list[LabelRef]:
        found = []
        for path in sorted((self.label_root / check_id(case_id)).glob("*.nii.gz")):
            name = re.fullmatch(r"([A-Za-z0-9_]+)-(\d{4,})\.nii\.gz", path.name)
            if name:
                found.append(LabelRef(path, int(name[2]), name[1]))
        return sorted(found, key=lambda label: (label.version, label.tag))

    def _with_stored(self, case: Case) -> Case:
        return replace(case, labels=(*case.labels, *self._stored(case.id)))

    def save_label(self, image_id: str, file: Path, tag: str, info: dict[str, Any]) -> LabelRef:
        if not TAG.fullmatch(tag):
            raise LabelError(f"expected a label tag of letters, digits and '_', got {tag!r}")
        case, asked = self.resolve(image_id)
        label, _ = checked_label(case, file, self.spec, info, asked)
        folder = self.label_root / case.id
        version = max((one.version for one in case.labels), default=0) + 1
        while True:
            ref = LabelRef(folder / f"{tag}-{version:04d}.nii.gz", version, tag)
            try:
                write_label(ref.path, label.voxels, label.affine, replace=False)
                break
            except FileExistsError:  # saved by someone else in this very moment
                version += 1
            except OSError as error:
                raise StudiesError(f"{folder}: the label could not be stored, nothing was written ({error})") from None
        record = {
            "case": case.id,
            "tag": tag,
            "version": version,
            "saved": datetime.now(UTC).isoformat(timespec="seconds"),
            "volume_ml": volumes_ml(label, self.spec),
            "info": info,
        }
        self._write_json(ref.path.with_name(f"{ref.id}.json"), record)
        return ref

    def slices(self, case: Case, asked: str) -> list[str]:
        return []  # files have no names for their slices

    def info(self, case_id: str) -> dict[str, Any]:
        path = self.label_root / check_id(case_id) / "info.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def update_info(self, case_id: str, info: dict[str, Any]) -> None:
        case_id = self.case(case_id).id
        self._write_json(self.label_root / case_id / "info.json", {**self.info(case_id), **info})

    @staticmethod
    def _write_json(path: Path, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=1, default=str)
        try:
            write_text(path, text)
        except OSError as error:
            raise StudiesError(f"{path}: could not be written ({error})") from None
