"""The port to where cases live. Adapters are in `stores`; tasks and learning see only this."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from maml_app.cases.case import Case, LabelRef


class CaseSource(Protocol):
    """Cases by id, and their labels, which are only ever added."""

    def cases(self) -> list[Case]:
        """All cases, sorted by id, each with its labels."""

    def case(self, case_id: str) -> Case:
        """One case.

        Raises:
            CaseError: there is no such case.
        """

    def resolve(self, image_id: str) -> tuple[Case, str]:
        """The case and the modality that an image id asks for: `CASE` (its reference) or `CASE@MODALITY`.

        Raises:
            CaseError: there is no such case, or the case lacks the modality.
        """

    def save_label(self, case_id: str, file: Path, tag: str, info: dict[str, Any]) -> LabelRef:
        """Check a label map and store it as a new version; earlier ones stay.

        Raises:
            LabelError: its values are not the task's, or its grid is none of the case's.
        """

    def info(self, case_id: str) -> dict[str, Any]:
        """Notes about a case, as clients left them (empty if none)."""

    def update_info(self, case_id: str, info: dict[str, Any]) -> None:
        """Merge notes into what is kept about a case."""
