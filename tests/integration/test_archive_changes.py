"""A real Orthanc whose studies change after a label was drawn: every label stays on the images it was drawn on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from maml_app.cases.case import Case
from maml_app.cases.history import Entry, Told
from maml_app.cases.spec import TaskSpec
from maml_app.errors import CaseError
from maml_app.imaging.files import read_grid, read_image
from maml_app.imaging.labels import read_case_label
from maml_app.imaging.volume import Array, Volume
from maml_app.labelling.saving import Sent, restore
from maml_app.labelling.saving import save as save_label
from maml_app.phantom.dicom import write_series
from maml_app.stores.dicomweb import DicomWebStore
from maml_app.stores.exports import export_objects
from tests.harness.orthanc import Orthanc
from tests.imaging.objects import OBLIQUE, again, modality, orthogonal, tell
from tests.integration.conftest import opened


def volume(shape: tuple[int, int, int] = (24, 20, 14), seed: int = 0) -> Volume:
    values = np.rint(np.random.default_rng(seed).uniform(0, 200, shape)).astype(np.float32)
    return Volume(values, orthogonal(OBLIQUE))


def drawn(shape: tuple[int, ...]) -> Array:
    label = np.zeros(shape, np.uint8)
    label[3:9, 2:5, 2:6] = label[9:11, 5:12, 3:4] = 1
    label[4:6, 3, 5:7] = 2
    return label


def stored(images: list[Dataset]) -> list[Dataset]:
    """Images that were copied, with their own UID in the file's header too."""
    for image in images:
        image.file_meta = copy.deepcopy(image.file_meta)
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    return images


def save(store: DicomWebStore, image: str, label: Array | None = None, **told: Any) -> Entry:
    case, asked = store.resolve(image)
    grid = read_grid(case.grids[asked])
    voxels = drawn(grid.shape) if label is None else label
    return save_label(store, store.spec, Sent(image, Volume(voxels, grid.affine), Told(**told)))


def label_of(case: Case, spec: TaskSpec) -> Array:
    return read_case_label(case, spec).voxels


def test_a_record_comes_back_whole_from_an_archive_that_cuts_it_at_backslashes(
    orthanc: Orthanc, spec: TaskSpec, tmp_path: Path
) -> None:
    study = write_series(volume(), modality(spec, "ct"), "record", 2, "ct")
    orthanc.add(study)
    told: dict[str, Any] = {"author": "CLINIC\\anna", "comment": 'said "tumour" in\nthe \\\\ conference'}
    entry = save(opened(orthanc.dicomweb, spec, tmp_path / "a"), str(study[0].StudyInstanceUID), **told)
    other = opened(orthanc.dicomweb, spec, tmp_path / "b")
    (found,) = other.history(entry.case)
    assert found.entry == entry
    assert (found.entry.author, found.entry.comment) == (told["author"], told["comment"])
    assert found.entry.content
    assert found.entry.volume_ml


def test_a_label_stays_on_its_series_when_another_becomes_the_modality(
    orthanc: Orthanc, spec: TaskSpec, tmp_path: Path
) -> None:
    series = [write_series(volume(seed=seed), modality(spec, "ct"), "swapped", 2 + seed, "ct") for seed in range(2)]
    orthanc.add(series[0] + series[1])
    first, second = (str(images[0].SeriesInstanceUID) for images in series)
    store = opened(orthanc.dicomweb, spec, tmp_path / "cache")
    study = str(series[0][0].StudyInstanceUID)
    entry = save(store, study, author="anna")
    assert entry.image == "ct"
    store.set_modality(second, "ct")
    assert store.case(study).series["ct"] == second
    assert [found.entry.image for found in store.history(entry.case)] == [first]
    assert [found.entry.image for found in store.histories()[entry.case]] == [first]
    again_saved = restore(store, spec, entry.case, entry.label, Told(author="bert"))
    assert again_saved.image == first
    assert {info.refers_to for info in store.labels.segs(store.examinations(study)[0]).values()} == {first}
    # and it can be brought to the case's images as before
    np.testing.assert_array_equal(label_of(store.case(study), spec), drawn((24, 20, 14)))


