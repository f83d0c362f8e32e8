"""Data sets of labels: read back by nibabel, and by this program itself, voxel by voxel; oblique, anisotropic grids."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from maml_app.__main__ import app
from maml_app.cases.case import Case
from maml_app.cases.history import Decision, State, now
from maml_app.cases.spec import TaskSpec
from maml_app.errors import StudiesError
from maml_app.imaging.files import read_grid, read_image, write_image
from maml_app.imaging.labels import read_case_label
from maml_app.imaging.volume import Volume
from maml_app.labelling.export.back import bring_back
from maml_app.labelling.export.dataset import Wish, export
from maml_app.labelling.export.layouts import LAYOUTS
from maml_app.stores.choice import open_studies
from maml_app.stores.folder import FolderStore
from tests.builders import SHAPE, brain, keep, lesion, oblique, save, shipped, tissue

BRATS = shipped("brats_mr")


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A: labelled beside the images; B: a saved label, one image on another grid; C: no FLAIR; D: no label."""
    studies = tmp_path / "studies"
    for name in "ABCD":
        brain(studies / name, lesion() if name == "A" else None)
    affine = oblique((3.0, 6.0, 5.0))
    affine[:3, 3] += (2.0, -1.0, 4.0)
    save(studies / "B" / "t2.nii.gz", tissue(700), affine)
    (studies / "C" / "flair.nii.gz").unlink()
    store = FolderStore(studies, BRATS)
    keep(store, "B", save(tmp_path / "b.nii.gz", lesion((2, 3, 1))), author="anna", comment="seen")
    keep(store, "C", save(tmp_path / "c.nii.gz", lesion((3, 1, 2))), author="ben")
    return studies


def label_of(studies: Path, case: str, spec: TaskSpec = BRATS) -> Volume:
    return read_case_label(FolderStore(studies, spec).case(case), spec)


def check(folder: Path) -> str:
    answer = CliRunner().invoke(app, ["check", "--studies", str(folder), "--task", "brats_mr"])
    assert answer.exit_code == 0, answer.output
    return answer.output


@pytest.mark.parametrize(
    ("layout", "cases"),
    [
        ("nnunet", {"A": "A", "B": "B"}),
        ("msd", {"A": "A", "B": "B"}),
        ("brats", {"A": "A", "B": "B", "C": "C"}),
        ("bids", {"A": "sub-A", "B": "sub-B", "C": "sub-C"}),
    ],
)
def test_what_is_exported_is_read_as_what_it_was(
    studies: Path, tmp_path: Path, layout: str, cases: dict[str, str]
) -> None:
    source = FolderStore(studies, BRATS)
    rows = export(source, BRATS, LAYOUTS[layout](), tmp_path / "out", Wish())
    again = FolderStore(tmp_path / "out", BRATS)
    assert {case.id for case in again.cases()} == set(cases.values())
    assert again.unused() == [] or all(not unused.wrong for unused in again.unused())
    check(tmp_path / "out")
    for case, name in cases.items():
        before, after = label_of(studies, case), label_of(tmp_path / "out", name)
        np.testing.assert_array_equal(before.voxels, after.voxels)
        assert after.grid.same_as(before.grid)
        images = again.case(name).images
        assert set(images) == set(source.case(case).images)
        for modality, ref in images.items():
            original = read_image(source.case(case).images[modality])
            copied = read_image(ref)
            if copied.grid.same_as(original.grid):
                np.testing.assert_allclose(copied.voxels, original.voxels, atol=1e-3)
            else:
                assert (case, modality) == ("B", "t2")
                assert copied.grid.same_as(before.grid)
    told = {row.case: row for row in rows}
    assert told["B"].resampled == {"nnunet": "t2", "msd": ", ".join(BRATS.modality_names)}.get(layout, "")
    assert ("flair missing" in told["C"].left_out) == (layout in ("nnunet", "msd"))
    assert (told["A"].state, told["B"].state, told["B"].author) == ("came with the images", "final", "anna")
    with (tmp_path / "out" / "provenance.csv").open(newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["A", "B", "C"]
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())[1]["content"] == told["B"].content


