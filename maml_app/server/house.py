"""What the routes work with, made once when the server starts."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request
from monailabel.interfaces.app import MONAILabelApp

from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec
from maml_app.correcting.nninteractive import NnInteractive
from maml_app.server.device import Device
from maml_app.server.identity import Identity
from maml_app.settings import Settings
from maml_app.versions.registry import ModelRegistry


@dataclass(frozen=True)
class House:
    """The app behind the door, and what its requests share.

    Attributes:
        archive: address of the DICOMweb archive; '' for a folder.
        guest: another server that may answer clicks, if there is one.
        saving, choosing: held while it is written what a series is taken for, and while a case is given to someone.
        decoding: so many labels are in memory at a time.
    """

    app: MONAILabelApp
    source: CaseSource
    spec: TaskSpec
    registry: ModelRegistry
    settings: Settings
    identity: Identity
    device: Device
    archive: str = ""
    guest: NnInteractive | None = None
    saving: threading.Lock = field(default_factory=threading.Lock)
    choosing: threading.Lock = field(default_factory=threading.Lock)
    decoding: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(2))

    @property
    def store(self) -> Any:
        """MONAI Label's datastore."""
        return self.app.datastore()


def _house(request: Request) -> House:
    house: House = request.app.state.house
    return house


Here = Annotated[House, Depends(_house)]
