"""Kinds of folders: ids from a case's own path, which file is a label, and what is not used."""

from __future__ import annotations

from pathlib import Path

import pytest

from maml_app.stores.layouts import read_cases, read_studies
from tests.builders import shipped, touch

BRATS = shipped("brats_mr")


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["P1/t1.nii.gz"], {"P1"}),
        (["P1/anat/t1.nii.gz"], {"P1"}),
        (["P1/T1w/P1_t1.nii.gz"], {"P1"}),
        (["images/P1/t1.nii.gz"], {"P1"}),
        (["HGG/P1/P1_t1.nii.gz", "LGG/P2/P2_t1.nii.gz"], {"P1", "P2"}),
        (["training/P1_t1.nii.gz", "training/P2_t1.nii.gz"], {"P1", "P2"}),
        (["P1_t1.nii.gz", "P2-t1.nii.gz", "P3.t1.nii.gz"], {"P1", "P2", "P3"}),
        (["P1/2020-01-01/t1.nii.gz", "P2/2020-01-01/t1.nii.gz"], {"P1_2020-01-01", "P2_2020-01-01"}),
        (["P1/P1_2020-01-01_t1.nii.gz", "P1/P1_2021-01-01_t1.nii.gz"], {"P1_2020-01-01", "P1_2021-01-01"}),
        (["siteA/P1/t1.nii.gz", "siteB/P1/t1.nii.gz"], {"siteA_P1", "siteB_P1"}),
        (["all/P1_t1.nii.gz", "all/P2_t1.nii.gz"], {"all_P1", "all_P2"}),
        (["a/b/c/d/e/f/P1/t1.nii.gz"], {"a_b_c_d_e_f_P1"}),
    ],
)
def test_an_id_is_made_of_the_cases_own_path_and_stays(tmp_path: Path, names: list[str], ids: set[str]) -> None:
    touch(tmp_path, *names)
    assert {case.id for case in read_cases(tmp_path, BRATS)} == ids
    touch(tmp_path, "P0/anat/t1.nii.gz", "P9_t1.nii.gz", "new/P0/t1.nii.gz", "anat/P8_t1.nii.gz", "Patient 7/t1.nii.gz")
    assert ids < {case.id for case in read_cases(tmp_path, BRATS)}


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (["P/t1.nii.gz", "P/label.nii.gz"], "P/label.nii.gz"),
        (["P/P_t1.nii.gz", "P/P_seg.nii.gz"], "P/P_seg.nii.gz"),
        (["P/P_t1.nii.gz", "P/seg.nii.gz"], "P/seg.nii.gz"),
        (["P/t1.nii.gz", "P/tumour_mask.nii.gz"], "P/tumour_mask.nii.gz"),
        (["P/images/t1.nii.gz", "P/labels/label.nii.gz"], "P/labels/label.nii.gz"),
        (["images/P_t1.nii.gz", "labels/P.nii.gz"], "labels/P.nii.gz"),
        (["images/P/t1.nii.gz", "labels/P.nii.gz"], "labels/P.nii.gz"),
        (["P/t1.nii.gz", "labels/P.nii.gz"], "labels/P.nii.gz"),
        (["P/t1.nii.gz", "P/annotations/P.nii.gz"], "P/annotations/P.nii.gz"),
        (["P/t1.nii.gz", "P/label_t1.nii.gz"], "P/label_t1.nii.gz"),
        # never a label
        (["P/t1.nii.gz", "P/t1_bet_mask.nii.gz"], None),
        (["P/t1.nii.gz", "P/brain_mask.nii.gz"], None),
        (["P/t1.nii.gz", "P/P_brainmask.nii.gz"], None),
        (["P/t1.nii.gz", "P/P_tissue_seg.nii.gz"], None),
        (["P/t1.nii.gz", "P/P_aparc_seg.nii.gz"], None),
        (["P/t1.nii.gz", "P/P_synthseg.nii.gz"], None),
        (["P/t1.nii.gz", "P/seg-reader1.nii.gz"], None),
        (["P/t1.nii.gz", "P/reader1/seg.nii.gz", "P/reader2/seg.nii.gz"], None),
    ],
)
def test_a_label_is_one_by_a_rule(tmp_path: Path, names: list[str], label: str | None) -> None:
    (case,) = read_cases(touch(tmp_path, *names), BRATS)
    assert (str(case.label.path.relative_to(tmp_path)) if case.label else None) == label


