"""A label is saved whatever its images' headers hold."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite

from maml_app.cases.spec import TaskSpec
from maml_app.imaging.dicom import stack
from maml_app.imaging.lenient import lenient
from maml_app.imaging.seg import Provenance, read_seg, seg_info, write_seg
from maml_app.imaging.volume import Array
from tests.imaging.objects import enhanced, images

Change = Callable[[Dataset], None]


def saved(series: list[Dataset], spec: TaskSpec, **more: str) -> tuple[Dataset, Array]:
    """The SEG of a label on a series after a way through a file, and the label."""
    order = stack(series)
    label = np.zeros(order.grid.shape, np.uint8)
    label[2:4, 1:5, 1:3], label[6, 3, 3] = 1, 2
    seg = write_seg(label, order, series, spec, Provenance("MANUAL", 1, **more))  # type: ignore[arg-type]
    buffer = io.BytesIO()
    seg.save_as(buffer, write_like_original=False)
    buffer.seek(0)
    return pydicom.dcmread(buffer), label


def put(keyword: str, value: object) -> Change:
    def change(image: Dataset) -> None:
        with lenient():
            setattr(image, keyword, value)

    return change


def lose(keyword: str) -> Change:
    return lambda image: delattr(image, keyword)


SLOPPY: list[tuple[str, Change, str, object]] = [
    ("dotted birth date", put("PatientBirthDate", "1950.01.02"), "PatientBirthDate", "19500102"),
    ("birth date with slashes", put("PatientBirthDate", "02/01/1950"), "PatientBirthDate", ""),
    ("birth date that cannot be", put("PatientBirthDate", "19501399"), "PatientBirthDate", ""),
    ("no birth date", lose("PatientBirthDate"), "PatientBirthDate", ""),
    ("a sex of its own", put("PatientSex", "female"), "PatientSex", ""),
    ("a sex in small letters", put("PatientSex", "f"), "PatientSex", "F"),
    ("no sex", lose("PatientSex"), "PatientSex", ""),
    ("long patient id", put("PatientID", "x" * 80), "PatientID", "x" * 64),
    ("no patient id", lose("PatientID"), "PatientID", ""),
    ("empty patient name", put("PatientName", ""), "PatientName", ""),
    ("no patient name", lose("PatientName"), "PatientName", ""),
    ("long patient name", put("PatientName", "y" * 99), "PatientName", "y" * 64),
    ("study id", put("StudyID", "A very long study identifier"), "StudyID", "A very long stud"),
    ("no study id", lose("StudyID"), "StudyID", ""),
    ("accession number", put("AccessionNumber", "0123456789ABCDEFGH"), "AccessionNumber", "0123456789ABCDEF"),
    ("study time with colons", put("StudyTime", "10:20:30"), "StudyTime", "102030"),
    ("study time that cannot be", put("StudyTime", "27"), "StudyTime", ""),
    ("no study time", lose("StudyTime"), "StudyTime", ""),
    ("empty study date", put("StudyDate", ""), "StudyDate", ""),
    ("long referrer", put("ReferringPhysicianName", "z" * 80), "ReferringPhysicianName", "z" * 64),
    ("no referrer", lose("ReferringPhysicianName"), "ReferringPhysicianName", ""),
    ("no position reference", lose("PositionReferenceIndicator"), "PositionReferenceIndicator", ""),
    ("empty slice thickness", put("SliceThickness", None), "SOPClassUID", "1.2.840.10008.5.1.4.1.1.66.4"),
    ("no slice thickness", lose("SliceThickness"), "SOPClassUID", "1.2.840.10008.5.1.4.1.1.66.4"),
    ("slice thickness of zero", put("SliceThickness", "0"), "SOPClassUID", "1.2.840.10008.5.1.4.1.1.66.4"),
    ("lossy without a ratio", put("LossyImageCompression", "01"), "SOPClassUID", "1.2.840.10008.5.1.4.1.1.66.4"),
    ("tabs in an id", put("PatientID", "a\tb"), "PatientID", "a b"),
]


@pytest.mark.parametrize("case", SLOPPY, ids=[one[0] for one in SLOPPY])
def test_a_label_is_saved_whatever_the_headers_hold(
    spec: TaskSpec, tmp_path: Path, case: tuple[str, Change, str, object]
) -> None:
    _, change, keyword, expected = case
    series = images(spec)
    for image in series:
        change(image)
    seg, label = saved(series, spec)
    np.testing.assert_array_equal(read_seg(seg, stack(series), spec, str(seg.FrameOfReferenceUID)), label)
    assert str(seg[keyword].value or "") == expected
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SliceThickness) == pytest.approx(3.17, abs=0.01)
    file = tmp_path / "seg.dcm"
    seg.save_as(file, write_like_original=False)
    found = subprocess.run(["dciodvfy", "-new", file], capture_output=True, text=True, check=False)
    assert not [line for line in (found.stdout + found.stderr).splitlines() if line.startswith("Error")]


NAMES = [
    ("ISO_IR 144", "Тестов^Пробник"),
    ("ISO_IR 192", "Müller^Jürgen"),
    ("ISO_IR 100", "Müller^Jürgen"),
    ("ISO_IR 126", "Παπαδόπουλος^Γιάννης"),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("GB18030", "Wang^XiaoDong=王^小东"),
]


@pytest.mark.parametrize(("charset", "name"), NAMES)
def test_names_are_repeated_as_they_read(spec: TaskSpec, charset: object, name: str) -> None:
    series: list[Dataset] = []
    for image in images(spec):
        image.SpecificCharacterSet, image.PatientName = charset, name
        buffer = io.BytesIO()
        dcmwrite(buffer, image, write_like_original=False)
        buffer.seek(0)
        series.append(pydicom.dcmread(buffer))
    seg, _ = saved(series, spec, author="Größe^Zoë")
    assert (str(seg.PatientName), str(seg.ContentCreatorName)) == (name, "Größe^Zoë")
    assert seg.SpecificCharacterSet == "ISO_IR 192"


def test_tasks_whose_names_begin_alike_do_not_take_each_others_labels(spec: TaskSpec) -> None:
    names = ("liver_tumours_multi_centre", "liver_tumours_multi_phase")
    for name in names:
        seg, _ = saved(images(spec), spec.model_copy(update={"name": name}))
        assert seg.ContentLabel == "LIVER_TUMOURS_MU"
        assert seg_info(seg).task == name


def test_a_label_on_a_part_of_a_multi_frame_image_comes_back(spec: TaskSpec) -> None:
    """Frames of two echoes in one image: the label lies on the planes of the one, in whatever order they are stored."""
    image = enhanced(images(spec, name="mr_t1"))
    del image.EchoTime
    frames = [(echo, one) for one in image.PerFrameFunctionalGroupsSequence for echo in (12.0, 90.0)]
    image.PerFrameFunctionalGroupsSequence = []
    for echo, one in frames:
        group, timing = Dataset(), Dataset()
        group.PlanePositionSequence, timing.EffectiveEchoTime = one.PlanePositionSequence, echo
        group.MREchoSequence = [timing]
        image.PerFrameFunctionalGroupsSequence.append(group)
    image.NumberOfFrames, image.PixelData = 10, bytes(2 * len(image.PixelData))
    order = stack([image], "EchoTime:90")
    label = np.zeros(order.grid.shape, np.uint8)
    label[2:4, 1:5, 0], label[6, 3, 3], label[1, 1, 4] = 1, 2, 2
    seg = write_seg(label, order, [image], spec, Provenance("MANUAL", 1))
    np.testing.assert_array_equal(read_seg(seg, order, spec, str(image.FrameOfReferenceUID)), label)
