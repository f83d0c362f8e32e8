from __future__ import annotations

from maml_app.cases.case import Case
from maml_app.network.checkpoint import Checkpoint
from maml_app.training.split import is_validation, known, split
from tests.conftest import NETWORK


def cases(*ids: str) -> list[Case]:
    return [Case(one, {}) for one in ids]


def test_a_case_never_changes_sides_as_more_are_labelled() -> None:
    ids = [f"case{number}" for number in range(60)]
    before = {case.id for case in split(cases(*ids[:30]), 0.2)[1]}
    after = {case.id for case in split(cases(*ids), 0.2)[1]}
    assert before == after & set(ids[:30])
    assert 4 <= len(after) <= 20


def test_the_split_is_by_patient_and_never_leaves_training_empty() -> None:
    two = [Case("a_ses-1", {}, patient="a"), Case("a_ses-2", {}, patient="a")]
    train, validation = split(two, 0.5)
    assert not train or not validation
    held = next(f"p{number}" for number in range(100) if is_validation(f"p{number}", 0.2))
    assert split(cases(held), 0.2) == (cases(held), [])


def test_the_split_is_frozen() -> None:
    """These sides must never change: models published earlier were validated on them."""
    assert [is_validation(f"STS_{number:03d}", 0.2) for number in (2, 3, 18, 21, 34)] == [True, False, True, True, True]


def test_a_model_knows_patients_whatever_it_saw_of_them() -> None:
    every = [Case(f"{patient}_{year}", {}, patient=patient) for patient in "abcde" for year in (2020, 2021)]
    notes = {
        "trained_on": {"a_2020": "final-0000"},
        "taught_without_label": ["b_2020"],
        "patients": {"a_2020": "a", "b_2020": "b", "c_2020": "c"},  # c: validated on
        "inherited": {"d_2020": "d"},
        "validated_on": {"c_2020": "final-0000"},
    }
    model = Checkpoint("toy", "", 1, 2, NETWORK, (8, 8, 8), notes)
    assert [case.id for case in known(every, model)] == [f"{one}_{year}" for one in "abd" for year in (2020, 2021)]
    old = Checkpoint("toy", "", 1, 2, NETWORK, (8, 8, 8), {"trained_on": {"a_2020": "final-0000"}})
    assert [case.id for case in known(every, old)] == ["a_2020"]
    assert known(every, Checkpoint("toy", "", 1, 2, NETWORK, (8, 8, 8))) == []
