"""Cases as MONAI Label's datastore sees them: one "image" a case, its reference modality; `CASE@MODALITY` is any."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore

from maml_app.cases.case import FINAL, Case, FileRef, LabelRef
from maml_app.cases.history import Recorded, State, Told
from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec
from maml_app.disk import private_folder
from maml_app.errors import CaseError, ImageError
from maml_app.imaging.files import read_image, read_label, write_image
from maml_app.labelling.incoming import Segment
from maml_app.labelling.saving import Sent, save
from maml_app.tasks.answers import answering

KEPT = "studies and labels are only ever added here; to correct a label save it again, earlier versions stay"


Sees = Callable[[Case, Sequence[Recorded]], Case]


def as_it_is(case: Case, recorded: Sequence[Recorded]) -> Case:
    """Nothing is hidden."""
    return case


class CaseDatastore(Datastore):
    """An adapter from CaseSource to MONAI Label's Datastore; it decides nothing itself."""

    def __init__(self, source: CaseSource, spec: TaskSpec, studies: str) -> None:
        self.source = source
        self.spec = spec
        self.studies = studies

    def name(self) -> str:
        return self.studies

    def set_name(self, name: str) -> None:
        self._refuse("the name is the studies folder")

    def description(self) -> str:
        return self.spec.title

    def set_description(self, description: str) -> None:
        self._refuse("the description is the task's title")

    def _cases(self, labelled: bool | None = None) -> list[Case]:
        with answering():
            return [case for case in self.source.cases() if labelled is None or (case.label is not None) == labelled]

    def list_images(self) -> list[str]:
        return [case.id for case in self._cases()]

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return [case.id for case in self._cases(labelled=True)]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return [case.id for case in self._cases(labelled=False)]

    def datalist(self) -> list[dict[str, Any]]:
        """Final labels and all images of their cases, as plain values."""
        return [
            {
                "id": case.id,
                "image": {name: str(ref) for name, ref in case.images.items()},
                "label": str(case.label.path),
            }
            for case in self._cases(labelled=True)
            if case.label
        ]

    def get_image(self, image_id: str, params: Any = None) -> Any:
        return Path(self.get_image_uri(image_id)).open("rb")

    def get_image_uri(self, image_id: str) -> str:
        with answering():
            case, modality = self.source.resolve(image_id)
            return str(_as_file(case.grids[modality]))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Notes about the case, and what it holds."""
        with answering():
            return self._info(*self.source.resolve(image_id))

    def _info(self, case: Case, modality: str) -> dict[str, Any]:
        dicom = {
            "StudyInstanceUID": case.study,
            "SeriesInstanceUID": case.series.get(modality, modality).partition("#")[0],
            "PatientID": case.patient,
            "Modality": modality,
        }
        return {
            **self.source.info(case.id),
            **(dicom if case.study else {}),
            # clients on another machine name the file that they download by it
            "name": f"{case.id}.nii.gz",
            "case": case.id,
            "modality": modality,
            "images": {name: case.series.get(name, f"{case.id}@{name}") for name in case.images},
            "missing": list(case.missing(self.spec.modality_names)),
            "left_out": dict(case.left_out),
            "notes": list(case.notes),
            "labelled": case.label is not None,
        }

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        with answering():
            case, _ = self.source.resolve(image_id)
            self.source.update_info(case.id, info)

    def _label(self, label_id: str, tag: str) -> LabelRef:
        """A stored label by `CASE`, its newest, or `CASE@final-0002`."""
        case_id, _, version = label_id.partition("@")
        for label in reversed(self.source.case(case_id).labels):
            if label.tag == tag and version in ("", label.id):
                return label
        raise CaseError(f"expected a label of case {case_id!r} with tag {tag!r}, got the unknown id {label_id!r}")

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        with answering():
            case, _ = self.source.resolve(image_id)
            return {label.tag: f"{case.id}@{label.id}" for label in case.labels}

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        return self.get_labels_by_image_id(image_id).get(tag, "")

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> Any:
        return Path(self.get_label_uri(label_id, label_tag)).open("rb")

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        with answering():
            return str(self._label(label_id, label_tag).local())

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is known of a label, and what was decided about it."""
        with answering():
            label = self._label(label_id, label_tag)
            found = {known.entry.label: known for known in self.source.history(label_id.partition("@")[0])}
            told = {"id": label.id, "tag": label.tag, "version": label.version, "file": label.path.name}
            return {**told, **(_told(found[label.id]) if label.id in found else {})}

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store a label map that lies in a file; `label_info` holds what `Told` does, and a viewer's `label_info`."""
        with answering():
            segments = [
                Segment(str(segment["name"]), int(segment.get("idx") or number))
                for number, segment in enumerate(label_info.get("label_info") or [], start=1)
            ]
            sent = Sent(
                image_id,
                read_label(Path(label_filename)),
                Told.model_validate(label_info),
                label_tag or FINAL,
                segments,
                bool(label_info.get("nothing_there")),
            )
            entry = save(self.source, self.spec, sent)
            return f"{entry.case}@{entry.label}"

    def status(self) -> dict[str, Any]:
        cases = self._cases()
        tags: dict[str, int] = {}
        for case in cases:
            for tag in {label.tag for label in case.labels}:
                tags[tag] = tags.get(tag, 0) + 1
        return {
            "total": len(cases),
            "completed": sum(case.label is not None for case in cases),
            "label_tags": tags,
            "incomplete": sum(bool(case.missing(self.spec.modality_names)) for case in cases),
        }

    def json(self, start: int = 0, count: int | None = None, sees: Sees = as_it_is) -> dict[str, Any]:
        """Cases with their labels, as 3D Slicer's reviewer reads them; a page of them, if `count` is given.

        Args:
            sees: makes of a case and its history what the one who asks may see of it.
        """
        with answering():
            cases, histories = self.source.cases(), self.source.histories()
        stop = len(cases) if count is None else start + count
        objects = {
            case.id: {
                "image": {"ext": ".nii.gz", "info": self._info(case, self._reference(case))},
                "labels": _labels(case, histories.get(case.id, [])),
            }
            for case in (sees(case, histories.get(case.id, [])) for case in cases[start:stop])
        }
        return {"name": self.name(), "description": self.description(), "total": len(cases), "objects": objects}

    def _reference(self, case: Case) -> str:
        return next((name for name in self.spec.preference if name in case.images), "")

    def refresh(self) -> None:
        """Nothing to do: the store is read afresh at every call."""

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        self._refuse("one file does not say which modality of which case it is; put it into the studies folder")

    def remove_image(self, image_id: str) -> None:
        self._refuse(KEPT)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        self._refuse(KEPT)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        self._refuse(KEPT)

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        self._refuse("archives of several images a case are not offered; copy the studies folder")

    @staticmethod
    def _refuse(why: str) -> NoReturn:
        raise HTTPException(status_code=405, detail=f"Not done: {why}.")


