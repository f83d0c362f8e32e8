"""Accounts of a server: names, roles, and passwords as Argon2id hashes (RFC 9106), in one JSON file."""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from pydantic import BaseModel, ConfigDict, ValidationError

from maml_app.disk import write_text
from maml_app.errors import SettingsError

NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
SHORTEST, LONGEST = 10, 1000  # characters of a password


class Role(StrEnum):
    """What someone may do; each role may do what those before it may."""

    USER = "user"  # look, and have segmented
    ANNOTATOR = "annotator"  # save labels
    REVIEWER = "reviewer"  # start and stop training
    ADMIN = "admin"  # read the log

    def covers(self, other: Role) -> bool:
        """Whether someone of this role may do what `other` may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


class Account(BaseModel):
    """What is kept of one user."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    password: str
    role: Role

    @property
    def mark(self) -> str:
        """Changes with the password, so that what was signed before can be refused."""
        return hashlib.sha256(self.password.encode()).hexdigest()[:16]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    users: dict[str, Account] = {}


class Accounts:
    """The accounts in a file. A running server follows its changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hasher = PasswordHasher()
        self._nobody = self._hasher.hash("nobody has this password")
        self._read: tuple[int, dict[str, Account]] = (0, {})

    def all(self) -> dict[str, Account]:
        """Accounts by name; empty where there is no file.

        Raises:
            SettingsError: the file cannot be read as accounts.
        """
        try:
            changed = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise SettingsError(f"{self.path}: the accounts could not be read ({error.strerror})") from None
        if self._read[0] != changed:
            try:
                content = _File.model_validate_json(self.path.read_bytes())
            except (OSError, ValidationError) as error:
                raise SettingsError(
                    f"{self.path}: expected accounts made by `python -m maml_app users add`, got something else "
                    f"({type(error).__name__})"
                ) from None
            self._read = (changed, content.users)
        return self._read[1]

    def verify(self, name: str, password: str) -> Account | None:
        """The account of a name, if the password is its own. An unknown name takes as long as a wrong password."""
        account = self.all().get(name)
        try:
            self._hasher.verify(account.password if account else self._nobody, password[:LONGEST])
        except (Argon2Error, InvalidHashError):
            return None
        return account

    def add(self, name: str, password: str, role: Role) -> None:
        """Add an account, or give one a new password and role.

        Raises:
            SettingsError: a name or password that may not be, or a file that cannot be written.
        """
        if not NAME.fullmatch(name):
            raise SettingsError(f"user name: expected up to 64 letters, digits, '.', '_', '@' or '-', got {name!r}")
        if not SHORTEST <= len(password) <= LONGEST:
            raise SettingsError(f"password: expected {SHORTEST} to {LONGEST} characters, got {len(password)}")
        self._write({**self.all(), name: Account(password=self._hasher.hash(password), role=role)})

    def remove(self, name: str) -> None:
        """Remove an account; who is logged in by it is out at once.

        Raises:
            SettingsError: there is none of that name, or the file cannot be written.
        """
        users = dict(self.all())
        if name not in users:
            raise SettingsError(f"{self.path}: expected a user of {sorted(users)}, got {name!r}")
        del users[name]
        self._write(users)

    def _write(self, users: dict[str, Account]) -> None:
        try:
            write_text(self.path, _File(users=users).model_dump_json(indent=1), mode=0o600)
        except OSError as error:
            raise SettingsError(f"{self.path}: the accounts could not be written ({error.strerror})") from None
