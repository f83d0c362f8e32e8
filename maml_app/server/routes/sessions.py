"""One image that is in no study, sent to be segmented (3D Slicer does so with what is on its screen)."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, HTTPException, Query, UploadFile

from maml_app.server.forms import SessionId
from maml_app.server.house import Here, House
from maml_app.server.identity import Looking
from maml_app.server.scratch import Scratch, extension_of, keep
from maml_app.server.uploads import check_size

router = APIRouter()

MOST = 100  # sessions at a time


@router.put("/session/")
def create(
    house: Here,
    user: Looking,
    scratch: Scratch,
    files: Annotated[list[UploadFile], File(description="one image, NIfTI or NRRD")],
    expiry: Annotated[int, Query(ge=0, le=7 * 86400, description="seconds; 0 for an hour")] = 0,
    uncompress: bool = False,
) -> dict[str, Any]:
    """Send an image. Returns the session's id, by which `POST /infer/` finds the image."""
    if uncompress or len(files) != 1:
        raise HTTPException(400, f"expected one image, not packed, got {len(files)} files, uncompress={uncompress}")
    sessions = _sessions(house)
    sessions.remove_expired()
    root = Path(sessions.store_path)
    if root.is_dir() and sum(1 for _ in root.iterdir()) >= MOST:
        raise HTTPException(503, f"{MOST} sessions are open; end some of them first.", {"Retry-After": "300"})
    file = keep(files[0].file, scratch, extension_of(files[0].filename))
    check_size(file, house.settings.upload_mvox)
    number = str(uuid.uuid4())
    _, info = sessions.add_session(str(file), expiry, session_id=number)
    return {"session_id": number, "session_info": _told(info)}


def _sessions(house: House) -> Any:
    sessions = house.app.sessions()
    if sessions is None:
        raise HTTPException(406, "Sessions are switched off (MONAI_LABEL_SESSIONS).")
    return sessions


def _found(house: House, session_id: str) -> Any:
    try:
        info = _sessions(house).get_session(session_id) if session_id else None
    except (OSError, json.JSONDecodeError):
        info = None
    if info is None:
        raise HTTPException(404, f"There is no session {session_id!r}; it may have expired.")
    return info


def _told(info: Any) -> dict[str, Any]:
    return {"name": info.name, "expiry": info.expiry, "create_ts": info.create_ts}


def session_image(house: House, session_id: str) -> Path:
    """The image of a session.

    Raises:
        HTTPException: 404 there is no such session.
    """
    return Path(_found(house, session_id).image)


@router.get("/session/{session_id}")
def session(house: Here, user: Looking, session_id: SessionId) -> dict[str, Any]:
    """What is known of a session."""
    return _told(_found(house, session_id))


@router.delete("/session/{session_id}")
def end(house: Here, user: Looking, session_id: SessionId) -> dict[str, Any]:
    """Forget a session and its image."""
    told = _told(_found(house, session_id))
    _sessions(house).remove_session(session_id)
    return told
