from __future__ import annotations

import numpy as np
import pytest

from maml_app.cases.history import State, Told
from maml_app.cases.recipe import Review
from maml_app.cases.source import learnable
from maml_app.cases.spec import TaskSpec
from maml_app.errors import CaseError, LabelError
from maml_app.imaging.files import read_grid
from maml_app.imaging.volume import Volume
from maml_app.labelling.overview import overview
from maml_app.labelling.review import (
    Judgement,
    Verdict,
    agreement,
    judge,
    readings,
    seen_by,
    wants_label,
)
from maml_app.labelling.saving import Sent, save
from maml_app.stores.folder import FolderStore

CASE = "phantom_004"  # has no label
TWO = Review(required=True, readings=2)


def drawn(store: FolderStore, spec: TaskSpec, size: int, author: str, parent: str = "") -> str:
    grid = read_grid(store.case(CASE).images["ct"])
    voxels = np.zeros(grid.shape, np.uint8)
    voxels[2 : 2 + size, 3:5, 1:3] = 2
    return save(store, spec, Sent(CASE, Volume(voxels, grid.affine), Told(author=author, parent=parent))).label


def newest(store: FolderStore) -> str:
    label = store.case(CASE).label
    return label.id if label else ""


def test_a_rejected_or_withdrawn_label_does_not_count_and_stays(store: FolderStore, spec: TaskSpec) -> None:
    first, second = drawn(store, spec, 2, "anna"), drawn(store, spec, 3, "anna")
    with pytest.raises(LabelError, match="expected a comment that says why final-0002 is rejected"):
        judge(store, spec, CASE, second, Judgement(Verdict.REJECT, "rita"))
    judge(store, spec, CASE, second, Judgement(Verdict.REJECT, "rita", "the vessel is not tumour"))
    assert newest(store) == first
    judge(store, spec, CASE, first, Judgement(Verdict.WITHDRAW, "anna"))
    assert newest(store) == ""
    assert [found.state for found in store.history(CASE)] == [State.WITHDRAWN, State.REJECTED]
    assert store.history(CASE)[1].decisions[0].comment == "the vessel is not tumour"
    with pytest.raises(LabelError, match="final-0001 is withdrawn and cannot be judged"):
        judge(store, spec, CASE, first, Judgement(Verdict.APPROVE, "rita"))
    with pytest.raises(CaseError, match="got 'final-0007'"):
        judge(store, spec, CASE, "final-0007", Judgement(Verdict.APPROVE, "rita"))
    assert len(list((store.label_root / CASE).glob("*.nii.gz"))) == 2


def test_someone_else_approves_and_then_it_trains(store: FolderStore, spec: TaskSpec) -> None:
    asks = spec.model_copy(update={"review": Review(required=True)})
    label = drawn(store, spec, 2, "anna")
    assert learnable(store.case(CASE), spec).label is not None
    assert learnable(store.case(CASE), asks).label is None
    with pytest.raises(LabelError, match="final-0001 is anna's own; someone else has to approve it"):
        judge(store, spec, CASE, label, Judgement(Verdict.APPROVE, "anna"))
    judge(store, spec, CASE, label, Judgement(Verdict.APPROVE, "rita"))
    assert learnable(store.case(CASE), asks).label is not None
    drawn(store, spec, 3, "anna")  # a newer one waits for its review: the reviewed one trains meanwhile
    trains = learnable(store.case(CASE), asks).label
    assert trains is not None
    assert trains.id == label
    assert learnable(store.case("phantom_000"), asks).label is not None  # came with the images


def test_two_people_read_a_case_without_seeing_each_other(store: FolderStore, spec: TaskSpec) -> None:
    spec = spec.model_copy(update={"review": TWO})
    assert wants_label(store.case(CASE), [], "anna", spec)
    first = drawn(store, spec, 2, "anna")
    history = store.history(CASE)
    assert not wants_label(store.case(CASE), history, "anna", spec)
    assert wants_label(store.case(CASE), history, "ben", spec)
    assert seen_by(store.case(CASE), history, "ben", spec).labels == ()
    assert seen_by(store.case(CASE), history, "rita", spec, reviewer=True).label is not None
    assert agreement(store, spec, CASE) is None
    second = drawn(store, spec, 3, "ben")  # replaces nothing: it is another reading, not a conflict
    third = drawn(store, spec, 4, "anna", parent=first)  # anna goes on with her own
    assert [found.entry.label for found in readings(store.history(CASE))] == [second, third]
    assert not wants_label(store.case(CASE), store.history(CASE), "carl", spec)
    found = agreement(store, spec, CASE)
    assert found is not None
    assert (found.one, found.two, found.authors) == (second, third, ("ben", "anna"))
    assert found.changes["lesion"].voxels == 4
    assert learnable(store.case(CASE), spec).label is None
    judge(store, spec, CASE, second, Judgement(Verdict.APPROVE, "rita"))  # the reviewer picks
    assert [found.state.value for found in store.history(CASE)] == ["withdrawn", "reviewed", "withdrawn"]
    assert store.history(CASE)[2].decisions[-1].comment == "ben's reading was picked, final-0002"
    assert newest(store) == second
    assert readings(store.history(CASE)) == []
    assert seen_by(store.case(CASE), store.history(CASE), "anna", spec) == store.case(CASE)
    trains = learnable(store.case(CASE), spec).label
    assert trains is not None
    assert trains.id == second


def test_what_the_model_expects_the_worst_of_is_reviewed_first(store: FolderStore, spec: TaskSpec) -> None:
    asks = spec.model_copy(update={"review": Review(required=True)})
    for number in range(3):
        case = f"phantom_00{number}"
        grid = read_grid(store.case(case).images["ct"])
        voxels = np.zeros(grid.shape, np.uint8)
        voxels[2:4, 3:5, 1:3] = 2
        parent = store.case(case).label
        save(
            store,
            spec,
            Sent(case, Volume(voxels, grid.affine), Told(author="anna", parent=parent.id if parent else "")),
        )

    def order(expected: dict[str, float]) -> list[str]:
        found = overview(store.cases(), store.histories(), asks, expected=expected)
        return [row.entry.case[-1] for row in found.to_review]

    assert order({}) == ["0", "1", "2"]
    assert order({"phantom_000": 0.9, "phantom_001": 0.4, "phantom_002": 0.7}) == ["1", "2", "0"]
    assert order({"phantom_002": 0.7}) == ["2", "0", "1"]  # those that no model has looked at come last
