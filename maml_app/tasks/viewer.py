"""Doors for the OHIF viewer that MONAI Label serves: our extension, the way to the archive, and saving a label.

MONAI Label's own routes are left as they are; these stand before them.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import requests
from fastapi import APIRouter, Depends, FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from monailabel.config import settings
from monailabel.endpoints import ohif
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.datastore import Datastore

from maml_app.cases.case import FINAL
from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec
from maml_app.choosing.store import ScoreStore
from maml_app.errors import CaseError, LabelError
from maml_app.imaging.files import read_grid, write_label
from maml_app.tasks.answers import answering
from maml_app.versions.registry import ModelRegistry

logger = logging.getLogger(__name__)

EXTENSION = Path(__file__).resolve().parents[1] / "viewer" / "extension.js"
# hop-by-hop fields (RFC 9110, 7.6.1), and those that requests sets itself
NOT_PASSED_ON = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "host", "content-length"}
NOT_PASSED_ON |= {"authorization", "cookie", "proxy-authorization", "content-encoding", "accept-encoding"}

Scope = MutableMapping[str, Any]
Handler = Callable[[Scope, Any, Any], Awaitable[None]]
Annotator = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]


def add_routes(
    server: FastAPI,
    source: CaseSource,
    spec: TaskSpec,
    store: Datastore,
    archive: requests.Session,
    registry: ModelRegistry,
) -> None:
    """Put our routes before MONAI Label's."""
    router = APIRouter()

    @router.get("/ohif/app-config.js", include_in_schema=False)
    def app_config() -> Response:
        stock = Path(ohif.__file__).with_name("static") / "ohif" / "app-config.js"
        shown = {
            "model": spec.name,
            "title": spec.title,
            "modalities": spec.modality_names,
            "labels": [{"name": one.name, "value": one.value, "colour": one.colour} for one in spec.labels],
        }
        parts = [stock.read_text(encoding="utf-8"), f"window.maml = {json.dumps(shown)};", EXTENSION.read_text("utf-8")]
        headers = {"Cache-Control": "no-cache"}
        return Response("\n".join(parts), media_type="text/javascript", headers=headers)

    @router.get("/maml/study/{study}")
    def study_info(study: str, user: Annotator) -> dict[str, Any]:
        """The series of a study's case by modality, and the one to show first."""
        with answering():
            case = source.case(study)
            return {
                "case": case.id,
                "series": case.series,
                "reference": case.series[case.frame_modality(spec.preference)],
            }

    @router.get("/maml/picture/{case_id}")
    def picture(case_id: str, user: Annotator) -> Response:
        """The slice on which the experts disagree most, as the newest model that looked at the case sees it."""
        with answering():
            scores = ScoreStore(registry.scores)
            for version in reversed(registry.history()):
                path = scores.picture(version, case_id)
                if path:
                    return Response(path.read_bytes(), media_type="image/png")
            raise CaseError(f"case {case_id}: no model has looked at it yet")

    @router.get("/maml/series/{series}")
    def series_info(series: str, user: Annotator) -> dict[str, Any]:
        """What the case of a series holds: modalities there and missing, and the slices of this series in order."""
        with answering():
            case, asked = source.resolve(series)
            return {
                "case": case.id,
                "modality": asked,
                "modalities": list(case.images),
                "missing": list(case.missing(spec.modality_names)),
                "told": [*(f"{name} cannot be used: {why}" for name, why in case.left_out.items()), *case.notes],
                "labelled": case.label is not None,
                "slices": source.slices(case, asked),
            }

    @router.put("/maml/series/{series}/label")
    def save_label(
        series: str,
        user: Annotator,
        voxels: Annotated[UploadFile, File(description="uint8 label values, column fastest, then row, then slice")],
        slices: Annotated[str, Form(description="JSON list of the slices, in the order of the voxels")],
        params: Annotated[str, Form(description="JSON: model_version, author")] = "{}",
    ) -> dict[str, Any]:
        """Store a label drawn on a series as the case's newest final label."""
        with answering():
            case, asked = source.resolve(series)
            label = _in_order(voxels.file.read(), _names(slices), source.slices(case, asked), case.grids[asked])
            grid = read_grid(case.grids[asked])
            info = {**_mapping(params), **({"author": user.username} if settings.MONAI_LABEL_AUTH_ENABLE else {})}
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "label.nii.gz"
                write_label(file, label, grid.affine)
                stored = store.save_label(series, str(file), FINAL, info)
        volume_ml = {one.name: round(float((label == one.value).sum()) * grid.voxel_ml, 2) for one in spec.labels}
        return {"label": stored, "series": series, "modality": asked, "volume_ml": volume_ml}

    def pass_on(request: Request, path: str, body: bytes) -> Response:
        """A request to the archive, as it came, query included (MONAI Label's own proxy drops it)."""
        headers = {key: value for key, value in request.headers.items() if key.lower() not in NOT_PASSED_ON}
        url = f"{settings.MONAI_LABEL_STUDIES.rstrip('/')}/{path}"
        try:
            answer = archive.request(
                request.method, url, params=request.query_params.multi_items(), headers=headers, data=body or None
            )
        except requests.RequestException as error:
            logger.warning("archive: %s", error)
            raise HTTPException(502, f"{settings.MONAI_LABEL_STUDIES}: the archive cannot be reached") from None
        kept = {key: value for key, value in answer.headers.items() if key.lower() not in NOT_PASSED_ON}
        return Response(answer.content, answer.status_code, kept)

    @router.api_route("/proxy/dicom/{path:path}", methods=["GET", "POST"], include_in_schema=False)
    async def proxy(request: Request, path: str, user: Annotator) -> Response:
        operation, _, rest = path.partition("/")
        target = rest if operation in ("qido", "wado", "stow") else path
        return await run_in_threadpool(pass_on, request, target, await request.body())

    server.router.routes[:0] = router.routes