def _labels(case: Case, recorded: Sequence[Recorded]) -> dict[str, Any]:
    """The newest label of each tag, of a person's the one that counts."""
    known = {found.entry.label: found for found in recorded}
    newest = {label.tag: label for label in case.labels} | ({FINAL: case.label} if case.label else {})
    return {
        tag: {"ext": ".nii.gz", "info": {"id": label.id, **(_told(known[label.id]) if label.id in known else {})}}
        for tag, label in newest.items()
    }


# as 3D Slicer's reviewer calls what was decided
REVIEWS = {State.REVIEWED: "approved", State.REJECTED: "flagged"}


def _told(found: Recorded) -> dict[str, Any]:
    entry, last = found.entry, found.decisions[-1] if found.decisions else None
    told = entry.model_dump(mode="json", exclude={"case", "label", "tag", "version"})
    review = {
        "status": REVIEWS.get(found.state, ""),
        "approvedBy": last.by if last else "",
        "comment": last.comment if last else "",
        "editTime": int(last.at.timestamp()) if last else 0,
        "level": "",
    }
    seconds = int(entry.saved.timestamp())
    return {**told, "state": found.state.value, "client_id": entry.author, "ts": seconds, "segmentationMeta": review}


def _as_file(ref: FileRef) -> Path:
    """A 3D file for clients: the file itself, or a channel of a 4D file, cut out once a version of the file."""
    path = ref.local()
    if not path.is_file():
        raise ImageError(f"{path}: expected an image, got none: a link to a file that is gone?")
    if ref.channel is None:
        return path
    key = f"{ref.path.resolve()}:{ref.channel}:{ref.path.stat().st_mtime_ns}"
    name = f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.nii.gz"
    target = private_folder("channels") / name
    if not target.is_file():
        write_image(target, read_image(ref))
    return target
