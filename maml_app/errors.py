"""What can go wrong, as types. A message names what was expected, what came, where, and what to do.

MamlError                  any mistake that a user can mend; shown without a traceback
├── SettingsError          a setting that does not exist or does not fit
├── TaskSpecError          a task.yaml that does not validate, or no task that fits
├── StudiesError           a studies folder or datalist whose layout cannot be understood
│   └── ArchiveError       a DICOM archive that cannot be reached, or does not do what it was asked
│       └── ObjectError    one series or object that it does not give; it gives others
├── CaseError              a case or image id that does not exist, or one case that cannot be used
│   ├── ImageError         a file that is not a readable 3D volume
│   ├── GridError          geometry that cannot be right: a singular affine, no overlap
│   └── LabelError         a label map with other values, or on another grid, than the task allows
├── ModelError             a checkpoint that is missing, damaged or of another task
└── TrainingError          training that cannot start or go on
"""

from __future__ import annotations


class MamlError(Exception):
    """Base of every error that is told to the user as one message."""


class SettingsError(MamlError):
    """A `--conf` or an environment variable cannot be understood."""


class TaskSpecError(MamlError):
    """A task.yaml is wrong, or the task to serve cannot be told."""


class StudiesError(MamlError):
    """The studies location cannot be read as cases."""


class ArchiveError(StudiesError):
    """A DICOM archive cannot be reached, refuses, or answers nonsense."""


class ObjectError(ArchiveError):
    """A DICOM archive does not give one series or object, or gives nonsense for it."""


class CaseError(MamlError):
    """A case is unknown or cannot be used."""


class ImageError(CaseError):
    """An image file cannot be read as a 3D volume."""


class GridError(CaseError):
    """The geometry of a volume, or between volumes, cannot be right."""


class LabelError(CaseError):
    """A label map does not fit the task or the case."""


class ModelError(MamlError):
    """A model is missing, damaged, or belongs to another task."""


class TrainingError(MamlError):
    """Training cannot start or go on."""