def _names(text: str) -> list[str]:
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LabelError(f"expected slices as a JSON list of names, got {text[:60]!r}")
    return names


def _mapping(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise LabelError(f"expected params as a JSON mapping, got {text[:60]!r}")
    return content


def _in_order(content: bytes, sent: list[str], slices: list[str], image: Any) -> Any:
    """Voxels of slices in the viewer's order as (X, Y, Z) on the image's grid.

    Raises:
        LabelError: other slices than the series has, or another number of voxels.
    """
    x, y, z = read_grid(image).shape
    if sorted(sent) != sorted(slices) or len(set(sent)) != len(sent):
        raise LabelError(
            f"expected a label on the {len(slices)} slices of its series, got {len(sent)} slices, "
            f"{len(set(sent) & set(slices))} of them of this series"
        )
    if len(content) != x * y * z:
        raise LabelError(f"expected {x * y * z} voxels ({x} x {y} x {z}), got {len(content)}")
    planes = np.frombuffer(content, np.uint8).reshape(z, y, x)
    place = {name: index for index, name in enumerate(sent)}
    return planes[[place[name] for name in slices]].transpose(2, 1, 0)


class ThisMachineOnly:
    """ASGI: answers this machine only, unless the server was told on which address to listen."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        client = (scope.get("client") or ("", 0))[0]
        if scope["type"] == "http" and client and not _is_here(client):
            text = "This server answers its own machine only. To open it, start it with --host ADDRESS."
            await JSONResponse({"detail": text}, 403)(scope, receive, send)
            return
        await self.handler(scope, receive, send)


def _is_here(client: str) -> bool:
    return client in ("::1", "localhost", "testclient") or client.startswith(("127.", "::ffff:127."))


def guard(server: FastAPI, arguments: list[str] | None = None) -> None:
    """Keep a server that was started without --host from answering other machines: it listens on all addresses."""
    given = sys.argv if arguments is None else arguments
    named = any(one in ("--host", "-i") or one.startswith(("--host=", "-i")) for one in given)
    if not named and server.middleware_stack is not None:
        server.middleware_stack = ThisMachineOnly(server.middleware_stack)
