"""Logging in: a page with a cookie for the viewer, and tokens as MONAI Label's clients ask for them."""

from __future__ import annotations

from html import escape
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from monailabel.config import settings as monai
from monailabel.endpoints import login as monai_login

from maml_app.server.house import Here
from maml_app.server.identity import COOKIE, SESSION_S, Looking

router = APIRouter()

Short = Annotated[str, Form(max_length=1000)]
Next = Annotated[str, Query(max_length=8000)]  # an address of OHIF names studies and series

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Log in</title>
<body style="font:16px sans-serif;background:#090c29;color:white;display:grid;place-items:center;min-height:95vh">
<form method="post" action="/login?next={next}" style="display:grid;gap:12px;width:280px">
<strong>{title}</strong><span role="alert">{told}</span>
<label>User <input name="username" autocomplete="username" autofocus required></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<button>Log in</button></form></body></html>"""


def _within(path: str) -> str:
    """Where to go after the login: a path of this server, never another one's address."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"


def _page(house: Here, path: str, told: str = "", status: int = 200) -> HTMLResponse:
    shown = PAGE.format(next=quote(_within(path)), title=escape(house.app.name), told=escape(told))
    return HTMLResponse(shown, status)


@router.get("/login", include_in_schema=False)
def login_page(house: Here, next: Next = "/ohif/") -> Response:
    """The page to log in on."""
    if not house.identity.local:
        return RedirectResponse(_within(next), 303) if not house.identity.asks else _page(house, next, "", 404)
    return _page(house, next)


@router.post("/login", include_in_schema=False)
def login(request: Request, house: Here, username: Short, password: Short, next: Next = "/ohif/") -> Response:
    """Log in for the viewer: a cookie, and on to `next`."""
    token = house.identity.token(request, username, password)
    if token is None:
        return _page(house, next, "User or password is wrong.", 401)
    answer = RedirectResponse(_within(next), 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, token, max_age=SESSION_S, httponly=True, samesite="lax", secure=secure)
    return answer


@router.post("/logout", include_in_schema=False)
def logout() -> Response:
    """Forget the cookie."""
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE)
    return answer


@router.get("/auth/")
def enabled(house: Here) -> dict[str, Any]:
    """Whether clients have to log in."""
    openid = {"client_id": monai.MONAI_LABEL_AUTH_CLIENT_ID, "realm": monai.MONAI_LABEL_AUTH_REALM_URI}
    return {"enabled": house.identity.asks, **({} if house.identity.local else openid)}


@router.post("/auth/token")
def token(request: Request, house: Here, username: Short = "", password: Short = "") -> dict[str, Any]:
    """A bearer token for a user and a password."""
    if not house.identity.asks:
        return {"access_token": None, "token_type": None}
    if not house.identity.local:
        answer = monai_login.requests.post(
            monai_login.token_uri(),
            data={
                "client_id": monai.MONAI_LABEL_AUTH_CLIENT_ID,
                "username": username,
                "password": password,
                "grant_type": "password",
            },
            timeout=monai.MONAI_LABEL_AUTH_TIMEOUT,
        )
        if not answer.ok:
            raise HTTPException(401, "User or password is wrong.")
        return dict(answer.json())
    made = house.identity.token(request, username, password)
    if made is None:
        raise HTTPException(401, "User or password is wrong.")
    return {"access_token": made, "token_type": "bearer"}


@router.get("/auth/token/valid")
def valid(user: Looking) -> dict[str, Any]:
    """Who the token is of."""
    return {"username": user.name, "roles": [user.role.value]}
