"""The application that answers: our routes behind guard, limits and journal; MONAI Label's own are not in it."""

from __future__ import annotations

import logging
import sys

from fastapi import FastAPI
from monailabel.config import settings as monai
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount
from starlette.types import ASGIApp

from maml_app.accounts import Accounts
from maml_app.errors import SettingsError
from maml_app.server import proxy
from maml_app.server.answers import add_handlers
from maml_app.server.guard import Guard, Policy, is_here, policy
from maml_app.server.house import House
from maml_app.server.identity import ByAccount, Everyone, Identity, OpenId
from maml_app.server.journal import Journal
from maml_app.server.limits import Limits
from maml_app.server.routes import (
    campaign,
    choosing,
    drawing,
    history,
    infer,
    info,
    labels,
    login,
    sessions,
    training,
    viewer,
)
from maml_app.settings import Settings

logger = logging.getLogger(__name__)

ROUTERS = (info, campaign, login, labels, history, drawing, infer, sessions, choosing, training, viewer, proxy)


def identity(settings: Settings) -> Identity:
    """How this server knows who asks.

    Raises:
        SettingsError: accounts that cannot be read, or none in the file.
    """
    if monai.MONAI_LABEL_AUTH_ENABLE:
        return OpenId()
    if settings.users is None:
        return Everyone()
    accounts = Accounts(settings.users)
    if not accounts.all():
        raise SettingsError(
            f"--conf users {settings.users}: there are no accounts; add one with `python -m maml_app users add NAME "
            f"--file {settings.users}`"
        )
    return ByAccount(accounts)


def admission(settings: Settings, who: Identity, arguments: list[str] | None = None) -> Policy:
    """From where requests may come.

    Raises:
        SettingsError: the server is to listen to other machines while nobody has to log in.
    """
    host = _host(sys.argv if arguments is None else arguments)
    wide = bool(host) and not is_here(host)
    if wide and not who.asks and not settings.open:
        raise SettingsError(
            f"--host {host}: other machines could do all, since nobody has to log in. Give the server accounts "
            "(`python -m maml_app users add NAME --file FILE`, then --conf users FILE), or start it with --conf "
            "open yes"
        )
    if settings.open and not who.asks:
        logger.warning("--conf open yes: everyone who reaches this server may read, label and train, without a login")
    origins = [origin.strip() for origin in settings.origins.split(",") if origin.strip()]
    origins += [str(origin).rstrip("/") for origin in monai.MONAI_LABEL_CORS_ORIGINS]
    return policy(origins, who.asks or settings.open, host)


def _host(arguments: list[str]) -> str:
    """The address of `--host ADDRESS`, `--host=ADDRESS`, `-i ADDRESS` or `-iADDRESS`; '' if there is none."""
    for place, argument in enumerate(arguments):
        if argument in ("--host", "-i"):
            return arguments[place + 1] if place + 1 < len(arguments) else ""
        for start in ("--host=", "-i"):
            if argument.startswith(start):
                return argument.removeprefix(start)
    return ""


def application(house: House, admitted: Policy) -> FastAPI:
    """Our application. What it is asked passes, in this order, journal, guard, limits, and the routes."""
    origins = sorted(admitted.origins)
    server = FastAPI(
        title=house.app.name,
        description=house.app.description,
        docs_url=None,
        redoc_url=None,
        middleware=[
            Middleware(Journal, shared=bool(origins)),
            Middleware(Guard, policy=admitted),
            Middleware(
                CORSMiddleware, allow_origins=origins, allow_credentials=True, allow_methods=["*"], allow_headers=["*"]
            ),
            Middleware(Limits, upload_mb=house.settings.upload_mb),
        ],
    )
    server.state.house = house
    server.state.archive_client = proxy.archive_client()
    add_handlers(server)
    server.state.routers = [module.router for module in ROUTERS]
    for router in server.state.routers:
        server.include_router(router)
    return server


def put_before(monai_label: FastAPI, ours: ASGIApp) -> None:
    """Let our application answer everything that MONAI Label's server is asked.

    MONAI Label imports an app only when its own application starts up, so this builds that application anew, before its
    first request: with one route, ours, and without the middleware that lets pages of every origin ask.
    """
    monai_label.user_middleware.clear()
    monai_label.router.routes[:] = [Mount("/", app=ours)]
    monai_label.middleware_stack = monai_label.build_middleware_stack()
