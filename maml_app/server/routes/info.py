"""What the server is and does, and its log."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import PlainTextResponse, Response
from monailabel.config import settings as monai

from maml_app.server.house import Here
from maml_app.server.identity import Looking, Running

router = APIRouter()


@router.get("/info/")
def info(house: Here, user: Looking) -> dict[str, Any]:
    """The app as MONAI Label's clients read it."""
    found: dict[str, Any] = house.app.info()
    return found


@router.get("/logs/", response_class=PlainTextResponse)
def log(house: Here, user: Running, lines: Annotated[int, Query(ge=1, le=1000)] = 300) -> Response:
    """The end of the server's log."""
    file = Path(monai.MONAI_LABEL_APP_DIR) / "logs" / "app.log"
    try:
        with file.open(encoding="utf-8", errors="replace") as text:
            return PlainTextResponse("".join(deque(text, lines)))
    except OSError:
        raise HTTPException(404, "There is no log file.") from None
