"""The command line: one module a command in `commands/`."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from maml_app.commands.archive import import_labels
from maml_app.commands.check import check
from maml_app.commands.evaluate import evaluate
from maml_app.commands.infer import infer
from maml_app.commands.models import models_app
from maml_app.commands.phantom import phantom
from maml_app.commands.plan import plan
from maml_app.commands.queue import queue
from maml_app.commands.simulate import simulate
from maml_app.commands.train import train
from maml_app.commands.users import users_app
from maml_app.errors import MamlError

app = typer.Typer(
    help="Multi-modal segmentation of cases: check studies, train an ensemble, evaluate it, segment with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (check, plan, train, evaluate, infer, queue, simulate, phantom):
    app.command()(command)
app.command("import-labels")(import_labels)
app.add_typer(models_app, name="models")
app.add_typer(users_app, name="users")


def main() -> None:
    """Run the command; a user's mistake is one message and exit code 2."""
    try:
        app()
    except MamlError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
