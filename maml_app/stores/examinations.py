"""What an archive holds: studies by frame of reference, each series with its choice, and the SEGs drawn on them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from maml_app.cases.assigning import assign
from maml_app.cases.series import DESCRIPTION, DICOM_MODALITY, Choice, Series, shared_by
from maml_app.cases.spec import TaskSpec
from maml_app.errors import ObjectError
from maml_app.imaging.seg import SegInfo, seg_info
from maml_app.imaging.survey import Surveyed, survey
from maml_app.stores.cache import Cache
from maml_app.stores.pacs import Pacs

HEADERS = "headers-4"  # the folder in the cache; another name for each way of writing them


@dataclass(frozen=True)
class Examination:
    """One study's series in one frame of reference, with the choice on each, and the SEGs drawn on them.

    `hints` are about the study: series that could not be read, or that lie in another frame of reference.
    """

    id: str
    study: str
    frame: str
    patient: str
    choices: tuple[Choice, ...]
    segs: tuple[SegInfo, ...] = field(default=())
    hints: tuple[str, ...] = field(default=())

    @property
    def series(self) -> dict[str, Series]:
        """Modality -> its series."""
        return {choice.modality: choice.series for choice in self.choices if choice.modality}

    @property
    def left_out(self) -> dict[str, str]:
        """Modality -> why the series that would be it cannot be used; where there is no other for it."""
        return {modality: "; ".join(reasons) for modality, reasons in self._refused() if modality not in self.series}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should look at, though the case can be used: ties, images left out, series replaced."""
        notes = [choice.note for choice in self.choices if choice.note]
        for name, series in self.series.items():
            notes += [f"{name} is one of several volumes of series {series.uid}: {series.part}"] if series.part else []
            notes += [f"{name}, {series.name}: {note}" for note in series.notes]
        for modality, reasons in self._refused():
            if modality in self.series:
                notes.append(f"{modality} is {self.series[modality].name}: {'; '.join(reasons)}")
        return (*notes, *self.hints)

    def _refused(self) -> list[tuple[str, list[str]]]:
        found: dict[str, list[str]] = {}
        for choice in self.choices:
            if choice.meant:
                said = found.setdefault(choice.meant, [])
                reason = "; ".join(choice.reasons)
                if not any(reason in other for other in said):  # said of each of a series' volumes alike
                    said.append(f"series {choice.series.uid} ({choice.series.name}): {reason}")
        return list(found.items())


@dataclass(frozen=True)
class _Listed:
    """A series as it was listed, and what its headers tell; `failed` says why they could not be had."""

    uid: str
    study: str
    modality: str
    number: int
    description: str
    volumes: tuple[Surveyed, ...] = ()
    segs: tuple[SegInfo, ...] = ()
    failed: str = ""
    patient: str = ""
    content: str = ""

    def series(self) -> list[Series]:
        return [
            Series(
                self.uid,
                self.study,
                volume.frame,
                self.modality,
                volume.images,
                self.number,
                volume.attributes,
                volume.part,
                volume.problem,
                volume.notes,
                self.content,
            )
            for volume in self.volumes
        ]

    def unread(self, frame: str) -> Series:
        """The series by its listing alone, in a frame of reference that it may lie in."""
        attributes = {DESCRIPTION: self.description}
        problem = f"could not be read: {self.failed}"
        return Series(self.uid, self.study, frame, self.modality, 0, self.number, attributes, problem=problem)

    @property
    def lost(self) -> str:
        return f"{self.name} could not be read: {self.failed}"

    @property
    def name(self) -> str:
        return f"series {self.uid} ({self.modality} #{self.number} {self.description or '(no description)'})"


def case_id(study: str, frame: str) -> str:
    """StudyInstanceUID and a mark of the frame of reference: the same whatever else arrives in the study."""
    return f"{study}-{hashlib.sha256(frame.encode()).hexdigest()[:6]}"


def list_examinations(
    pacs: Pacs, cache: Cache, spec: TaskSpec, forced: Mapping[str, str | None], study: str = ""
) -> list[Examination]:
    """Every study and frame of reference that holds CT, PET or MR series, sorted by id; of one study if named.

    The list is asked for afresh; a series' headers are read once, and again when its row in the list changes. A series
    whose headers cannot be read costs only itself: it is a hint of its study's examinations.

    Raises:
        ArchiveError: the archive does not answer as it should.
    """
    rows = pacs.series(study)
    wanted = [row for row in rows if str(row.get("Modality", "") or "") in (*DICOM_MODALITY.values(), "SEG", "")]
    with ThreadPoolExecutor(8) as pool:
        listed = list(pool.map(partial(_listed, pacs, cache), wanted))
    result = []
    for one_study in dict.fromkeys(row.study for row in listed):
        members = [row for row in listed if row.study == one_study]
        patient = _patient(pacs, one_study, rows, members)
        result += _of_study(one_study, patient, members, spec, forced)
    return sorted(result, key=lambda examination: examination.id)


