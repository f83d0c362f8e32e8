"""Cases in a DICOMweb archive: series of one study and one frame of reference; labels are SEG objects in the archive.

Lists are asked for afresh at every call; what is downloaded is kept in the cache. Nothing in the archive is ever
changed or deleted: a label is stored as a new SEG series.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maml_app.cases.case import FINAL, ORIGINAL, Case, FileRef, LabelRef
from maml_app.cases.series import Series, rule_out
from maml_app.cases.source import Unused
from maml_app.cases.spec import TaskSpec
from maml_app.errors import ArchiveError, CaseError, ImageError, LabelError
from maml_app.imaging.dicom import read_series, stack
from maml_app.imaging.files import write_image, write_label
from maml_app.imaging.seg import Drawn, Provenance, SegInfo, read_seg, write_seg
from maml_app.stores.cache import Cache
from maml_app.stores.examinations import Examination, list_examinations
from maml_app.stores.identity import archive_identity
from maml_app.stores.incoming import checked_label
from maml_app.stores.pacs import Pacs

READING = "r2"  # in the names of kept images: another for each way of reading them
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
        self.foreign = foreign

    # what there is

    def examinations(self, study: str = "") -> list[Examination]:
        """Every study and frame of reference that holds CT, PET or MR series, sorted by id, as listed now."""
        return list_examinations(self.pacs, self.cache, self.spec, self.forced, study)

    def case_of(self, one: Examination) -> Case:
        """An examination as a case; its images and labels are fetched when they are read."""

        def ref(series: Series) -> FileRef:
            part = f"-{hashlib.sha256(series.part.encode()).hexdigest()[:6]}" if series.part else ""
            name = f"images/{series.uid}-{series.images}{part}.{READING}.nii"
            return FileRef(self.cache.folder / name, fetch=partial(self._fetch_image, name, series))

        used = {series.key for series in one.series.values()}
        order = [name for name in self.spec.modality_names if name in one.series]
        case = Case(
            one.id,
            {name: ref(one.series[name]) for name in order},
            patient=one.patient,
            left_out=one.left_out,
            notes=one.notes,
            study=one.study,
            series={name: one.series[name].uid for name in order},
            others={
                choice.series.key: ref(choice.series)
                for choice in one.choices
                if choice.series.key not in used and not choice.series.problem and not rule_out(choice.series)
            },
        )
        return replace(case, labels=self._labels(one))

    def _labels(self, one: Examination) -> tuple[LabelRef, ...]:
        """Ours by what they say of themselves; others' only if told so. In the order they were written."""
        on = {choice.series.uid: choice.series.problem for choice in one.choices if not rule_out(choice.series)}
        found: list[LabelRef] = []
        for info in one.segs:
            if info.refers_to not in on or not (info.task == self.spec.name if info.ours else self.foreign):
                continue
            tag = ORIGINAL if info.drawn == "AUTOMATIC" else FINAL
            name = f"labels/{info.instance}-{self.spec.signature()}.nii.gz"
            mark = hashlib.sha256(info.instance.encode()).hexdigest()[:6]
            fetch = partial(self._fetch_label, name, one, info)
            broken = on[info.refers_to]
            problem = f"it is drawn on series {info.refers_to}, which cannot be used: {broken}" if broken else ""
            found.append(LabelRef(self.cache.folder / name, info.number, tag, fetch, problem, mark=mark))
        return tuple(found)

    def cases(self) -> list[Case]:
        return [self.case_of(one) for one in self.examinations() if one.series]

    def unused(self) -> list[Unused]:
        """Studies that are no case because a series that would make them one cannot be used."""
        return [
            Unused(f"study {one.study}", reason)
            for one in self.examinations()
            if not one.series
            for reason in (*one.left_out.values(), *one.hints)
        ]

    def identity(self, claim: bool = False) -> str:
        return archive_identity(self.pacs.url)

    def case(self, case_id: str) -> Case:
        study = case_id.rpartition("-")[0] or case_id
        # no case id of ours: nothing to ask the archive for
        listed = self.examinations(study) if UID.fullmatch(study) else []
        found = [self.case_of(one) for one in listed if one.series and case_id in (one.id, one.study)]
        if len(found) == 1:
            return found[0]
        if found:
            raise CaseError(f"study {case_id} holds several cases, name one: {', '.join(one.id for one in found)}")
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
        why = "it is not CT, PET or MR"
        for one in self.examinations(str(rows[0].StudyInstanceUID)):
            choices = [choice for choice in one.choices if name in (choice.series.key, choice.series.uid)]
            if not choices:
                continue
            case = self.case_of(one)
            keys = {series.key: modality for modality, series in one.series.items()} | {key: key for key in case.others}
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
            arrived = {str(one.get("SOPInstanceUID")) for one in images}
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

    def _fetch_label(self, name: str, one: Examination, info: SegInfo) -> None:
        def make(path: Path) -> None:
            seg = self.pacs.image(one.study, info.series, info.instance)
            headers = self.pacs.headers(one.study, info.refers_to)
            parts = [choice.series.part for choice in one.choices if choice.series.uid == info.refers_to]
            orders = [stack(headers, part) for part in parts]
            order = next((order for order in orders if info.image in order.instances), orders[0])
            label = read_seg(seg, order, self.spec, one.frame)
            write_label(path, label, order.grid.affine)

        self.cache.file(name, make)

    def slices(self, case: Case, asked: str) -> list[str]:
        """The slices along the third axis of an image of the case, as WADO-RS addresses them."""
        ref = case.grids[asked]
        ref.local()
        kept = self.cache.read_json(f"images/{ref.path.name}".replace(".nii", ".json"))
        return list(kept["slices"]) if isinstance(kept, dict) else []

    # what is added

    def save_label(self, image_id: str, file: Path, tag: str, info: dict[str, Any]) -> LabelRef:
        """Store a label as a SEG in the archive.

        `info` may hold `drawn` (SEMIAUTOMATIC unless MANUAL is said), `model_version` and `author`.
        """
        if tag not in (FINAL, ORIGINAL):
            raise LabelError(f"expected a label tag of {FINAL!r} or {ORIGINAL!r} in a DICOM archive, got {tag!r}")
        case, asked = self.resolve(image_id)
        label, on = checked_label(case, file, self.spec, info, asked)
        one = next(one for one in self.examinations(case.study) if one.id == case.id)
        series = one.series.get(on) or next(choice.series for choice in one.choices if choice.series.key == on)
        headers = self.pacs.headers(case.study, series.uid)
        order = stack(headers, series.part)
        if not order.grid.same_as(label.grid):
            raise LabelError(f"series {series.key} changed in the archive since it was opened; open it again")
        version = max((one.version for one in case.labels), default=0) + 1
        manual = str(info.get("drawn", "")).upper() == "MANUAL"
        drawn: Drawn = "AUTOMATIC" if tag == ORIGINAL else "MANUAL" if manual else "SEMIAUTOMATIC"
        algorithm = str(info.get("model_version") or (info.get("params") or {}).get("model_version") or "")
        provenance = Provenance(drawn, version, algorithm, author=str(info.get("author") or ""))
        seg = write_seg(label.voxels, order, headers, self.spec, provenance)
        if not np.array_equal(read_seg(seg, order, self.spec, one.frame), label.voxels):
            raise LabelError(f"case {case.id}: the SEG does not read back as the label sent; nothing was stored")
        self.pacs.store(seg)
        for stored in self.case(case.id).labels:
            if stored.path.name.startswith(f"{seg.SOPInstanceUID}-"):
                return stored
        raise ArchiveError(f"{self.pacs.url}: the SEG {seg.SOPInstanceUID} was stored, but is not listed")

    def info(self, case_id: str) -> dict[str, Any]:
        content = self.cache.read_json(f"notes/{case_id}.json")
        return content if isinstance(content, dict) else {}

    def update_info(self, case_id: str, info: dict[str, Any]) -> None:
        self.cache.write_json(f"notes/{self.case(case_id).id}.json", {**self.info(case_id), **info})
