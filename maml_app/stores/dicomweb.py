"""Cases in a DICOMweb archive: series of one study and one frame of reference; labels are SEG objects in the archive.

Lists are asked for afresh at every call; what is downloaded is kept in the cache. Nothing in the archive is ever
changed or deleted: a label is stored as a new SEG series.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from maml_app.cases.case import FINAL, ORIGINAL, Case, FileRef, check_id
from maml_app.cases.history import Decision, Entry, Recorded, Told
from maml_app.cases.series import Choice, Series, rule_out
from maml_app.cases.source import LabelMap, Unused
from maml_app.cases.spec import TaskSpec
from maml_app.errors import ArchiveError, CaseError, ImageError, LabelError, TaskSpecError
from maml_app.imaging.dicom import read_series
from maml_app.imaging.files import write_image
from maml_app.imaging.volume import Volume
from maml_app.stores.cache import Cache
from maml_app.stores.examinations import Examination, list_examinations
from maml_app.stores.identity import archive_identity
from maml_app.stores.label_archive import LabelArchive
from maml_app.stores.label_folder import LOCK, hold
from maml_app.stores.ledger import LEDGER
from maml_app.stores.notes import merged
from maml_app.stores.pacs import Pacs

ASSIGNED = "assign.json"  # in the cache: series set by hand
READING = "r3"  # in the names of kept images: another for each way of reading them
UID = re.compile(r"[0-9]+(\.[0-9]+)*")


class DicomWebStore:
    """The CaseSource of a DICOMweb archive.

    Args:
        forced: SeriesInstanceUID -> modality, or None for "do not use"; goes before the task's rules.
        foreign: whether SEGs by other software count as labels, if all their segments are the task's and a person
            drew or changed them.
    """

    def __init__(
        self,
        pacs: Pacs,
        spec: TaskSpec,
        cache: Cache,
        forced: Mapping[str, str | None] | None = None,
        foreign: bool = False,
    ) -> None:
        self.pacs = pacs
        self.spec = spec
        self.cache = cache
        self.forced = dict(forced or {})
        self.labels = LabelArchive(pacs, spec, cache, foreign)

    # what there is

    def examinations(self, study: str = "") -> list[Examination]:
        """Every study and frame of reference that holds CT, PET or MR series, sorted by id, as listed now."""
        return list_examinations(self.pacs, self.cache, self.spec, self.forced, study)

    def case_of(self, examination: Examination) -> Case:
        """An examination as a case; its images and labels are fetched when they are read."""

        def ref(series: Series) -> FileRef:
            part = f"-{hashlib.sha256(series.part.encode()).hexdigest()[:6]}" if series.part else ""
            name = f"images/{series.uid}-{series.content}{part}.{READING}.nii"
            return FileRef(self.cache.folder / name, fetch=partial(self._fetch_image, name, series))

        used = {series.key for series in examination.series.values()}
        order = [name for name in self.spec.modality_names if name in examination.series]
        case = Case(
            examination.id,
            {name: ref(examination.series[name]) for name in order},
            patient=examination.patient,
            left_out=examination.left_out,
            notes=examination.notes,
            study=examination.study,
            series={name: examination.series[name].uid for name in order},
            others={
                choice.series.key: ref(choice.series)
                for choice in examination.choices
                if choice.series.key not in used and not choice.series.problem and not rule_out(choice.series)
            },
        )
        return replace(case, labels=self.labels.refs(examination))

    def cases(self) -> list[Case]:
        return [self.case_of(examination) for examination in self.examinations() if examination.series]

    def unused(self) -> list[Unused]:
        """Studies that are no case because a series that would make them one cannot be used."""
        return [
            Unused(f"study {examination.study}", reason)
            for examination in self.examinations()
            if not examination.series
            for reason in (*examination.left_out.values(), *examination.hints)
        ]

    def identity(self, claim: bool = False) -> str:
        return archive_identity(self.pacs.url)

    def case(self, case_id: str) -> Case:
        return self.case_of(self._examination(case_id))

    def _examination(self, case_id: str) -> Examination:
        study = case_id.rpartition("-")[0] or case_id
        # no case id of ours: nothing to ask the archive for
        listed = self.examinations(study) if UID.fullmatch(study) else []
        found = [
            examination
            for examination in listed
            if examination.series and case_id in (examination.id, examination.study)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise CaseError(f"study {case_id} holds several cases, name one: {', '.join(case.id for case in found)}")
        raise CaseError(f"expected a case or series of {self.pacs.url}, got the unknown id {case_id!r}")

    def resolve(self, image_id: str) -> tuple[Case, str]:
        name, _, asked = image_id.partition("@")
        uid = name.partition("#")[0]
        rows = self.pacs.series(series=uid) if UID.fullmatch(uid) and not asked else []
        if not rows:
            case = self.case(name)
            asked = asked or case.frame_modality(self.spec.preference)
            if asked not in case.grids:
                raise CaseError(f"case {case.id}: expected one of its images {sorted(case.grids)}, got {asked!r}")
            return case, asked
        studies = sorted({str(row.StudyInstanceUID) for row in rows})
        if len(studies) > 1:
            raise CaseError(
                f"series {uid}: expected it in one study of {self.pacs.url}, got it in {' and '.join(studies)}; take "
                "the copy out of the archive, or give its images UIDs of their own"
            )
        why = "it is not CT, PET or MR"
        for examination in self.examinations(str(rows[0].StudyInstanceUID)):
            choices = [choice for choice in examination.choices if name in (choice.series.key, choice.series.uid)]
            if not choices:
                continue
            case = self.case_of(examination)
            keys = {series.key: modality for modality, series in examination.series.items()} | {
                key: key for key in case.others
            }
            shown = [choice.series.key for choice in choices if choice.series.key in keys]
            # of a series that holds several volumes, the one that is a modality
            shown = [key for key in shown if keys[key] in case.images] or shown
            if case.images and len(shown) == 1:
                return case, keys[shown[0]]
            why = f"it holds several volumes, name one: {', '.join(shown)}" if len(shown) > 1 else ""
            why = why or "; ".join(reason for choice in choices for reason in choice.reasons)
            if not case.images:
                why += f"; its study has no series that is one of {', '.join(self.spec.modality_names)}"
        raise CaseError(f"series {name} cannot be segmented: {why}")

    # what is in it

    def _fetch_image(self, name: str, series: Series) -> None:
        def make(path: Path) -> None:
            images = self.pacs.images(series.study, series.uid)
            arrived = {str(image.get("SOPInstanceUID")) for image in images}
            if len(arrived) < series.images:
                raise ArchiveError(
                    f"series {series.uid} ({series.name}): expected {series.images} images, got {len(arrived)}: it was "
                    "cut short, or is being changed; try again"
                )
            try:
                volume, order = read_series(images, series.part)
            except ImageError as error:
                raise ImageError(f"series {series.uid} ({series.name}): {error}") from None
            # the slices first: the image file says that both are there
            self.cache.write_json(name.replace(".nii", ".json"), {"slices": order.names})
            write_image(path, volume)

        self.cache.file(name, make)

    def slices(self, case: Case, asked: str) -> list[str]:
        """The slices along the third axis of an image of the case, as WADO-RS addresses them."""
        ref = case.grids[asked]
        ref.local()
        kept = self.cache.read_json(f"images/{ref.path.name}".replace(".nii", ".json"))
        return list(kept["slices"]) if isinstance(kept, dict) else []

    def choices(self, study: str) -> list[Choice]:
        return [choice for examination in self.examinations(study) for choice in examination.choices]

    def set_modality(self, series: str, modality: str) -> None:
        """Kept in the cache's assign.json; another series of its study that was set to this modality is free again."""
        if modality and modality not in self.spec.modality_names:
            raise TaskSpecError(f"expected a modality of {list(self.spec.modality_names)} or '', got {modality!r}")
        rows = self.pacs.series(series=series) if UID.fullmatch(series) else []
        if not rows:
            raise CaseError(f"expected a series of {self.pacs.url}, got the unknown one {series!r}")
        siblings = {series}
        for examination in self.examinations(str(rows[0].StudyInstanceUID)):
            uids = {choice.series.uid for choice in examination.choices}
            siblings |= uids if series in uids else set()
        kept = self.cache.read_json(ASSIGNED)
        forced = {**self.forced, **(kept if isinstance(kept, dict) else {})}
        # said of a volume of a series by `UID#part`, or of the whole
        about = {key: key.partition("#")[0] for key in forced}
        same = [key for key in forced if modality and forced[key] == modality and about[key] in siblings]
        same += [key for key in forced if about[key] == series]
        forced = {key: name for key, name in forced.items() if key not in same} | {series: modality or None}
        self.cache.write_json(ASSIGNED, forced)
        self.forced = forced

    # what is added

    def save_label(self, case: Case, image: str, label: LabelMap, tag: str, told: Told) -> Entry:
        """Store a label as a SEG in the archive, with its record in a private element."""
        if tag not in (FINAL, ORIGINAL):
            raise LabelError(f"expected a label tag of {FINAL!r} or {ORIGINAL!r} in a DICOM archive, got {tag!r}")
        examination = next(examination for examination in self.examinations(case.study) if examination.id == case.id)
        return self.labels.add(examination, image, Volume(label.voxels, label.affine), tag, told)

    def history(self, case_id: str) -> list[Recorded]:
        return self.labels.recorded(self._examination(case_id))

    def histories(self) -> dict[str, list[Recorded]]:
        here = {listed.id: self.labels.recorded(listed) for listed in self.examinations() if listed.series}
        return {case: found for case, found in {**self.labels.ledger.histories(), **here}.items() if found}

    def decide(self, decision: Decision) -> None:
        known = [label.entry.label for label in self.history(decision.case)]
        if decision.label not in known:
            raise CaseError(f"case {decision.case}: expected a label of {known}, got {decision.label!r}")
        self.labels.decisions.add(decision)

    def kept(self, work: Path) -> dict[str, Path]:
        """Labels are in the archive, and in its backup."""
        self.labels.ledger.copy(work / LEDGER)
        home = self.cache.folder
        places = {"decisions": home / "decisions", "notes": home / "notes", ASSIGNED: home / ASSIGNED}
        return {**places, LEDGER: work / LEDGER}

    @contextmanager
    def holding(self, case_id: str) -> Iterator[None]:
        with hold(self.labels.decisions.root / check_id(case_id) / LOCK):
            yield

    @property
    def state(self) -> Path:
        return self.cache.folder

    def info(self, case_id: str) -> dict[str, Any]:
        content = self.cache.read_json(f"notes/{case_id}.json")
        return content if isinstance(content, dict) else {}

    def notes(self) -> Mapping[str, Mapping[str, object]]:
        return {path.stem: self.info(path.stem) for path in (self.cache.folder / "notes").glob("*.json")}

    def update_info(self, case_id: str, info: dict[str, Any]) -> None:
        case_id = self.case(case_id).id
        with self.holding(case_id):
            self.cache.write_json(f"notes/{case_id}.json", merged(self.info(case_id), info))
