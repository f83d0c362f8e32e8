"""Labels in an archive: SEG objects, each with its record in a private element, indexed by the ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from pydicom.dataset import Dataset

from maml_app.cases.case import FINAL, ORIGINAL, LabelRef
from maml_app.cases.history import Entry, Recorded, Told, now
from maml_app.cases.series import Series, rule_out
from maml_app.cases.spec import TaskSpec
from maml_app.errors import ImageError, LabelError
from maml_app.imaging.dicom import Stack, stack
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
        on: dict[str, list[Series]] = {}
        for choice in examination.choices:
            if not rule_out(choice.series):
                on.setdefault(choice.series.uid, []).append(choice.series)
        states = {label.entry.label: label.state for label in self.recorded(examination)}
        found: list[LabelRef] = []
        for name, info in self.segs(examination).items():
            if info.refers_to not in on:
                continue
            volumes = on[info.refers_to]
            # a series that has grown is another grid
            name_of_file = f"{info.instance}-{volumes[0].content}-{self.spec.signature()}.nii.gz"
            file = self.cache.folder / "labels" / name_of_file
            fetch = partial(self._fetch_label, f"labels/{file.name}", examination, info)
            problem = ""
            if all(series.problem for series in volumes):
                problem = f"it is drawn on series {info.refers_to}, which cannot be used: {volumes[0].problem}"
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
        """What the ledger knows of an examination's labels, once it is told of those that are new.

        The image of each is what its series is now: the archive may have been told otherwise since it was saved.
        """
        segs, decisions = self.segs(examination), self.decisions.of(examination.id)
        stamp = hashlib.sha256("\n".join([*sorted(segs), *map(str, decisions)]).encode()).hexdigest()[:16]
        known = self.ledger.stamp(examination.id)
        if (known is not None or segs or decisions) and known != stamp:
            entries: dict[str, Entry | None] = {label: _entry(examination, label, info) for label, info in segs.items()}
            self.ledger.write(examination.id, stamp, entries, decisions)
        return [
            replace(known, entry=_placed(examination, known.entry, segs[known.entry.label]))
            if known.entry.label in segs
            else known
            for known in self.ledger.history(examination.id)
        ]

    def _fetch_label(self, name: str, examination: Examination, info: SegInfo) -> None:
        def make(path: Path) -> None:
            seg = self.pacs.image(examination.study, info.series, info.instance)
            headers = self.pacs.headers(examination.study, info.refers_to)
            orders = drawn_on(examination, info, headers)
            for order in orders:
                try:
                    label = read_seg(seg, order, self.spec, examination.frame)
                except LabelError:
                    if order is orders[-1]:
                        raise
                    continue
                write_label(path, label, order.grid.affine)
                return

        self.cache.file(name, make)

    def add(self, examination: Examination, image: str, label: Volume, tag: str, told: Told) -> Entry:
        """Store a label map on an image of an examination; it is there when this returns.

        Raises:
            LabelError: the series is not what it was, or the SEG does not read back.
            ArchiveError: the archive does not take it.
        """
        series = examination.series.get(image) or next(
            (choice.series for choice in examination.choices if choice.series.key == image), None
        )
        if series is None:
            raise LabelError(f"case {examination.id}: expected one of its images to draw on, got {image!r}")
        headers = self.pacs.headers(examination.study, series.uid)
        order = stack(headers, series.part)
        if not order.grid.same_as(label.grid):
            raise LabelError(f"series {series.key} changed in the archive since it was opened; open it again")
        entry = self._entry(examination, series.key, label, tag, told)
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
        info = seg_info(seg)
        return _placed(
            examination, _entry(examination, f"{tag}-{entry.version:04d}-{_mark(info.instance)}", info), info
        )

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


def drawn_on(examination: Examination, info: SegInfo, headers: Sequence[Dataset]) -> list[Stack]:
    """The volumes that a SEG may be drawn on: of its series those with the image that it names, else all.

    Several volumes may lie in one multi-frame image. A broken one costs no label on another.

    Raises:
        ImageError: none of them can be used.
    """
    found: list[Stack] = []
    failed = ImageError(f"series {info.refers_to} changed in the archive since the label was drawn")
    for choice in examination.choices:
        if choice.series.uid == info.refers_to:
            try:
                found.append(stack(headers, choice.series.part))
            except ImageError as error:
                failed = error
    if not found:
        raise failed
    return [order for order in found if info.image in order.instances] or found


def _tag(info: SegInfo) -> str:
    return ORIGINAL if info.drawn == "AUTOMATIC" else FINAL


def _mark(instance: str) -> str:
    return hashlib.sha256(str(instance).encode()).hexdigest()[:6]


def _placed(examination: Examination, entry: Entry, info: SegInfo) -> Entry:
    """A label's entry with what its series is taken for now, else the series, as its image."""
    volumes = {
        choice.series.key: choice.modality or choice.series.key
        for choice in examination.choices
        if choice.series.uid == info.refers_to
    }
    image = volumes.get(entry.image) or (entry.image if entry.image in volumes.values() else "")
    # of a series that holds several volumes, the one that is a modality
    image = image or next((name for name in volumes.values() if name in examination.series), "")
    return entry.model_copy(update={"image": image or next(iter(volumes), info.refers_to)})


def _entry(examination: Examination, label: str, info: SegInfo) -> Entry:
    """A label's record, from its private element, else what any SEG says of itself."""
    place = {"case": examination.id, "label": label, "version": info.number, "tag": _tag(info)}
    try:
        return Entry.model_validate_json(info.record).model_copy(update=place)
    except ValidationError:
        pass
    try:
        saved = datetime.strptime(info.written[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        saved = datetime.fromtimestamp(0, UTC)
    return Entry.model_validate(
        {**place, "image": info.refers_to, "author": info.author, "drawn": info.drawn, "saved": saved}
    )
