"""What an archive holds: studies by frame of reference, each series with its verdict, and the SEGs drawn on them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from pydicom.dataset import Dataset

from maml_app.cases.series import DICOM_MODALITY, Series, Verdict, assign
from maml_app.cases.spec import TaskSpec
from maml_app.imaging.seg import SegInfo, seg_info
from maml_app.stores.cache import Cache
from maml_app.stores.pacs import Pacs

LONGEST = 256  # characters of an attribute that are kept for the rules


@dataclass(frozen=True)
class Examination:
    """One study's series in one frame of reference, with the verdict on each, and the SEGs drawn on them."""

    id: str
    study: str
    frame: str
    patient: str
    verdicts: tuple[Verdict, ...]
    segs: tuple[SegInfo, ...] = field(default=())

    @property
    def series(self) -> dict[str, Series]:
        """Modality -> its series."""
        return {verdict.modality: verdict.series for verdict in self.verdicts if verdict.modality}


def case_id(study: str, frame: str) -> str:
    """StudyInstanceUID and a mark of the frame of reference: the same whatever else arrives in the study."""
    return f"{study}-{hashlib.sha256(frame.encode()).hexdigest()[:6]}"


def list_examinations(
    pacs: Pacs, cache: Cache, spec: TaskSpec, forced: Mapping[str, str | None], study: str = ""
) -> list[Examination]:
    """Every study and frame of reference that holds CT, PET or MR series, sorted by id; of one study if named.

    The list is asked for afresh; a series' attributes are read once, and again when its number of images changes.

    Raises:
        ArchiveError: the archive does not answer as it should.
    """
    rows = pacs.series(study)
    wanted = [row for row in rows if str(row.get("Modality", "")) in (*DICOM_MODALITY.values(), "SEG")]
    with ThreadPoolExecutor(8) as pool:
        headers = list(pool.map(partial(_header, pacs, cache), wanted))
    series: dict[tuple[str, str], list[Series]] = {}
    segs: dict[str, list[SegInfo]] = {}
    patients: dict[str, str] = {}
    for row, header in zip(wanted, headers, strict=True):
        one_study = str(row.StudyInstanceUID)
        patients[one_study] = str(row.get("PatientID", "") or "")
        if header is None:
            continue
        if str(row.Modality) == "SEG":
            segs.setdefault(one_study, []).extend(SegInfo(**info) for info in header["segs"])
            continue
        found = Series(
            uid=str(row.SeriesInstanceUID),
            study=one_study,
            frame=header["frame"],
            modality=str(row.Modality),
            images=_count(row),
            number=int(row.get("SeriesNumber") or 0),
            attributes=header["attributes"],
        )
        series.setdefault((one_study, found.frame), []).append(found)
    result = []
    for (one_study, frame), members in series.items():
        members.sort(key=lambda one: (one.number, one.uid))
        uids = {one.uid for one in members}
        drawn = sorted(
            (info for info in segs.get(one_study, []) if info.refers_to in uids),
            key=lambda info: (info.written, info.number, info.instance),
        )
        verdicts = tuple(assign(members, spec.modalities, forced))
        result.append(
            Examination(case_id(one_study, frame), one_study, frame, patients[one_study], verdicts, tuple(drawn))
        )
    return sorted(result, key=lambda one: one.id)


def _header(pacs: Pacs, cache: Cache, row: Dataset) -> dict[str, Any] | None:
    """The attributes of a series' first image, or what its SEGs say of themselves; None if it went away."""
    study, series, count = str(row.StudyInstanceUID), str(row.SeriesInstanceUID), _count(row)
    name = f"headers/{series}-{count}.json"
    kept = cache.read_json(name)
    if isinstance(kept, dict):
        return kept
    instances = pacs.instances(study, series)
    if not instances:
        return None
    content: dict[str, Any]
    if str(row.Modality) == "SEG":
        found = [pacs.header(study, series, instance) for instance in instances]
        content = {"segs": [asdict(seg_info(one)) for one in found]}
    else:
        header = pacs.header(study, series, min(instances))
        content = {"frame": str(header.get("FrameOfReferenceUID", "")), "attributes": _plain(header)}
    cache.write_json(name, content)
    return content


def _count(row: Dataset) -> int:
    return int(row.get("NumberOfSeriesRelatedInstances") or 0)


def _plain(header: Dataset) -> dict[str, str]:
    """Attributes as text, for the rules; none of the patient's."""
    result = {}
    for element in header:
        if element.tag.group in (0x0010, 0x7FE0) or element.tag.is_private or element.VR == "SQ" or not element.keyword:
            continue
        value = element.value
        text = (
            "\\".join(str(one) for one in value)
            if isinstance(value, Sequence) and not isinstance(value, str)
            else value
        )
        if text not in (None, "") and len(str(text)) <= LONGEST:
            result[element.keyword] = str(text)
    return result
