"""The command line: one module a command in `commands/`."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer
from rich.console import Console

from maml_app.commands.archive import import_labels
from maml_app.commands.check import check
from maml_app.commands.common import out
from maml_app.commands.correct import correct
from maml_app.commands.evaluate import evaluate
from maml_app.commands.infer import infer
from maml_app.commands.labels import labels_app
from maml_app.commands.models import models_app
from maml_app.commands.phantom import phantom
from maml_app.commands.plan import plan
from maml_app.commands.queue import queue
from maml_app.commands.serve import serve, serving_help
from maml_app.commands.simulate import simulate
from maml_app.commands.train import train
from maml_app.commands.users import users_app
from maml_app.errors import MamlError
from maml_app.version import VERSION

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"maml-app {VERSION}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and stop")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print errors only")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="also print what goes on inside")] = False,
) -> None:
    """Multi-modal segmentation of cases: serve studies to annotators, check them, train, evaluate, segment."""
    out.quiet = quiet
    if verbose:
        logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(name)s: %(message)s")


app.command(
    epilog="Settings, each as --conf NAME VALUE or as the environment variable MAML_NAME:\n\n" + serving_help(),
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(serve)
for command in (check, plan, train, evaluate, infer, queue, simulate, correct, phantom):
    app.command()(command)
app.command("import-labels")(import_labels)
app.add_typer(labels_app, name="labels")
app.add_typer(models_app, name="models")
app.add_typer(users_app, name="users")


def main() -> None:
    """Run the command; a user's mistake is one message and exit code 2."""
    try:
        app(prog_name="maml-app")
    except MamlError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
