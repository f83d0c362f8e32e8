"""How studies lie: one module a layout, each from files to cases. docs/studies.md has the rules.

| layout        | example                                                             | module      |
|---------------|---------------------------------------------------------------------|-------------|
| folders, flat | `case/ct.nii.gz`, `case/case_t1ce.nii.gz`, `X_t1ce.nii.gz`          | folders.py  |
| nnU-Net, MSD  | `dataset.json`, `imagesTr/X_0000.nii.gz`, `labelsTr/X.nii.gz`       | datasets.py |
| BIDS          | `sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz`                         | bids.py     |
| datalist      | a JSON file: `{"training": [{"image": [...] or {...}, "label": …}]}`| datalist.py |
"""

from __future__ import annotations

from pathlib import Path

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import StudiesError
from maml_app.stores.bids import is_bids, read_bids
from maml_app.stores.datalist import read_datalist
from maml_app.stores.datasets import read_dataset
from maml_app.stores.folders import read_folders
from maml_app.stores.gather import Gathering, Listing
from maml_app.stores.walk import LABEL_STORE, nifti_below

__all__ = ["LABEL_STORE", "Listing", "read_cases", "read_studies"]


def read_studies(studies: Path, spec: TaskSpec) -> Listing:
    """All cases under a folder, or in a datalist JSON, and what lies there and is part of none.

    Raises:
        StudiesError: the location does not exist, or its dataset.json or datalist cannot be used.
    """
    if studies.is_file():
        gathering = Gathering(studies.parent, spec)
        read_datalist(studies, gathering)
        return gathering.listing()
    if not studies.is_dir():
        raise StudiesError(f"{studies}: expected a folder of studies or a datalist JSON, got neither")
    gathering = Gathering(studies, spec)
    files = nifti_below(studies, gathering)
    if (studies / "dataset.json").is_file():
        read_dataset(files, gathering)
    else:
        read_folders(read_bids(files, gathering) if is_bids(studies) else files, gathering)
    return gathering.listing()


def read_cases(studies: Path, spec: TaskSpec) -> list[Case]:
    """The cases of `read_studies`; errors as there."""
    return list(read_studies(studies, spec).cases)
