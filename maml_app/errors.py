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
│       └── ConflictError  a label that would replace another person's unseen: a person has to choose
├── GuestError             another server that was asked to segment, and cannot be reached or refuses
├── ModelError             a checkpoint that is missing, damaged or of another task
└── TrainingError          training that cannot start or go on
"""

from __future__ import annotations

from collections.abc import Mapping


class MamlError(Exception):
    """Base of every error that is told to the user as one message.

    Attributes:
        status: the HTTP status by which a server tells it (RFC 9110, 15).
    """

    status = 400


class SettingsError(MamlError):
    """A `--conf` or an environment variable cannot be understood."""


class TaskSpecError(MamlError):
    """A task.yaml is wrong, or the task to serve cannot be told."""


class StudiesError(MamlError):
    """The studies location cannot be read as cases."""


class ArchiveError(StudiesError):
    """A DICOM archive cannot be reached, refuses, or answers nonsense."""

    status = 502


class ObjectError(ArchiveError):
    """A DICOM archive does not give one series or object, or gives nonsense for it."""


class CaseError(MamlError):
    """A case is unknown or cannot be used."""

    status = 404


class ImageError(CaseError):
    """An image file cannot be read as a 3D volume."""

    status = 400


class GridError(CaseError):
    """The geometry of a volume, or between volumes, cannot be right."""

    status = 400


class LabelError(CaseError):
    """A label map does not fit the task or the case."""

    status = 400


class ConflictError(LabelError):
    """A label is kept and does not count until a person has chosen between it and another one.

    Attributes:
        details: what there is to choose from, for a client.
    """

    status = 409

    def __init__(self, message: str, details: Mapping[str, object]) -> None:
        super().__init__(message)
        self.details = dict(details)


class GuestError(MamlError):
    """Another server that was to answer in our place cannot be reached, refuses, or is busy."""

    status = 502


class ModelError(MamlError):
    """A model is missing, damaged, or belongs to another task."""

    status = 409


class TrainingError(MamlError):
    """Training cannot start or go on."""