def test_two_label_files_are_a_problem(tmp_path: Path) -> None:
    (case,) = read_cases(touch(tmp_path, "P/t1.nii.gz", "P/label.nii.gz", "P/seg.nii.gz"), BRATS)
    assert case.label is not None
    assert case.label.problem == "2 label files: label.nii.gz, seg.nii.gz; keep one"


@pytest.mark.parametrize(
    ("name", "reason", "wrong"),
    [
        ("P/t2.nrrd", ".nrrd is not read; convert it to .nii.gz", True),
        ("P/t2.mha", ".mha is not read", True),
        ("P/t2.img", ".img is not read", True),
        ("P/t2.mgz", ".mgz is not read", True),
        ("P/seg.seg.nrrd", ".seg.nrrd is not read", True),
        ("P/atlas.nrrd", ".nrrd is not read", False),
        ("P/IM001.dcm", "DICOM is read from an archive", False),
        ("P/t2.nii.gz.part", ".nii.gz.part is not read; expected .nii or .nii.gz", True),
        ("P/t2.npy", ".npy is not read", False),
        ("P/t1_bet_mask.nii.gz", "a mask of the brain, a tissue or the body", False),
        ("P/seg-reader1.nii.gz", "its name does not end as a label's", True),
        ("P/label2.nii.gz", "its name does not end as a label's", True),
        ("P/reader1_seg.nii.gz", "there is no image of a case P_reader1", True),
        ("labels/Q.nii.gz", "there is no image of a case Q", True),
        ("P/dwi.nii.gz", "its name fits no modality of t1, t1ce, t2, flair, nor a label", False),
        ("Pat 2/t1.nii.gz", "case id 'Pat 2': expected letters", True),
        ("Müller/t1.nii.gz", "case id 'Müller': expected letters", True),
        ("train/P/t1.nii.gz", "expected one place for case P, got P and train/P; rename all but one", True),
        ("t1.nii.gz", "no case by its name", True),
        ("P/Q_t2.nii.gz", "it begins with 'Q' and other images of its folder do not", True),
        ("1/2/3/4/5/6/7/8/9/10/t1.nii.gz", "folders deeper than 8 are not looked into", True),
    ],
)
def test_nothing_is_left_out_in_silence(tmp_path: Path, name: str, reason: str, wrong: bool) -> None:
    listing = read_studies(touch(tmp_path, "P/t1.nii.gz", "A/t1.nii.gz", name), BRATS)
    assert any(reason in one.reason and one.wrong == wrong for one in listing.unused), listing.unused
    assert "A" in {case.id for case in listing.cases}


@pytest.mark.parametrize(
    "name",
    ["P/.DS_Store", "P/._t2.nii.gz", "__MACOSX/P/t2.nii.gz", "Thumbs.db", "P/t1.json", "README.md", ".x/t1.nii.gz"],
)
def test_junk_is_no_news(tmp_path: Path, name: str) -> None:
    listing = read_studies(touch(tmp_path, "P/t1.nii.gz", name), BRATS)
    assert ([case.id for case in listing.cases], listing.unused) == (["P"], ())


def test_a_link_in_circles_is_looked_into_once(tmp_path: Path) -> None:
    touch(tmp_path, "P/t1.nii.gz")
    (tmp_path / "P/self").symlink_to("..")
    listing = read_studies(tmp_path, BRATS)
    assert [case.id for case in listing.cases] == ["P"]
    assert [one.wrong for one in listing.unused] == [False]
