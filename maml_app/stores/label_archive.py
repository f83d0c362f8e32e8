"""Labels in an archive: SEG objects, each with its record in a private element, indexed by the ledger."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from maml_app.cases.case import FINAL, ORIGINAL, LabelRef
from maml_app.cases.history import Entry, Recorded, Told, now
from maml_app.cases.series import rule_out
from maml_app.cases.spec import TaskSpec
from maml_app.errors import LabelError
from maml_app.imaging.dicom import stack
from maml_app.imaging.files import write_label
from maml_app.imaging.labels import volumes_ml
from maml_app.imaging.seg import Drawn, Provenance, SegInfo, read_seg, seg_info, write_seg
from maml_app.imaging.volume import Volume
from maml_app.stores.cache import Cache
from maml_app.stores.decisions import Decisions
from maml_app.stores.examinations import Examination
from maml_app.stores.ledger import LEDGER, Ledger
from maml_app.stores.pacs import Pacs


class LabelArchive:
    """The labels of an archive's examinations. What is decided about them is kept on this machine.

    Args:
        foreign: whether SEGs by other software count as labels, if all their segments are the task's and a person
            drew or changed them.
    """

    def __init__(self, pacs: Pacs, spec: TaskSpec, cache: Cache, foreign: bool) -> None:
        self.pacs = pacs
        self.spec = spec
        self.cache = cache
        self.foreign = foreign
        self.ledger = Ledger(cache.folder / LEDGER)
        self.decisions = Decisions(cache.folder / "decisions")

    def refs(self, examination: Examination) -> tuple[LabelRef, ...]:
        """Ours by what they say of themselves; others' only if told so. In the order they were written."""
        on = {choice.series.uid: choice.series.problem for choice in examination.choices if not rule_out(choice.series)}
        states = {label.entry.label: label.state for label in self.recorded(examination)}
        found: list[LabelRef] = []
        for name, info in self.segs(examination).items():
            if info.refers_to not in on:
                continue
            file = self.cache.folder / f"labels/{info.instance}-{self.spec.signature()}.nii.gz"
            fetch = partial(self._fetch_label, f"labels/{file.name}", examination, info)
            broken = on[info.refers_to]
            problem = f"it is drawn on series {info.refers_to}, which cannot be used: {broken}" if broken else ""
            mark = _mark(info.instance)
            found.append(LabelRef(file, info.number, _tag(info), fetch, problem, mark=mark, state=states[name]))
        return tuple(found)

    def segs(self, examination: Examination) -> dict[str, SegInfo]:
        """The SEGs of an examination that are labels, by the label's id."""
        return {
            f"{_tag(info)}-{info.number:04d}-{_mark(info.instance)}": info
            for info in examination.segs
            if (info.task == self.spec.name if info.ours else self.foreign)
        }

    def recorded(self, examination: Examination) -> list[Recorded]:
        """What the ledger knows of an examination's labels, once it is told of those that are new."""
        segs, decisions = self.segs(examination), self.decisions.of(examination.id)
        stamp = hashlib.sha256("\n".join([*sorted(segs), *map(str, decisions)]).encode()).hexdigest()[:16]
        known = self.ledger.stamp(examination.id)
        if (known is not None or segs or decisions) and known != stamp:
            entries: dict[str, Entry | None] = {label: _entry(examination, label, info) for label, info in segs.items()}
            self.ledger.write(examination.id, stamp, entries, decisions)
        return self.ledger.history(examination.id)

    def _fetch_label(self, name: str, examination: Examination, info: SegInfo) -> None:
        def make(path: Path) -> None:
            seg = self.pacs.image(examination.study, info.series, info.instance)
            headers = self.pacs.headers(examination.study, info.refers_to)
            parts = [choice.series.part for choice in examination.choices if choice.series.uid == info.refers_to]
            orders = [stack(headers, part) for part in parts]
            order = next((order for order in orders if info.image in order.instances), orders[0])
            label = read_seg(seg, order, self.spec, examination.frame)
            write_label(path, label, order.grid.affine)

        self.cache.file(name, make)

    def add(self, examination: Examination, image: str, label: Volume, tag: str, told: Told) -> Entry:
        """Store a label map on an image of an examination; it is there when this returns.

        Raises:
            LabelError: the series is not what it was, or the SEG does not read back.
            ArchiveError: the archive does not take it.
        """
        series = examination.series.get(image) or next(
            choice.series for choice in examination.choices if choice.series.key == image
        )
        headers = self.pacs.headers(examination.study, series.uid)
        order = stack(headers, series.part)
        if not order.grid.same_as(label.grid):
            raise LabelError(f"series {series.key} changed in the archive since it was opened; open it again")
        entry = self._entry(examination, image, label, tag, told)
        drawn: Drawn = "AUTOMATIC" if tag == ORIGINAL else "MANUAL" if told.drawn == "MANUAL" else "SEMIAUTOMATIC"
        provenance = Provenance(
            drawn,
            entry.version,
            told.proposal.model,
            author=told.author,
            written=entry.saved,
            record=entry.model_dump_json(),
        )
        seg = write_seg(label.voxels, order, headers, self.spec, provenance)
        if not np.array_equal(read_seg(seg, order, self.spec, examination.frame), label.voxels):
            raise LabelError(f"case {examination.id}: the SEG does not read back as the label sent; nothing was stored")
        self.pacs.store(seg)
        return _entry(examination, f"{tag}-{entry.version:04d}-{_mark(seg.SOPInstanceUID)}", seg_info(seg))

    def _entry(self, examination: Examination, image: str, label: Volume, tag: str, told: Told) -> Entry:
        """What is known of a label before it is stored; its id is made of the UID that it gets."""
        earlier = [found.entry for found in self.recorded(examination)]
        return Entry(
            **told.model_dump(),
            case=examination.id,
            label="",
            version=max((entry.version for entry in earlier), default=0) + 1,
            tag=tag,
            image=image,
            content=label.content,
            # a clock that was set back must not make it older than those before it
            saved=max([now(), *(entry.saved + timedelta(milliseconds=1) for entry in earlier)]),
            volume_ml=volumes_ml(label, self.spec),
        )


def _tag(info: SegInfo) -> str:
    return ORIGINAL if info.drawn == "AUTOMATIC" else FINAL


def _mark(instance: str) -> str:
    return hashlib.sha256(str(instance).encode()).hexdigest()[:6]


def _entry(examination: Examination, label: str, info: SegInfo) -> Entry:
    """A label's record, from its private element, else what any SEG says of itself."""
    place = {"case": examination.id, "label": label, "version": info.number, "tag": _tag(info)}
    try:
        return Entry.model_validate_json(info.record).model_copy(update=place)
    except ValidationError:
        pass
    image = next((name for name, series in examination.series.items() if series.uid == info.refers_to), info.refers_to)
    try:
        saved = datetime.strptime(info.written[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        saved = datetime.fromtimestamp(0, UTC)
    return Entry.model_validate({**place, "image": image, "author": info.author, "drawn": info.drawn, "saved": saved})
