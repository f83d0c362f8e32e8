"""The layouts of NIfTI data sets that other programs read. Every one of them is read by this program too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from maml_app.cases.spec import OWN, TaskSpec
from maml_app.cases.values import stated_convention
from maml_app.disk import write_atomically, write_text
from maml_app.errors import LabelError
from maml_app.imaging.files import write_label
from maml_app.imaging.labels import check_convention, from_task_values
from maml_app.labelling.export.dataset import Item, Layout, write_json


class NnUnet:
    """nnU-Net: imagesTr/NAME_0000.nii.gz, labelsTr/NAME.nii.gz, dataset.json. One grid a case, no channel missing.

    The test set lies in imagesTs and labelsTs.
    """

    whole = tests = True

    def write(self, item: Item, folder: Path) -> list[str]:
        resampled = []
        for channel, modality in enumerate(item.spec.modality_names):
            path = folder / f"images{_set(item)}" / f"{item.name}_{channel:04d}.nii.gz"
            resampled += [modality] if item.write_image(modality, path, on_label=True) else []
        write_label(folder / f"labels{_set(item)}" / f"{item.name}.nii.gz", item.label.voxels, item.label.affine)
        return resampled

    def finish(self, names: Sequence[str], tests: Sequence[str], spec: TaskSpec, folder: Path) -> None:
        content = {
            "name": spec.name,
            "description": spec.title,
            "channel_names": {str(channel): name for channel, name in enumerate(spec.modality_names)},
            "labels": {"background": 0, **{label.name: label.value for label in spec.labels}},
            "numTraining": len(names),
            "file_ending": ".nii.gz",
        }
        write_json(folder / "dataset.json", content)


class Decathlon:
    """The Medical Segmentation Decathlon: imagesTr/NAME.nii.gz with a channel a modality, labelsTr, dataset.json.

    The test set lies in imagesTs and labelsTs.
    """

    whole = tests = True

    def write(self, item: Item, folder: Path) -> list[str]:
        volumes = [item.on_label(modality).voxels for modality in item.spec.modality_names]
        image = nib.Nifti1Image(np.stack(volumes, axis=-1).astype(np.float32), item.label.affine)
        path = folder / f"images{_set(item)}" / f"{item.name}.nii.gz"
        write_atomically(path, lambda part: nib.save(image, part))
        write_label(folder / f"labels{_set(item)}" / f"{item.name}.nii.gz", item.label.voxels, item.label.affine)
        return list(item.spec.modality_names)

    def finish(self, names: Sequence[str], tests: Sequence[str], spec: TaskSpec, folder: Path) -> None:
        files = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
        content = {
            "name": spec.name,
            "description": spec.title,
            "tensorImageSize": "4D",
            "modality": {str(channel): name for channel, name in enumerate(spec.modality_names)},
            "labels": {"0": "background", **{str(label.value): label.name for label in spec.labels}},
            "numTraining": len(names),
            "numTest": len(tests),
            "training": files,
            "test": [f"./imagesTs/{name}.nii.gz" for name in tests],
        }
        write_json(folder / "dataset.json", content)


class Brats:
    """A folder a case, as BraTS: NAME/NAME_t1ce.nii.gz, NAME/NAME_seg.nii.gz; images keep their own grids.

    Labels have the values that the case's id stands for, as those of BraTS-PED; else of BraTS 2018 where the task knows
    that convention, else the task's own.
    """

    whole = tests = False

    def write(self, item: Item, folder: Path) -> list[str]:
        known = "brats2018" if "brats2018" in item.spec.writable else OWN
        convention = stated_convention(item.spec, item.name) or known
        check_convention(item.spec, convention)
        for modality in item.case.images:
            item.write_image(modality, folder / item.name / f"{item.name}_{modality}.nii.gz")
        voxels = from_task_values(item.label.voxels, item.spec, convention)
        write_label(folder / item.name / f"{item.name}_seg.nii.gz", voxels, item.label.affine)
        return []

    def finish(self, names: Sequence[str], tests: Sequence[str], spec: TaskSpec, folder: Path) -> None:
        """Nothing describes the whole."""


class Bids:
    """BIDS: sub-PATIENT/anat/sub-PATIENT_MODALITY.nii.gz, and the label as a derivative with a dseg.tsv.

    What a case's name has besides the patient is its session: sub-PATIENT/ses-REST. A modality keeps its name in the
    task as suffix; `participants.tsv` lists the patients.
    """

    whole = tests = False

    def __init__(self) -> None:
        self.patients: dict[str, str] = {}  # by subject

    def write(self, item: Item, folder: Path) -> list[str]:
        entities = bids_entities(item.patient, item.name)
        place, name = Path(*entities), "_".join(entities)
        taken = self.patients.setdefault(entities[0], item.patient) != item.patient
        if taken or (folder / place / "anat").exists():
            raise LabelError(f"its name as BIDS, {name}, is that of another case or patient too; rename one")
        for modality in item.case.images:
            item.write_image(modality, folder / place / "anat" / f"{name}_{modality}.nii.gz")
        home = folder / "derivatives" / "labels" / place / "anat"
        write_label(home / f"{name}_desc-lesion_dseg.nii.gz", item.label.voxels, item.label.affine)
        return []

    def finish(self, names: Sequence[str], tests: Sequence[str], spec: TaskSpec, folder: Path) -> None:
        described = {"Name": spec.title, "BIDSVersion": "1.9.0", "GeneratedBy": [{"Name": "maml_app"}]}
        write_json(folder / "dataset_description.json", {**described, "DatasetType": "raw"})
        write_json(folder / "derivatives/labels/dataset_description.json", {**described, "DatasetType": "derivative"})
        rows = [f"{label.value}\t{label.name}" for label in spec.labels]
        write_text(folder / "derivatives/labels/dseg.tsv", "\n".join(["index\tname", *rows]) + "\n")
        subjects = sorted(path.name for path in folder.glob("sub-*"))
        write_text(folder / "participants.tsv", "\n".join(["participant_id", *subjects]) + "\n")


def bids_entities(patient: str, name: str) -> list[str]:
    """A case in BIDS: its subject, and its session, which is what its name has besides the patient.

    Letters and digits are all that BIDS allows; of what has none the name of the case is the subject.
    """
    subject, session = (re.sub(r"[^A-Za-z0-9]", "", text) for text in (patient, name.removeprefix(patient)))
    return [f"sub-{subject}", *([f"ses-{session}"] if session else [])] if subject else [f"sub-{session}"]


def _set(item: Item) -> str:
    return "Ts" if item.case.held_out else "Tr"


LAYOUTS: dict[str, type[Layout]] = {"nnunet": NnUnet, "msd": Decathlon, "brats": Brats, "bids": Bids}
