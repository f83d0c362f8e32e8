"""Mistakes as HTTP answers: one message, no traceback."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException

from maml_app.errors import ArchiveError, CaseError, GridError, ImageError, LabelError, MamlError, ModelError

logger = logging.getLogger(__name__)


@contextmanager
def answering() -> Iterator[None]:
    """Turn a MamlError inside the block into an HTTP error that carries its message.

    404 an unknown case, 409 no model to answer with, 502 an archive that does not answer, 400 anything else that is
    wrong with the request or its data.
    """
    try:
        yield
    except MamlError as error:
        logger.warning("%s: %s", type(error).__name__, error)
        status = 400
        if isinstance(error, ModelError):
            status = 409
        elif isinstance(error, ArchiveError):
            status = 502
        elif isinstance(error, CaseError) and not isinstance(error, (ImageError, GridError, LabelError)):
            status = 404
        raise HTTPException(status_code=status, detail=str(error)) from None
