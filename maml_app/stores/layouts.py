"""How studies lie: one module a layout, each from files to cases. docs/studies.md has the rules.

| layout        | example                                                             | module      |
|---------------|---------------------------------------------------------------------|-------------|
| folders, flat | `case/ct.nii.gz`, `case/case_t1ce.nii.gz`, `X_t1ce.nii.gz`          | folders.py  |
| nnU-Net, MSD  | `dataset.json`, `imagesTr/X_0000.nii.gz`, `labelsTr/X.nii.gz`       | datasets.py |
| BIDS          | `sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz`                         | bids.py     |
| datalist      | a JSON file: `{"training": [{"image": [...] or {...}, "label": …}]}`| datalist.py |
"""

from __future__ import annotations

import threading
from pathlib import Path

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import StudiesError
from maml_app.stores.bids import is_bids, read_bids
from maml_app.stores.datalist import read_datalist
from maml_app.stores.datasets import read_dataset
from maml_app.stores.folders import read_folders
from maml_app.stores.gather import Gathering, Listing, Looked
from maml_app.stores.walk import LABEL_STORE, nifti_below

__all__ = ["LABEL_STORE", "Listing", "Listings", "read_cases", "read_studies"]


def read_studies(studies: Path, spec: TaskSpec) -> Listing:
    """All cases under a folder, or in a datalist JSON, and what lies there and is part of none.

    Raises:
        StudiesError: the location does not exist, or its dataset.json or datalist cannot be used.
    """
    return _gather(studies, spec).listing()


def _gather(studies: Path, spec: TaskSpec) -> Gathering:
    if studies.is_file():
        gathering = Gathering(studies.parent, spec)
        gathering.looked.at(studies)
        read_datalist(studies, gathering)
        return gathering
    if not studies.is_dir():
        raise StudiesError(f"{studies}: expected a folder of studies or a datalist JSON, got neither")
    gathering = Gathering(studies, spec)
    gathering.looked.at(studies / "dataset.json")
    files = nifti_below(studies, gathering)
    if (studies / "dataset.json").is_file():
        read_dataset(files, gathering)
    else:
        read_folders(read_bids(files, gathering) if is_bids(studies) else files, gathering)
    return gathering


class Listings:
    """The listing of one location, made anew only when what lies there has changed. For any number of threads."""

    def __init__(self, studies: Path, spec: TaskSpec) -> None:
        self.studies = studies
        self.spec = spec
        self._lock = threading.Lock()
        self._looked: Looked | None = None
        self._listing = Listing((), ())
        self._cases: dict[str, Case] = {}

    def now(self) -> Listing:
        """What `read_studies` would tell; errors as there."""
        with self._lock:
            if self._looked is None or self._looked.changed():
                self._looked = None
                gathering = _gather(self.studies, self.spec)
                self._listing = gathering.listing()
                self._cases = {case.id: case for case in self._listing.cases}
                self._looked = gathering.looked
            return self._listing

    def case(self, case_id: str) -> Case | None:
        """One case of `now`."""
        self.now()
        return self._cases.get(case_id)


def read_cases(studies: Path, spec: TaskSpec) -> list[Case]:
    """The cases of `read_studies`; errors as there."""
    return list(read_studies(studies, spec).cases)
