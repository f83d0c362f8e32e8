"""Who asks: nobody in particular, a user of the accounts file, or one of an OpenID provider; and what they may do.

A user of the accounts file shows a password (HTTP Basic), or a token that this server signed for one: as a bearer
(3D Slicer) or as a cookie (the viewer).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import Depends, HTTPException, Request
from itsdangerous import BadData, URLSafeTimedSerializer
from jwt import InvalidTokenError
from monailabel.config import settings as monai
from monailabel.endpoints.user.auth import from_token

from maml_app.accounts import Accounts, Role
from maml_app.server.tries import Tries

COOKIE = "maml_session"
SESSION_S = 12 * 3600
REMEMBERED_S = 300  # so long a password that was right is not hashed again


@dataclass(frozen=True)
class User:
    """Who asks. The name is '' where nobody has to log in."""

    name: str
    role: Role


class Identity(Protocol):
    """How a server knows who asks."""

    asks: bool  # whether anyone has to log in
    local: bool  # whether passwords are checked here

    def who(self, request: Request) -> User | None:
        """Who sent a request; None if it does not tell, or not rightly."""

    def token(self, request: Request, name: str, password: str) -> str | None:
        """What to show from now on instead of a password; None if the password is wrong."""


class Everyone:
    """No accounts: whoever reaches the server may do all."""

    asks = local = False

    def who(self, request: Request) -> User | None:
        return User("", Role.ADMIN)

    def token(self, request: Request, name: str, password: str) -> str | None:
        return None


class OpenId:
    """MONAI Label's own: bearer tokens of the provider in MONAI_LABEL_AUTH_REALM_URI, its roles made ours."""

    asks, local = True, False

    def who(self, request: Request) -> User | None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            return None
        try:
            found = from_token(token)
        except InvalidTokenError:
            return None
        names = {
            monai.MONAI_LABEL_AUTH_ROLE_ADMIN: Role.ADMIN,
            monai.MONAI_LABEL_AUTH_ROLE_REVIEWER: Role.REVIEWER,
            monai.MONAI_LABEL_AUTH_ROLE_ANNOTATOR: Role.ANNOTATOR,
            monai.MONAI_LABEL_AUTH_ROLE_USER: Role.USER,
        }
        roles = [role for name, role in names.items() if name in found.roles]
        return User(found.username, roles[0]) if roles else None

    def token(self, request: Request, name: str, password: str) -> str | None:
        return None


class ByAccount:
    """A file of accounts. What is signed is valid until the server ends, the password changes, or the day is over."""

    asks = local = True

    def __init__(self, accounts: Accounts) -> None:
        self.accounts = accounts
        self._key = secrets.token_bytes(32)
        self._signer = URLSafeTimedSerializer(self._key, salt="session")
        self._right: dict[bytes, float] = {}
        self._tries = Tries()
        self._turns: dict[bytes, threading.Lock] = {}
        self._hashing = threading.BoundedSemaphore(2)  # a hash takes 64 MB

    def who(self, request: Request) -> User | None:
        kind, _, shown = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            name, password = _basic(shown)
            return self._by_password(request, name, password)
        return self._by_token(shown if kind.lower() == "bearer" else request.cookies.get(COOKIE, ""))

    def token(self, request: Request, name: str, password: str) -> str | None:
        if self._by_password(request, name, password) is None:
            return None
        return str(self._signer.dumps([name, self.accounts.all()[name].mark]))

    def _by_token(self, token: str) -> User | None:
        try:
            name, mark = self._signer.loads(token, max_age=SESSION_S)
            account = self.accounts.all().get(name)
        except (BadData, ValueError, TypeError):
            return None
        return User(name, account.role) if account and account.mark == mark else None

    def _by_password(self, request: Request, name: str, password: str) -> User | None:
        account = self.accounts.all().get(name)
        shown = f"{name}\0{password}\0{account.password if account else ''}".encode()
        digest = hashlib.blake2b(shown, key=self._key).digest()
        with self._turn(digest):  # requests that come together with one password are one try
            if account and self._right.get(digest, 0) > time.monotonic():
                return User(name, account.role)
            begun = self._tries.begin(_client(request), name)
            with self._hashing:
                account = self.accounts.verify(name, password)
            if account is None:
                return None
            self._tries.right(begun)
            if len(self._right) > 1000:
                self._right.clear()
            self._right[digest] = time.monotonic() + REMEMBERED_S
            return User(name, account.role)

    def _turn(self, digest: bytes) -> threading.Lock:
        with self._hashing:
            if len(self._turns) > 1000:
                self._turns.clear()
            return self._turns.setdefault(digest, threading.Lock())


def _client(request: Request) -> str:
    return request.client.host if request.client else ""


def _basic(shown: str) -> tuple[str, str]:
    try:
        name, _, password = base64.b64decode(shown, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return name, password


def needs(role: Role) -> Callable[..., User]:
    """A dependency: the user, of at least this role; 401 or 403 else."""

    def allowed(request: Request) -> User:
        identity: Identity = request.app.state.house.identity
        user = identity.who(request)
        if user is None:
            # a browser would ask for the password in a box of its own; it has the login page
            ask = {} if "sec-fetch-mode" in request.headers else {"WWW-Authenticate": 'Basic realm="MAML"'}
            raise HTTPException(401, "Log in first: this server asks for a user and a password.", ask)
        request.state.user = user.name
        if not user.role.covers(role):
            raise HTTPException(403, f"{user.name} is {user.role.value}: this needs the role {role.value}.")
        return user

    allowed.role = role  # type: ignore[attr-defined] # what the list of open routes is checked against
    return allowed


def _needing(role: Role) -> Any:
    return Depends(needs(role))


Looking = Annotated[User, _needing(Role.USER)]
Drawing = Annotated[User, _needing(Role.ANNOTATOR)]
Leading = Annotated[User, _needing(Role.REVIEWER)]
Running = Annotated[User, _needing(Role.ADMIN)]
