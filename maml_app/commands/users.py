"""`python -m maml_app users`: who may use a server that asks for a login."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from maml_app.accounts import Accounts, Role
from maml_app.errors import SettingsError

users_app = typer.Typer(help="Accounts of a server (--conf users FILE).", no_args_is_help=True)
out = Console()

File = Annotated[Path, typer.Option(help="the accounts; the server's --conf users", envvar="MAML_USERS")]
Name = Annotated[str, typer.Argument(help="the user's name; it is stored with each label that the user saves")]


@users_app.command()
def add(
    name: Name,
    file: File,
    role: Annotated[Role, typer.Option(help="each may do what those before it may")] = Role.ANNOTATOR,
    password: Annotated[
        str, typer.Option(prompt=True, hide_input=True, confirmation_prompt=True, envvar="MAML_PASSWORD")
    ] = "",
) -> None:
    """Add a user, or give one a new password and role."""
    Accounts(file).add(name, password, role)
    out.print(f"{name}: {role.value}", markup=False, highlight=False)


@users_app.command("list")
def list_users(file: File) -> None:
    """The users and their roles."""
    users = Accounts(file).all()
    if not users:
        raise SettingsError(f"{file}: there are no accounts yet; add one with `python -m maml_app users add NAME`")
    for name, account in sorted(users.items()):
        out.print(f"{name}: {account.role.value}", markup=False, highlight=False)


@users_app.command()
def remove(name: Name, file: File) -> None:
    """Remove a user; a running server lets them out at once."""
    Accounts(file).remove(name)
    out.print(f"{name}: removed", markup=False, highlight=False)