def test_brats_has_its_own_values_and_nibabel_reads_them(studies: Path, tmp_path: Path) -> None:
    export(FolderStore(studies, BRATS), BRATS, LAYOUTS["brats"](), tmp_path / "out", Wish())
    values = np.unique(np.asarray(nib.load(tmp_path / "out/B/B_seg.nii.gz").dataobj))
    assert set(values.tolist()) == {0, 1, 2, 4}


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize(
    ("ids", "values"), [("BraTS-PED-0000{}-000", (1, 2, 4)), ("BraTS-GLI-0000{}-000", (1, 2, 3))], ids=["ped", "gli"]
)
def test_ids_that_stand_for_values_of_their_own_keep_their_classes(
    tmp_path: Path, layout: str, ids: str, values: tuple[int, ...]
) -> None:
    for number in (1, 2):
        name = ids.format(number)
        brain(tmp_path / "studies" / name, prefix=f"{name}_")
        save(tmp_path / "studies" / name / f"{name}_seg.nii.gz", lesion(values))
    export(FolderStore(tmp_path / "studies", BRATS), BRATS, LAYOUTS[layout](), tmp_path / "out", Wish())
    before, after = (FolderStore(tmp_path / place, BRATS).cases() for place in ("studies", "out"))
    assert len(after) == 2
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(read_case_label(other, BRATS).voxels, read_case_label(one, BRATS).voxels)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_test_set_and_the_visits_of_a_patient_stay_what_they_are(tmp_path: Path, layout: str) -> None:
    names = ["P01_2020-01-01", "P01_2021-01-01", "P02", "T03"]
    for name in names:
        part = "Ts" if name == "T03" else "Tr"
        for channel in range(len(BRATS.modalities)):
            save(tmp_path / f"studies/images{part}/{name}_{channel:04d}.nii.gz", tissue(700 + channel))
        save(tmp_path / f"studies/labels{part}/{name}.nii.gz", lesion())
    told = {
        "channel_names": dict(enumerate(BRATS.modality_names)),
        "labels": {"background": 0, **{label.name: label.value for label in BRATS.labels}},
        "file_ending": ".nii.gz",
    }
    (tmp_path / "studies" / "dataset.json").write_text(json.dumps(told))
    before = FolderStore(tmp_path / "studies", BRATS)
    assert [case.id for case in before.cases() if case.held_out] == ["T03"]
    rows = export(before, BRATS, LAYOUTS[layout](), tmp_path / "out", Wish())
    assert [(row.patient, row.held_out) for row in rows] == [(name[:3], name == "T03") for name in names]
    after = FolderStore(tmp_path / "out", BRATS).cases()
    patients = [case.patient_id.removeprefix("sub-") for case in after if not case.held_out]
    assert patients == ["P01", "P01", "P02"]
    held_out = [case.id for case in after if case.held_out]
    assert held_out == (["T03"] if layout in ("nnunet", "msd") else [])
    assert ("it is of the test set" in rows[-1].left_out) == (not held_out)


class Examinations(FolderStore):
    """Cases as an archive has them: a study each, patients with names."""

    def cases(self) -> list[Case]:
        patients = {"A": "DOE^JANE", "B": "ROE^RICHARD", "C": "DOE^JANE"}
        return [
            replace(case, study="1.2.3", patient=patients[case.id]) for case in super().cases() if case.id in patients
        ]


@pytest.mark.parametrize("layout", ["brats", "bids"])
def test_names_of_an_archives_cases_tell_visits_and_no_names(studies: Path, tmp_path: Path, layout: str) -> None:
    rows = export(Examinations(studies, BRATS), BRATS, LAYOUTS[layout](), tmp_path / "out", Wish())
    assert [row.name for row in rows] == ["case0001_tp1", "case0002", "case0001_tp2"]
    after = FolderStore(tmp_path / "out", BRATS).cases()
    assert [case.patient_id.removeprefix("sub-") for case in after] == ["case0001", "case0001", "case0002"]
    assert "DOE" not in (tmp_path / "out" / "provenance.json").read_text()


def test_patients_that_only_a_datalist_names_are_told_apart_and_not_named(tmp_path: Path) -> None:
    """And what becomes one name in BIDS is refused for the second of them."""
    patients = {"X1": "张伟", "X2": "李娜", "X3": "MRN 4711 Müller", "X4": "MRN 4711 Müller", "X-1": "X-1"}
    entries = []
    for name, patient in patients.items():
        brain(tmp_path / name, lesion())
        images = {modality: f"{name}/{modality}.nii.gz" for modality in BRATS.modality_names}
        entries.append({"id": name, "patient": patient, "image": images, "label": f"{name}/label.nii.gz"})
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    source = open_studies(str(tmp_path / "list.json"), BRATS)
    rows = {row.case: row for row in export(source, BRATS, LAYOUTS["bids"](), tmp_path / "out", Wish(anonymous=True))}
    after = {case.id: case.patient_id for case in FolderStore(tmp_path / "out", BRATS).cases()}
    assert sorted(after) == ["sub-X1", "sub-X2", "sub-patient0004_ses-X3", "sub-patient0004_ses-X4"]
    assert len(set(after.values())) == 3
    assert "that of another case or patient" in rows["X-1"].left_out + rows["X1"].left_out
    assert "4711" not in (tmp_path / "out" / "provenance.json").read_text()


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_the_history_of_a_patient_with_several_visits_comes_back(tmp_path: Path, layout: str) -> None:
    for number, name in enumerate(("P01_2020-01-01", "P01_2021-01-01"), start=1):
        brain(tmp_path / "studies" / name)
        keep(FolderStore(tmp_path / "studies", BRATS), name, save(tmp_path / "l.nii.gz", lesion()), author=f"a{number}")
    export(FolderStore(tmp_path / "studies", BRATS), BRATS, LAYOUTS[layout](), tmp_path / "out", Wish())
    told = [said for _, said in bring_back(tmp_path / "out", FolderStore(tmp_path / "out", BRATS), BRATS)]
    assert [said.rpartition(", ")[2] for said in told] == ["by a1", "by a2"]
    # a table of before patients were told in it
    path = tmp_path / "out" / "provenance.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([{key: row[key] for key in row if key not in ("patient", "held_out")} for row in rows]))
    assert len(list(bring_back(path, FolderStore(tmp_path / "out", BRATS), BRATS))) == 2


