"""Mistakes as HTTP answers: one message, no traceback."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException

from maml_app.errors import MamlError

logger = logging.getLogger(__name__)


@contextmanager
def answering() -> Iterator[None]:
    """Turn a MamlError inside the block into an HTTP error that carries its message and its status."""
    try:
        yield
    except MamlError as error:
        logger.warning("%s: %s", type(error).__name__, error)
        raise HTTPException(status_code=error.status, detail=str(error)) from None
