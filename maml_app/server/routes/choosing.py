"""Which case next."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, HTTPException

from maml_app.server.forms import Name, NextParams
from maml_app.server.house import Here
from maml_app.server.identity import Looking

router = APIRouter()


@router.post("/activelearning/{strategy}")
def next_case(house: Here, user: Looking, strategy: Name, params: NextParams | None = None) -> dict[str, Any]:
    """A case to label, with the reason; {} if none waits. It is not offered to others for a while."""
    params = params or NextParams()
    if strategy not in house.app._strategies:
        raise HTTPException(404, f"expected a strategy of {sorted(house.app._strategies)}, got {strategy!r}")
    client = user.name or params.client_id
    request = {"strategy": strategy, "client_id": client, "count": params.count, "skip": params.skip}
    with house.choosing:  # or two annotators who ask at once are given the same case
        chosen: dict[str, Any] = house.app.next_sample(request)
        if not chosen:
            return {}
        info = house.store.get_image_info(chosen["id"])
        given = info.get("strategy") if isinstance(info.get("strategy"), dict) else {}
        given = {**given, strategy: {"ts": int(time.time()), "client_id": client}}
        house.store.update_image_info(chosen["id"], {"strategy": given})
    return {**chosen, **info, "strategy": given}