def test_an_image_on_the_labels_grid_shows_the_same_place(tmp_path: Path) -> None:
    """A bright asymmetric block, on a grid of its own, comes out where it lies in space."""
    case = brain(tmp_path / "studies" / "A", lesion())
    affine = oblique((2.0, 2.5, 3.5))
    grid_shape = (24, 20, 16)
    voxels = np.zeros(grid_shape, np.float32)
    voxels[6:12, 4:8, 4:8] = 1000
    write_image(case / "t2.nii.gz", Volume(voxels, affine))
    source = FolderStore(tmp_path / "studies", BRATS)
    export(source, BRATS, LAYOUTS["nnunet"](), tmp_path / "out", Wish())
    channel = BRATS.modality_names.index("t2")
    moved = read_image(FolderStore(tmp_path / "out", BRATS).case("A").images["t2"])
    assert (tmp_path / "out" / "imagesTr" / f"A_{channel:04d}.nii.gz").is_file()
    bright = np.argwhere(moved.voxels > 500)
    places = bright @ moved.affine[:3, :3].T + moved.affine[:3, 3]
    back = (places - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    assert len(bright) >= 8
    assert ((back >= (5, 3, 3)) & (back <= (12.5, 8.5, 8.5))).all()
    assert moved.voxels.shape == SHAPE


def far_away(studies: Path, case: str, modality: str) -> None:
    """Move an image to where the case's others are not."""
    affine = oblique()
    affine[:3, 3] += 400
    save(studies / case / f"{modality}.nii.gz", tissue(700), affine)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_an_image_that_check_refuses_is_not_exported(studies: Path, tmp_path: Path, layout: str) -> None:
    far_away(studies, "B", "flair")
    rows = export(FolderStore(studies, BRATS), BRATS, LAYOUTS[layout](), tmp_path / "out", Wish())
    told = {row.case: row for row in rows}["B"]
    if LAYOUTS[layout].whole:
        assert "flair (it does not overlap t1ce in space" in told.left_out
        assert not list((tmp_path / "out").rglob("*B*.nii.gz"))
    else:
        assert told.without.startswith("flair: it does not overlap t1ce in space")
        assert not list((tmp_path / "out").rglob("*B*flair.nii.gz"))
        assert list((tmp_path / "out").rglob("*B*t1ce.nii.gz"))


def test_only_what_was_approved_without_names(studies: Path, tmp_path: Path) -> None:
    source = FolderStore(studies, BRATS)
    source.decide(Decision(case="B", label="final-0001", state=State.REVIEWED, by="rita", at=now()))
    rows = export(source, BRATS, LAYOUTS["brats"](), tmp_path / "out", Wish(reviewed=True, anonymous=True, link=True))
    assert [row.case for row in rows if not row.left_out] == ["A", "B"]
    assert "final-0001 is not reviewed" in rows[2].left_out
    assert "anna" not in (tmp_path / "out" / "provenance.csv").read_text()
    inside = tmp_path / "out" / "A" / "A_t1.nii.gz"
    assert inside.samefile(studies / "A" / "t1.nii.gz")


def test_nothing_is_overwritten_or_half_written(studies: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    source = FolderStore(studies, BRATS)
    with pytest.raises(StudiesError, match="expected a folder that is not there yet"):
        export(source, BRATS, LAYOUTS["msd"](), tmp_path / "there", Wish())
    only_d = tmp_path / "only"
    brain(only_d / "D")
    with pytest.raises(StudiesError, match="expected final labels to export, got none"):
        export(FolderStore(only_d, BRATS), BRATS, LAYOUTS["msd"](), tmp_path / "out", Wish())
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["only", "studies", "there"]


def test_the_command_says_what_it_left_out(studies: Path, tmp_path: Path) -> None:
    ask = ["labels", "export", str(tmp_path / "out"), "--studies", str(studies), "--task", "brats_mr", "--to"]
    answer = CliRunner().invoke(app, [*ask, "nnunet"])
    assert answer.exit_code == 1
    assert "C is left out: flair missing" in answer.output
    assert "B: t2 resampled onto the label's grid" in answer.output
    assert "2 cases written" in answer.output
    wrong = CliRunner().invoke(app, [*ask, "docx"])
    assert "expected one of" in str(wrong.exception)
    refused = CliRunner().invoke(app, [*ask, "rtstruct"])
    assert "expected a DICOM archive" in str(refused.exception)


def test_the_other_commands_of_labels(studies: Path, tmp_path: Path) -> None:
    def ask(*words: str) -> str:
        answer = CliRunner().invoke(app, ["labels", *words, "--studies", str(studies), "--task", "brats_mr"])
        assert answer.exit_code == 0, (answer.output, answer.exception)
        return answer.output

    keep(FolderStore(studies, BRATS), "B", save(tmp_path / "b2.nii.gz", lesion((2, 3))), author="ben")
    listed = json.loads(ask("list", "--json"))
    assert [(row["case"], row["label"], row["state"]) for row in listed] == [
        ("B", "final-0001", "final"),
        ("B", "final-0002", "final"),
        ("C", "final-0001", "final"),
    ]
    assert "anna" in ask("list", "--case", "B")
    told = json.loads(ask("diff", "B", "final-0002", "final-0001", "--json", "--picture", str(tmp_path / "d.png")))
    assert told[BRATS.label_values[1]]["voxels"] == 4
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")
    assert "final-0002 is rejected" in ask("reject", "B", "final-0002", "--by", "rita", "--comment", "no rim")
    assert "final-0003 repeats final-0001" in ask("restore", "B", "final-0001", "--by", "rita")
    assert "final-0003 is reviewed" in ask("approve", "B", "final-0003", "--by", "carl")
    assert "final-0001 is withdrawn" in ask("withdraw", "C", "final-0001")
    stats = json.loads(ask("stats", "--json"))
    assert (stats["cases"], stats["labelled"], stats["reviewed"]) == (4, 2, 2)
    assert stats["people"]["anna"] == 1
    assert "2 of 4 cases have a label" in ask("stats")
    grid = read_grid(FolderStore(studies, BRATS).case("B").images["t1"])
    assert grid.same_as(label_of(studies, "B").grid)


@pytest.mark.parametrize("layout", ["nnunet", "bids"])
def test_the_table_of_a_data_set_brings_the_history_along(studies: Path, tmp_path: Path, layout: str) -> None:
    source = FolderStore(studies, BRATS)
    (label,) = [found.entry for found in source.history("B")]
    source.decide(Decision(case="B", label=label.label, state=State.REVIEWED, by="rita", at=now()))
    export(source, BRATS, LAYOUTS[layout](), tmp_path / "out", Wish())
    name = "sub-B" if layout == "bids" else "B"
    words = ["--studies", str(tmp_path / "out"), "--task", "brats_mr"]
    answer = CliRunner().invoke(app, ["labels", "import", str(tmp_path / "out"), *words])
    assert answer.exit_code == 0, answer.output
    assert f"{name}: final-0001" in answer.output
    again = FolderStore(tmp_path / "out", BRATS)
    (brought,) = again.history(name)
    assert (brought.entry.author, brought.state) == ("anna", State.REVIEWED)
    assert label.label in brought.entry.comment
    assert label.saved.isoformat() in brought.entry.comment
    np.testing.assert_array_equal(label_of(tmp_path / "out", name).voxels, label_of(studies, "B").voxels)
    answer = CliRunner().invoke(app, ["labels", "import", str(tmp_path / "out"), *words])
    assert f"{name}: has a history here already" in answer.output
    shown = CliRunner().invoke(app, ["labels", "show", name, brought.entry.label, *words])
    assert json.loads(shown.output)["decisions"][0]["state"] == "reviewed"


def test_a_label_that_is_not_the_table_s_gets_no_history(studies: Path, tmp_path: Path) -> None:
    export(FolderStore(studies, BRATS), BRATS, LAYOUTS["nnunet"](), tmp_path / "out", Wish())
    table = tmp_path / "out" / "provenance.json"
    table.write_text(table.read_text().replace('"volume_ml": "{', '"volume_ml": "{\\"necrotic\\": 7.0, '))
    words = ["--studies", str(tmp_path / "out"), "--task", "brats_mr"]
    answer = CliRunner().invoke(app, ["labels", "import", str(table), *words])
    assert answer.exit_code == 1
    assert "B: not taken: the table tells of a label of" in answer.output
    assert FolderStore(tmp_path / "out", BRATS).history("B") == []
    with pytest.raises(StudiesError, match=r"expected the provenance\.json"):
        list(bring_back(studies, FolderStore(tmp_path / "out", BRATS), BRATS))
