"""Several people and one server: nothing is lost or doubled, conflicts are told, reviews and readings work."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from maml_app.cases.spec import TaskSpec
from maml_app.imaging.files import read_label
from maml_app.stores.folder import FolderStore
from tests.harness.people import CASES, Shared, people_at


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, spec: TaskSpec) -> Iterator[Shared]:
    with people_at(tmp_path_factory.mktemp("shared"), spec) as shared:
        yield shared


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory, spec: TaskSpec) -> Iterator[Shared]:
    with people_at(tmp_path_factory.mktemp("reading"), spec, "review: {required: true, readings: 2}\n") as shared:
        yield shared


def test_of_two_hundred_saves_at_once_none_is_lost_or_doubled(shared: Shared, spec: TaskSpec) -> None:
    """Of the same and of different cases; half say what they started from, often too late."""
    draw = random.Random(5)
    jobs = [(draw.choice(("anna", "ben")), f"phantom_{draw.randrange(3):03d}", number) for number in range(1, 201)]

    def run(job: tuple[str, str, int]) -> tuple[int, str]:
        user, case, number = job
        seen = self_seen(case) if number % 2 else {}
        answer = shared.save(user, case, number, **seen)
        body = answer.json()
        return answer.status_code, body["label"].partition("@")[2] if answer.ok else body.get("mine", answer.text)

    def self_seen(case: str) -> dict[str, str]:
        known = [row["label"] for row in shared.history(case)]
        return {"parent": known[-1]} if known else {}

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(run, jobs))
    assert {status for status, _ in answers} <= {200, 409}
    assert sum(status == 409 for status, _ in answers) > 0  # or nothing was shown of conflicts
    rows = {case: {row["label"]: row for row in shared.history(case)} for case in {job[1] for job in jobs}}
    assert sum(len(found) for found in rows.values()) == 200
    store = FolderStore(shared.studies, spec)
    for (user, case, number), (status, label) in zip(jobs, answers, strict=True):
        row = rows[case][label]
        assert row["author"] == user
        assert row["state"] == ("final" if status == 200 else "contested")
        file = next(ref.path for ref in store.case(case).labels if ref.id == label)
        assert int((read_label(file).voxels > 0).sum()) == number
    assert FolderStore(shared.studies, spec).histories() == store.histories()
    for case, found in rows.items():
        versions = [row["version"] for row in found.values()]
        assert sorted(versions) == list(range(1, len(versions) + 1)), case


def test_a_conflict_says_who_and_how_far_apart_and_a_person_chooses(shared: Shared) -> None:
    case = "phantom_003"
    first = shared.save("anna", case, 10).json()["label"]
    assert shared.save("ben", case, 14, parent=first).status_code == 200
    answer = shared.save("anna", case, 12, parent=first, client_id="OHIF")
    told = answer.json()
    assert answer.status_code == 409
    assert "ben saved final-0002 at" in told["detail"]
    assert "does not count until someone chooses" in told["detail"]
    assert told["changes"]["lesion"]["voxels"] == 2
    mine = told["mine"]
    assert [row["state"] for row in shared.history(case)] == ["final", "final", "contested"]
    assert shared.ask("GET", f"/datastore/label/info?label={case}&tag=final", "anna").json()["id"] == "final-0002"
    changes = shared.ask("GET", f"/maml/cases/{case}/labels/{mine}/changes?since=final-0002", "anna").json()
    assert changes["lesion"]["voxels"] == 2
    assert shared.say("anna", case, mine, "choose", keep=True).status_code == 200
    assert shared.ask("GET", f"/datastore/label/info?label={case}&tag=final", "anna").json()["id"] == mine
    row = shared.history(case)[-1]
    assert (row["client"], row["parent"], row["contests"]) == ("OHIF", "final-0001", "final-0002")
    restored = shared.say("ben", case, "final-0001", "restore").json()["label"]
    assert restored == f"{case}@final-0004"


def test_reviews_as_three_d_slicers_reviewer_gives_them(shared: Shared) -> None:
    case = "phantom_004"
    label = shared.save("anna", case, 10).json()["label"]
    said = {"segmentationMeta": {"status": "approved", "level": "easy", "approvedBy": "someone", "comment": ""}}
    path = f"/datastore/label/info?label={label}&tag=final"
    assert shared.ask("PUT", path, "anna", data={"info": json.dumps(said)}).status_code == 403
    assert shared.ask("PUT", path, "rita", data={"info": json.dumps(said)}).status_code == 200
    everything = shared.ask("GET", "/datastore/?output=all", "rita").json()
    info = everything["objects"][case]["labels"]["final"]["info"]
    assert info["client_id"] == "anna"
    assert (info["segmentationMeta"]["status"], info["segmentationMeta"]["approvedBy"]) == ("approved", "rita")
    said["segmentationMeta"] |= {"status": "flagged", "comment": "the rim is missing"}
    assert shared.ask("PUT", path, "rita", data={"info": json.dumps(said)}).status_code == 200
    assert shared.history(case)[-1]["state"] == "rejected"
    # its corrections come under tags of their own: they are newer versions
    files = {"label": ("label.nii.gz", shared.drawn(case, 11))}
    answer = shared.ask("PUT", f"/datastore/label?image={case}&tag=version_1", "rita", files=files)
    assert answer.json()["label"] == f"{case}@final-0002"
    page = shared.ask("GET", "/datastore/?output=all&start=4&count=1", "rita").json()
    assert (list(page["objects"]), page["total"]) == ([case], CASES)
    # an annotator may take back only what is their own
    assert shared.say("ben", case, "final-0002", "judge", verdict="withdraw").status_code == 403
    assert shared.say("anna", case, "final-0001", "judge", verdict="withdraw").status_code == 200
    assert shared.say("anna", case, "final-0001", "judge", verdict="approve").status_code == 403
    assert shared.say("rita", case, "final-0001", "judge", verdict="burn").status_code == 422


def test_an_empty_label_over_a_drawn_one_has_to_be_meant(shared: Shared) -> None:
    case = "phantom_005"
    assert shared.save("anna", case, 10).status_code == 200
    answer = shared.save("anna", case, 0)
    assert (answer.status_code, answer.json()["conflict"]) == (409, "empty")
    assert shared.save("anna", case, 0, nothing_there=True).status_code == 200
    assert shared.history(case)[-1]["volume_ml"] == {}


def test_two_people_read_a_case_blindly_and_a_reviewer_picks(reading: Shared) -> None:
    given = reading.ask("POST", "/activelearning/first", "anna", json={}).json()["id"]
    assert reading.save("anna", given, 10).status_code == 200
    assert reading.ask("POST", "/activelearning/first", "anna", json={}).json()["id"] != given
    # offered to a second reader, who sees nothing of the first
    assert reading.ask("POST", "/activelearning/first", "ben", json={}).json()["id"] == given
    assert reading.history(given, "ben") == []
    assert reading.ask("GET", f"/datastore/label?label={given}&tag=final", "ben").status_code == 404
    assert reading.ask("GET", f"/datastore/label?label={given}@final-0001&tag=final", "ben").status_code == 404
    seen = reading.ask("GET", "/datastore/?output=all", "ben").json()["objects"][given]
    assert seen["labels"] == {}
    for wish, body in (("restore", {}), ("choose", {"keep": True})):
        assert reading.say("ben", given, "final-0001", wish, **body).status_code == 404
    assert reading.save("ben", given, 14).status_code == 200
    assert [row["label"] for row in reading.history(given, "ben")] == ["final-0002"]
    assert reading.ask("GET", f"/maml/cases/{given}/agreement", "ben").status_code == 403
    agreement = reading.ask("GET", f"/maml/cases/{given}/agreement", "rita").json()
    assert agreement["authors"] == ["anna", "ben"]
    assert agreement["changes"]["lesion"]["voxels"] == 4
    assert reading.ask("POST", "/activelearning/first", "carl", json={}).json()["id"] != given
    assert reading.say("rita", given, "final-0001", "judge", verdict="approve").status_code == 200
    assert [row["state"] for row in reading.history(given, "ben")] == ["reviewed", "withdrawn"]
    # one reading alone does not train
    other = reading.ask("POST", "/activelearning/first", "anna", json={}).json()["id"]
    assert reading.save("anna", other, 10).status_code == 200
    assert reading.ask("POST", "/train/toy", "rita", json={"steps": 1}).status_code == 200
    assert "1 of 6 cases have a final label" in reading.trained()
    assert not (reading.models / "scores").exists()  # MONAI_LABEL_AUTO_UPDATE_SCORING: the server was told not to look