def test_a_label_on_a_series_that_grows_is_read_on_all_of_it(orthanc: Orthanc, spec: TaskSpec, tmp_path: Path) -> None:
    series = write_series(volume(), modality(spec, "ct"), "late", 2, "ct")
    orthanc.add(series[:-3])
    store, study = opened(orthanc.dicomweb, spec, tmp_path / "cache"), str(series[0].StudyInstanceUID)
    entry = save(store, study)
    before = label_of(store.case(study), spec)
    orthanc.add(series[-3:])
    now = label_of(store.case(study), spec)
    assert now.shape == (24, 20, 14)
    assert now.sum() == before.sum()
    assert now.sum() == label_of(opened(orthanc.dicomweb, spec, tmp_path / "b").case(study), spec).sum()
    restore(store, spec, entry.case, entry.label, Told())


def test_labels_of_two_frames_of_reference_in_one_series_stay_apart(
    orthanc: Orthanc, spec: TaskSpec, tmp_path: Path
) -> None:
    series = write_series(volume(), modality(spec, "ct"), "moved", 2, "ct")
    moved = stored(again(series, FrameOfReferenceUID=generate_uid()))
    orthanc.add(series + moved)
    store = opened(orthanc.dicomweb, spec, tmp_path / "cache")
    study = str(series[0].StudyInstanceUID)
    here, there = (examination.id for examination in store.examinations(study))
    other = drawn((24, 20, 14))[::-1].copy()
    save(store, f"{there}@ct", other)
    assert store.case(here).labels == ()
    save(store, f"{here}@ct")
    for found in (store, opened(orthanc.dicomweb, spec, tmp_path / "b")):
        np.testing.assert_array_equal(label_of(found.case(here), spec), drawn((24, 20, 14)))
        np.testing.assert_array_equal(label_of(found.case(there), spec), other)


def test_a_broken_volume_costs_no_label_on_another_of_its_series(
    orthanc: Orthanc, spec: TaskSpec, tmp_path: Path
) -> None:
    series = tell(write_series(volume(), modality(spec, "mr_t1"), "echoes", 2, "t1"), EchoTime="5")
    second = stored(again(series, EchoTime="80"))
    orthanc.add(series + second[:5] + second[6:])
    store, study = opened(orthanc.dicomweb, spec, tmp_path / "cache"), str(series[0].StudyInstanceUID)
    save(store, study)
    case = store.case(study)
    assert case.label is not None
    assert not case.label.problem
    np.testing.assert_array_equal(label_of(case, spec), drawn((24, 20, 14)))
    told = dict(export_objects(store, "rtstruct", tmp_path / "out", False))
    assert told[case.id].endswith(".dcm"), told


def test_a_label_on_the_smaller_stack_of_a_multi_frame_image_comes_back(
    orthanc: Orthanc, spec: TaskSpec, tmp_path: Path
) -> None:
    """Both volumes are named by one SOPInstanceUID; only one of them holds the label's frames."""
    turned = volume((20, 18, 6), seed=3)
    turned = Volume(turned.voxels, turned.affine[:, [2, 0, 1, 3]])
    stacks = [write_series(one, modality(spec, "ct"), "stacks", 2, "ct") for one in (volume((20, 18, 9)), turned)]
    image = copy.deepcopy(stacks[0][0])
    frames = [(number, frame) for number, stack in enumerate(stacks, start=1) for frame in stack]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(image, keyword)
    image.NumberOfFrames, image.PixelData = len(frames), b"".join(frame.PixelData for _, frame in frames)
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = [Dataset()], []
    for number, frame in frames:
        group, position, measures, orientation, content = (Dataset() for _ in range(5))
        position.ImagePositionPatient, measures.PixelSpacing = frame.ImagePositionPatient, frame.PixelSpacing
        orientation.ImageOrientationPatient, content.StackID = frame.ImageOrientationPatient, str(number)
        group.PlanePositionSequence, group.PixelMeasuresSequence = [position], [measures]
        group.PlaneOrientationSequence, group.FrameContentSequence = [orientation], [content]
        image.PerFrameFunctionalGroupsSequence.append(group)
    orthanc.add([image])
    study = str(image.StudyInstanceUID)
    (listed,) = opened(orthanc.dicomweb, spec, tmp_path / "cache").examinations(study)
    assert len(listed.choices) == 2
    label = np.zeros((20, 18, 6), np.uint8)
    label[3:9, 2:5, 2:4] = label[9:12, 5, 3] = 1
    for choice in listed.choices:
        told = {"assign": f"{choice.series.key}=ct"}
        store = opened(orthanc.dicomweb, spec, tmp_path / "cache", **told)
        grid = read_grid(store.case(study).images["ct"])
        drawn_there = np.zeros(grid.shape, np.uint8)
        drawn_there[:, :, : label.shape[2]] = label
        save(store, f"{store.case(study).id}@ct", drawn_there)
        other = opened(orthanc.dicomweb, spec, tmp_path / choice.series.part[:40].replace("/", " "), **told)
        np.testing.assert_array_equal(label_of(other.case(study), spec), drawn_there)


