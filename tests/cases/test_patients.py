"""Whose case it is: a row a spelling that data sets have."""

from __future__ import annotations

import pytest

from maml_app.cases.patients import patient_of


@pytest.mark.parametrize(
    ("names", "patient"),
    [
        (["P1"], "P1"),
        (["P1", "2020-01-01"], "P1"),
        (["P1", "20200101"], "P1"),
        (["P1", "01.02.2020"], "P1"),
        (["P1", "ses-2"], "P1"),
        (["P1", "baseline"], "P1"),
        (["P1", "week-012-1"], "P1"),
        (["P1", "2"], "P1"),
        (["P1", "M012"], "P1"),
        (["anna", "v2"], "anna"),
        (["P1", "2019"], "P1"),
        (["P1", "scan2"], "P1"),
        (["2020-01-01", "P1"], "P1"),
        (["followup", "P1"], "P1"),
        (["P1_2020-01-01"], "P1"),
        (["P1-tp2"], "P1"),
        (["P1_V02"], "P1"),
        (["P1_m06"], "P1"),
        (["P1_mo3"], "P1"),
        (["P1_w000-1"], "P1"),
        (["P1_scan2"], "P1"),
        (["P1.post"], "P1"),
        (["P1_preop"], "P1"),
        (["100001_time2"], "100001"),
        (["Patient-042_week-000-1"], "Patient-042"),
        (["TCGA-02-0001_1998.01.03"], "TCGA-02-0001"),
        (["UCSF-PDGM-0004_FU003d"], "UCSF-PDGM-0004"),
        (["UPENN-GBM-00001_21"], "UPENN-GBM-00001"),
        (["BraTS-GLI-00005-101"], "BraTS-GLI-00005"),
        (["BraTS2024-GLI-00005-101"], "BraTS2024-GLI-00005"),
        (["BraTS-MEN-RT-0001-1"], "BraTS-MEN-RT-0001"),
        (["sub-01", "ses-1"], "sub-01"),
        # no points in time: each is a patient
        (["BraTS-GoAT-00001"], "BraTS-GoAT-00001"),
        (["Brats18_2013_0_1"], "Brats18_2013_0_1"),
        (["BraTS2021_00000"], "BraTS2021_00000"),
        (["STS_002"], "STS_002"),
        (["phantom_003"], "phantom_003"),
        (["patient26"], "patient26"),
        (["site1", "P1"], "site1_P1"),
        (["glioma", "T001"], "glioma_T001"),
        (["cohort", "W040"], "cohort_W040"),
        (["lesion_t1"], "lesion_t1"),
    ],
)
def test_names_tell_the_patient(names: list[str], patient: str) -> None:
    assert patient_of(names) == patient


def test_a_pattern_of_the_task_goes_first() -> None:
    assert patient_of(["A-17-x"], "^(A-[0-9]+)", "A-17-x") == "A-17"
    assert patient_of(["B_tp1_"], "^(A-[0-9]+)", "B_tp1_") == "B_tp1_"
