"""Servers of other manners than Orthanc's: each played by a proxy before it, and what the app makes of them."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import ArchiveError
from maml_app.imaging.files import read_image, read_label
from maml_app.phantom.dicom import make_study
from maml_app.stores.pacs import Pacs
from tests.builders import keep
from tests.harness.proxy import Answer, Asked, Manner, Proxy
from tests.imaging.objects import again, tell
from tests.integration.conftest import Archive, opened, sent

Onward = Callable[[Asked], Answer]
PATIENT, STUDY, NUMBER, COUNT, MODALITY, TEXT = "00100020", "0020000D", "00200011", "00201209", "00080060", "0008103E"


def plain(asked: Asked, onward: Onward) -> Answer:
    return onward(asked)


def capped(asked: Asked, onward: Onward) -> Answer:
    """Never more than four rows, with a warning that there are more (PS3.18 8.3.4.4)."""
    if asked.is_list:
        asked.query["limit"] = str(min(int(asked.query.get("limit", 4)), 4))
        answer = onward(asked)
        answer.headers["Warning"] = "299 archive: There are additional results that can be requested"
        return answer
    return onward(asked)


def ignores_paging(asked: Asked, onward: Onward) -> Answer:
    if asked.is_list:
        asked.query.pop("limit", None)
        asked.query.pop("offset", None)
    return onward(asked)


def none_beyond(asked: Asked, onward: Onward) -> Answer:
    """No answer for a page beyond the last row, and two rows a page."""
    if asked.is_list:
        asked.query["limit"] = "2"
    answer = onward(asked)
    beyond = asked.is_list and not answer.rows() and asked.query.get("offset", "0") != "0"
    return Answer(404, b"nothing found") if beyond else answer


def no_series_of_all(asked: Asked, onward: Onward) -> Answer:
    """No search over the series of all studies."""
    return Answer(404, b"not here") if asked.path == "/series" else onward(asked)


def series_not_implemented(asked: Asked, onward: Onward) -> Answer:
    return Answer(501, b"") if asked.path == "/series" else onward(asked)


def lacking(*tags: str) -> Manner:
    def manner(asked: Asked, onward: Onward) -> Answer:
        """Rows without attributes that a server need not give."""
        answer = onward(asked)
        if asked.path.split("/")[-1] == "series" and answer.status == 200:
            rows = [{tag: value for tag, value in row.items() if tag not in tags} for row in answer.rows()]
            answer.body = json.dumps(rows).encode()
        return answer

    return manner


def busy(status: int, after: str) -> Manner:
    """Every third request is put off."""
    lock, count = threading.Lock(), 0

    def manner(asked: Asked, onward: Onward) -> Answer:
        nonlocal count
        with lock:
            count += 1
            put_off = count % 3 == 1
        return Answer(status, b"busy", {"Retry-After": after} if after else {}) if put_off else onward(asked)

    return manner


MANNERS = {
    "plain": plain,
    "capped": capped,
    "404 beyond the last row": none_beyond,
    "ignores paging": ignores_paging,
    "no /series": no_series_of_all,
    "/series not implemented": series_not_implemented,
    "no counts": lacking(COUNT),
    "no patient": lacking(PATIENT),
    "no modality": lacking(MODALITY),
    "no study, number or text": lacking(STUDY, NUMBER, TEXT),
    "429": busy(429, "1"),
    "503 without a time": busy(503, ""),
}


@pytest.fixture(scope="module")
def expected(archive: Archive, spec: TaskSpec, tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """The cases as the archive itself tells of them."""
    return opened(archive.url, spec, tmp_path_factory.mktemp("plain")).cases()


@pytest.mark.parametrize("manner", MANNERS)
def test_the_same_cases_whatever_the_manners(
    archive: Archive, spec: TaskSpec, expected: list[Case], tmp_path: Path, manner: str
) -> None:
    with Proxy(archive.url, MANNERS[manner]) as proxy:
        found = opened(proxy.url, spec, tmp_path / "proxy").cases()
        assert [case.id for case in found] == [case.id for case in expected]
        assert [case.patient for case in found] == [case.patient for case in expected]
        assert [case.series for case in found] == [case.series for case in expected]
        assert [case.label and case.label.id for case in found] == [case.label and case.label.id for case in expected]
        assert [case.notes for case in found] == [()] * len(expected)


def test_a_series_whose_headers_fail_costs_only_itself(archive: Archive, spec: TaskSpec, tmp_path: Path) -> None:
    broken = archive.uid(1, "pet")

    def manner(asked: Asked, onward: Onward) -> Answer:
        return Answer(500, b"database") if f"{broken}/metadata" in asked.path else onward(asked)

    with Proxy(archive.url, manner) as proxy:
        store = opened(proxy.url, spec, tmp_path / "cache")
        cases = {case.study: case for case in store.cases()}
        assert len(cases) == 5
        case = cases[archive.study_uid(1)]
        assert set(case.images) == {"ct", "mr_t1"}
        assert case.left_out["pet"].startswith(f"series {broken} (#3 pet): could not be read: ")
        assert "it answered 500 database" in case.left_out["pet"]
        assert case.label is not None


def test_attributes_that_break_their_vr_are_left_out(archive: Archive, spec: TaskSpec, tmp_path: Path) -> None:
    def manner(asked: Asked, onward: Onward) -> Answer:
        answer = onward(asked)
        if answer.status == 200 and answer.body[:1] == b"[":
            rows = answer.rows()
            for row in rows:
                row[NUMBER] = {"vr": "IS", "Value": ["4.7A"]}
            answer.body = json.dumps(rows).encode()
        return answer

    with Proxy(archive.url, manner) as proxy:
        store = opened(proxy.url, spec, tmp_path / "cache")
        assert [set(case.images) for case in store.cases()] == [
            set(case.images) for case in opened(archive.url, spec, tmp_path / "plain").cases()
        ]


def test_a_server_that_stays_busy_is_told(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maml_app.stores.pacs.LONGEST_WAIT_S", 0.01)
    asked_times = 0

    def manner(asked: Asked, onward: Onward) -> Answer:
        nonlocal asked_times
        asked_times += 1
        return Answer(503, b"", {"Retry-After": "120"})

    with Proxy(archive.url, manner) as proxy, pytest.raises(ArchiveError, match=r"busy \(503\).*try again in 120 s"):
        Pacs(proxy.url).series()
    assert asked_times == 6


def test_a_label_is_saved_and_read_through_a_busy_server(archive: Archive, spec: TaskSpec, tmp_path: Path) -> None:
    with Proxy(archive.url, busy(503, "0")) as proxy:
        store = opened(proxy.url, spec, tmp_path / "cache")
        case = store.case(archive.study_uid(4))
        image = read_image(case.images["ct"])
        label = (image.voxels > 100).astype("uint8")
        stored = keep(store, case.id, sent(tmp_path / "label.nii.gz", label, image.affine))
        newest = store.case(case.id).label
        assert newest is not None
        assert newest.id == stored.id


def test_one_volume_of_a_series_is_set_by_hand_read_and_labelled(
    archive: Archive, spec: TaskSpec, tmp_path: Path
) -> None:
    study, truth = make_study(spec, 60, 0, 24)
    first = study.series["mr_t1"]
    second = again(tell(first, EchoTime=12), EchoTime=90)
    for image in second:
        image.file_meta = copy.deepcopy(image.file_meta)
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.PixelData = bytes(len(image.PixelData))
    archive.orthanc.add([*study.instances(), *second])
    uid, series = str(first[0].StudyInstanceUID), str(first[0].SeriesInstanceUID)
    case = opened(archive.url, spec, tmp_path / "cache").case(uid)
    assert "mr_t1" not in case.images
    assert "holds 2 volumes that fit mr_t1 equally: EchoTime:12" in case.left_out["mr_t1"]
    store = opened(archive.url, spec, tmp_path / "cache", assign=f"{series}#EchoTime:12=mr_t1")
    case = store.case(uid)
    assert f"mr_t1 is one of several volumes of series {series}: EchoTime:12" in case.notes
    volume = read_image(case.images["mr_t1"])
    assert volume.grid.same_as(truth.images["mr_t1"].grid)
    np.testing.assert_allclose(volume.voxels, truth.images["mr_t1"].voxels, atol=0.51)
    assert store.resolve(series) == (case, "mr_t1")
    slices = {f"{one.SOPInstanceUID}/frames/1" for one in first}
    assert set(store.slices(case, "mr_t1")) == slices
    other = f"{series}#EchoTime:90"
    assert not read_image(case.others[other]).voxels.any()
    label = np.zeros(volume.voxels.shape, np.uint8)
    label[2:5, 3:5, 1:4] = 2
    for asked in (series, f"{case.id}@{other}"):
        keep(store, asked, sent(tmp_path / "label.nii.gz", label, volume.affine))
        stored = store.case(uid).label
        assert stored is not None
        np.testing.assert_array_equal(read_label(stored.local()).voxels, label)