def test_series_set_by_hand_are_of_their_case_and_go_before_a_volume_of_theirs(
    orthanc: Orthanc, spec: TaskSpec, tmp_path: Path
) -> None:
    made = [write_series(volume(seed=number), modality(spec, "ct"), "hand", number, "ct") for number in (2, 3, 12, 13)]
    frame = generate_uid()
    for images in made[2:]:
        tell(images, FrameOfReferenceUID=frame)
    orthanc.add([image for images in made for image in images])
    study = str(made[0][0].StudyInstanceUID)
    first, second, third, fourth = (str(images[0].SeriesInstanceUID) for images in made)
    store = opened(orthanc.dicomweb, spec, tmp_path / "cache", assign=f"{first}#EchoTime:80=ct")
    store.set_modality(second, "ct")
    store.set_modality(fourth, "ct")
    assert {found.series["ct"].uid for found in store.examinations(study)} == {second, fourth}
    store.set_modality(third, "ct")
    assert {found.series["ct"].uid for found in store.examinations(study)} == {second, third}
    store.set_modality(first, "")
    assert not [key for key in store.forced if key.startswith(f"{first}#")]


def test_a_series_that_was_corrected_under_its_old_uids_is_read_anew(
    orthanc: Orthanc, spec: TaskSpec, tmp_path: Path
) -> None:
    series = write_series(volume(), modality(spec, "pet"), "corrected", 2, "pet")
    orthanc.add(series)
    store, study = opened(orthanc.dicomweb, spec, tmp_path / "cache"), str(series[0].StudyInstanceUID)
    before = read_image(store.case(study).images["pet"]).voxels
    corrected = copy.deepcopy(series)
    tell(corrected, PatientWeight=2 * float(series[0].PatientWeight), SeriesDescription="corrected pet")
    orthanc.delete_series(str(series[0].SeriesInstanceUID))
    orthanc.add(corrected)
    np.testing.assert_allclose(read_image(store.case(study).images["pet"]).voxels, 2 * before, rtol=1e-5)


def test_a_label_whose_series_went_away_is_told(orthanc: Orthanc, spec: TaskSpec, tmp_path: Path) -> None:
    series = write_series(volume(), modality(spec, "ct"), "renamed", 2, "ct")
    orthanc.add(series)
    store, study = opened(orthanc.dicomweb, spec, tmp_path / "cache"), str(series[0].StudyInstanceUID)
    save(store, study, author="anna")
    renamed = copy.deepcopy(series)
    for image in renamed:
        image.SOPInstanceUID = generate_uid()
    tell(renamed, SeriesInstanceUID=generate_uid())
    orthanc.delete_series(str(series[0].SeriesInstanceUID))
    orthanc.add(stored(renamed))
    case = store.case(study)
    assert case.label is None
    assert [note for note in case.notes if "by anna) does not count: it is drawn on series" in note]


def test_patients_are_told_apart_by_the_images_where_the_list_is_garbled(
    orthanc: Orthanc, spec: TaskSpec, tmp_path: Path
) -> None:
    studies = [write_series(volume((12, 10, 6)), modality(spec, "ct"), f"visit {number}", 2, "ct") for number in (1, 2)]
    for series in studies:
        orthanc.add(tell(series, SpecificCharacterSet="ISO_IR 144", PatientID="Иван"))
    store = opened(orthanc.dicomweb, spec, tmp_path / "cache")
    assert [store.case(str(series[0].StudyInstanceUID)).patient for series in studies] == ["Иван", "Иван"]


def test_a_series_that_lies_in_two_studies_is_refused(
    orthanc: Orthanc, spec: TaskSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orthanc keeps one of them; other archives list both."""
    series = write_series(volume((12, 10, 6)), modality(spec, "ct"), "twice", 2, "ct")
    orthanc.add(series)
    store, uid = opened(orthanc.dicomweb, spec, tmp_path / "cache"), str(series[0].SeriesInstanceUID)
    (row,) = store.pacs.series(series=uid)
    other = copy.deepcopy(row)
    other.StudyInstanceUID = generate_uid()
    monkeypatch.setattr(store.pacs, "series", lambda study="", series="": [row, other])
    with pytest.raises(CaseError, match="expected it in one study"):
        store.resolve(uid)
