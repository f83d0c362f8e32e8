"""Which case next."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException

from maml_app.accounts import Role
from maml_app.server.forms import Name, NextParams
from maml_app.server.house import Here
from maml_app.server.identity import Looking

router = APIRouter()


@router.post("/activelearning/{strategy}")
def next_case(house: Here, user: Looking, strategy: Name, params: NextParams | None = None) -> dict[str, Any]:
    """A case to label, with the reason; {} if none waits. It, as each of a batch, is kept from others for a while."""
    params = params or NextParams()
    if strategy not in house.app._strategies:
        raise HTTPException(404, f"expected a strategy of {sorted(house.app._strategies)}, got {strategy!r}")
    if params.skip and not user.role.covers(Role.ANNOTATOR):
        raise HTTPException(403, f"{user.name} is {user.role.value}: to skip a case needs the role annotator.")
    client = user.name or params.client_id
    request = {"strategy": strategy, "client_id": client, "count": params.count, "skip": params.skip}
    with house.choosing:  # or two annotators who ask at once are given the same case
        chosen: dict[str, Any] = house.app.next_sample(request)
        if not chosen:
            return {}
        # a note may be called anything, `id` and `path` too: what was chosen goes before it
        return {**house.store.get_image_info(chosen["id"]), **chosen}
