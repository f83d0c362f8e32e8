"""The command line: one module a command, or a group of them, in `commands/`, imported when it is asked for."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from typing import Annotated, cast

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from maml_app.commands.common import out
from maml_app.errors import MamlError
from maml_app.lean import spare_imports
from maml_app.version import VERSION

logger = logging.getLogger(__name__)

# command -> its module and function, or typer of several commands; what the list of commands says of it
COMMANDS = {
    "serve": ("serve", "serve_app", "Serve studies to OHIF, 3D Slicer and other clients of MONAI Label."),
    "check": ("check", "check", "Each case, and what is wrong with it."),
    "plan": ("plan", "plan", "A task.yaml fitted to labelled studies."),
    "train": ("train", "train", "One model from labelled studies, without a server."),
    "evaluate": ("evaluate", "evaluate", "A model scored on labelled studies."),
    "infer": ("infer", "infer", "Label maps of cases, without a server."),
    "queue": ("queue", "queue", "The waiting cases in a strategy's order, and why."),
    "simulate": ("simulate", "simulate", "Annotation played on labelled cases."),
    "correct": ("correct", "correct", "What clicks are worth, played on labelled cases."),
    "phantom": ("phantom", "phantom", "Synthetic cases."),
    "import-labels": ("archive", "import_labels", "SEG and RTSTRUCT objects of an archive as labels."),
    "labels": ("labels", "labels_app", "The labels: history, reviews, numbers, data sets made of them, a backup."),
    "models": ("models", "models_app", "The versions that a server keeps."),
    "users": ("users", "users_app", "Accounts of a server (--conf users FILE)."),
}


class Commands(TyperGroup):
    """Imports a command's module once it is run: torch alone takes seconds."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Later | None:  # type: ignore[override]
        return Later(cmd_name) if cmd_name in COMMANDS else None


class Later(TyperCommand):
    """A command of which the name and the words are known."""

    def __init__(self, name: str) -> None:
        super().__init__(name, help=COMMANDS[name][2])

    def real(self) -> TyperCommand | TyperGroup:
        """The command itself."""
        module, name, _ = COMMANDS[str(self.name)]
        found = getattr(import_module(f"maml_app.commands.{module}"), name)
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(pretty_exceptions_enable=False)
            alone.command(self.name)(found)
            found = alone
        command = typer.main.get_command(found)
        assert isinstance(command, TyperCommand | TyperGroup)
        command.name = self.name
        return command

    def make_context(  # type: ignore[override]
        self, info_name: str | None, args: list[str], parent: typer.Context | None = None, **extra: object
    ) -> typer.Context:
        return cast(typer.Context, self.real().make_context(info_name, args, parent, **extra))


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


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


def main() -> None:
    """Run the command; a user's mistake, or what the machine does not give, is one message and exit code 2."""
    spare_imports()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded; see machine.settle_threads
    try:
        app(prog_name="maml-app")
    except MamlError as error:
        told = str(error)
    except OSError as error:
        logger.debug("where it came from", exc_info=True)
        told = f"a file or a connection could not be used: {error} (maml-app --verbose … tells where)"
    else:
        return
    Console(stderr=True).print(f"error: {told}", style="red", markup=False, highlight=False)
    sys.exit(2)


if __name__ == "__main__":
    main()
