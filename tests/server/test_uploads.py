"""What a sent label is told before anything of it is decoded."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from maml_app.cases.case import Case, FileRef
from maml_app.errors import LabelError
from maml_app.server.uploads import check_on_grid
from tests.builders import oblique, save


def test_a_label_on_an_image_that_is_placed_twice_is_told_why(tmp_path: Path) -> None:
    t1 = save(tmp_path / "t1.nii.gz", np.zeros((9, 8, 7), np.float32), oblique())
    image = nib.Nifti1Image(np.zeros((5, 6, 7), np.float32), oblique())
    moved = oblique()
    moved[0, 3] += 40
    image.set_qform(oblique(), code=1)
    image.set_sform(moved, code=2)
    nib.save(image, tmp_path / "t1ce.nii.gz")
    label = save(tmp_path / "label.nii.gz", np.zeros((5, 6, 7), np.uint8), moved)
    case = Case("A", {"t1": FileRef(t1), "t1ce": FileRef(tmp_path / "t1ce.nii.gz")})
    with pytest.raises(
        LabelError, match=r"t1 9x8x7 .*got one of 5 x 6 x 7 voxels; a label cannot lie on t1ce: .*40\.0 mm"
    ):
        check_on_grid(label, case, "t1ce")