def _of_study(
    study: str, patient: str, listed: Sequence[_Listed], spec: TaskSpec, forced: Mapping[str, str | None]
) -> list[Examination]:
    every = sorted((series for row in listed for series in row.series()), key=lambda row: (row.number, row.key))
    failed = [row for row in listed if row.failed]
    shared = shared_by(every, spec.modalities)
    frames = dict.fromkeys(series.frame for series in every)
    result = []
    for frame in frames:
        members = [series for series in every if series.frame == frame]
        uids = {series.uid for series in members}
        segs = [info for row in listed for info in row.segs if info.refers_to in uids and _lies_in(frame, info, every)]
        segs.sort(key=lambda info: (info.written, info.number, info.instance))
        # what could not be read is told with the modality that it would be, as far as its listing says
        choices = assign([*members, *(row.unread(frame) for row in failed)], spec.modalities, forced, shared)
        told = {choice.series.uid for choice in choices if choice.meant}
        hints = tuple(row.lost for row in failed if row.uid not in told)
        used = tuple(choice for choice in choices if choice.series.uid in uids | told)
        result.append(Examination(case_id(study, frame), study, frame, patient, used, tuple(segs), hints))
    result = [replace(found, hints=(*found.hints, *_astray(listed))) for found in result]
    if failed and not result:
        hints = tuple(row.lost for row in failed)
        result.append(Examination(case_id(study, ""), study, "", patient, (), (), hints))
    return [
        replace(examination, hints=(*examination.hints, *_elsewhere(examination, result, spec)))
        for examination in result
    ]


def _astray(listed: Sequence[_Listed]) -> list[str]:
    """That labels of ours are drawn on series which are not there any more."""
    here = {row.uid for row in listed}
    return [
        f"SEG {info.instance} (version {info.number}{', by ' + info.author if info.author else ''}) does not count: it "
        f"is drawn on series {info.refers_to}, which is not in its study any more"
        for row in listed
        for info in row.segs
        if info.ours and info.refers_to not in here
    ]


def _lies_in(frame: str, info: SegInfo, every: Sequence[Series]) -> bool:
    """Whether a SEG is of this frame of reference; it has to say so only where its series' images are in several."""
    frames = {series.frame for series in every if series.uid == info.refers_to}
    return info.frame == frame or info.frame not in frames


def _elsewhere(examination: Examination, study: Sequence[Examination], spec: TaskSpec) -> list[str]:
    """That modalities which an examination lacks lie in another frame of reference of its study."""
    lacks = [
        name for name in spec.modality_names if name not in examination.series and name not in examination.left_out
    ]
    return [
        f"{name} is missing here, and {other.series[name].name} of the same study lies in another frame of reference "
        f"({other.frame or 'none'}): they cannot be aligned"
        for other in study
        if other is not examination
        for name in lacks
        if name in other.series and examination.series
    ]


def _patient(pacs: Pacs, study: str, rows: Sequence[Dataset], listed: Sequence[_Listed]) -> str:
    """The PatientID of a study; without one the study stands for the patient, so that its cases stay together.

    That of the images goes before the list's, in which some archives garble all but Latin letters; but it may be of
    before a correction where the list does not tell of one.
    """
    of_images = {row.patient for row in listed} - {""}
    known = {_patient_id(row) for row in rows if str(row.StudyInstanceUID) == study} - {""}
    if known:
        return min(of_images or known)
    # a series' row need not have it, a study's must
    known = {_patient_id(row) for row in pacs.studies(study)} - {""}
    return min(known or of_images, default=study)


def _patient_id(said: Dataset) -> str:
    value = said.get("PatientID") or ""
    return ("\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)).strip()


def _listed(pacs: Pacs, cache: Cache, row: Dataset) -> _Listed:
    """What the headers of a listed series tell, from the cache where its row is the same, and tells how many."""
    study, uid = str(row.StudyInstanceUID), str(row.SeriesInstanceUID)
    count = _whole(row, "NumberOfSeriesRelatedInstances")
    listed = _Listed(
        uid,
        study,
        str(row.get("Modality", "") or ""),
        _whole(row, "SeriesNumber"),
        str(row.get("SeriesDescription", "") or ""),
    )
    row_says = f"{count} {listed.modality} {listed.number} {listed.description} {_patient_id(row)}"
    name = f"{HEADERS}/{uid}-{_hash(row_says)}.json"
    kept = cache.read_json(name) if count else None
    if isinstance(kept, dict):
        return _with(listed, kept)
    try:
        content = _read(pacs, listed, row_says)
    except ObjectError as error:
        return replace(listed, failed=str(error))
    if count:
        cache.write_json(name, content)
    return _with(listed, content)


def _with(listed: _Listed, content: Mapping[str, Any]) -> _Listed:
    return replace(
        listed,
        modality=content["modality"],
        patient=content["patient"],
        content=content["content"],
        volumes=tuple(Surveyed(**{**volume, "notes": tuple(volume["notes"])}) for volume in content["volumes"]),
        segs=tuple(SegInfo(**seg) for seg in content["segs"]),
    )


def _read(pacs: Pacs, listed: _Listed, row_says: str) -> dict[str, Any]:
    """Ask for the headers of a series; nothing of it is left where it went away."""
    headers = pacs.headers(listed.study, listed.uid)
    modality = listed.modality or next((str(header.get("Modality", "")) for header in headers), "")
    images = sorted(str(header.get("SOPInstanceUID", "")) for header in headers)
    content: dict[str, Any] = {
        "modality": modality,
        "patient": next(map(_patient_id, headers), ""),
        "content": _hash("\n".join([row_says, *images])),
        "volumes": [],
        "segs": [],
    }
    if modality == "SEG":
        content["segs"] = [asdict(seg_info(header)) for header in headers]
    elif headers and modality in DICOM_MODALITY.values():
        content["volumes"] = [asdict(volume) for volume in survey(headers)]
    return content


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _whole(row: Dataset, keyword: str) -> int:
    """A whole number of a row; 0 where it is absent or none. All attributes of a row but its UIDs may be."""
    try:
        return int(row.get(keyword) or 0)
    except (TypeError, ValueError):
        return 0
