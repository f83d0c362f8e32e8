"""What people decided about labels, a file a decision: `<root>/<case>/decision-0001.json`. Only ever added to."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from pydantic import ValidationError

from maml_app.cases.case import check_id
from maml_app.cases.history import Decision
from maml_app.disk import write_atomically
from maml_app.errors import StudiesError

logger = logging.getLogger(__name__)


class Decisions:
    """The decisions below a folder; a damaged file is passed over with a warning."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def of(self, case: str) -> dict[int, Decision]:
        """A case's decisions by number."""
        found = {}
        for path in sorted((self.root / check_id(case)).glob("decision-*.json")):
            name = re.fullmatch(r"decision-(\d{4,})\.json", path.name)
            if not name:
                continue
            try:
                found[int(name[1])] = Decision.model_validate_json(path.read_bytes())
            except (OSError, ValidationError) as error:
                logger.warning("%s: no decision that can be read (%s)", path, str(error).splitlines()[0])
        return found

    def add(self, decision: Decision) -> None:
        """Keep a decision.

        Raises:
            StudiesError: it cannot be written.
        """
        number = max(self.of(decision.case), default=0) + 1

        def fill(part: Path) -> None:
            part.write_text(decision.model_dump_json(indent=1), encoding="utf-8")

        while True:
            path = self.root / decision.case / f"decision-{number:04d}.json"
            try:
                write_atomically(path, fill, replace=False)
                return
            except FileExistsError:  # decided by someone else in this very moment
                number += 1
            except OSError as error:
                raise StudiesError(f"{path}: the decision could not be stored ({error})") from None
