"""`maml-app serve`: the MONAI Label server with this app, without a folder of the app's to look for."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from maml_app.commands.common import Studies
from maml_app.disk import write_text
from maml_app.errors import StudiesError
from maml_app.lean import lean_path
from maml_app.settings import Settings

MAIN = "from maml_app.app import MamlApp  # noqa: F401 - the class that MONAI Label looks for\n"


def serving_help() -> str:
    """All settings, a paragraph each, as typer sets an epilog."""
    return Settings.help().replace("\n", "\n\n")


serve_app = typer.Typer(pretty_exceptions_enable=False)


@serve_app.command(
    epilog="Settings, each as --conf NAME VALUE or as the environment variable MAML_NAME:\n\n" + serving_help(),
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(
    context: typer.Context,
    studies: Studies,
    home: Annotated[
        Path, typer.Option(help="folder for models, logs and what else the server writes; made where it is not there")
    ] = Path("maml-home"),
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
) -> None:
    """Serve studies to OHIF, 3D Slicer and other clients of MONAI Label.

    Further options, such as --conf NAME VALUE or --ssl_keyfile FILE, go to `monailabel start_server`.
    """
    given = context.args
    settings = {value: given[place + 2] for place, value in enumerate(given[1:-1]) if given[place] == "--conf"}
    Settings.read(settings)  # a mistake is told at once, and not by a server that is half up
    if not (home / "main.py").is_file():
        if home.is_dir() and any(home.iterdir()):
            raise StudiesError(f"--home {home}: expected a new folder or one that served before, got other files in it")
        try:
            write_text(home / "main.py", MAIN)
        except OSError as error:
            raise StudiesError(f"--home {home}: expected a folder that can be written to ({error})") from None
    program = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(home), "--studies", studies]
    sys.stdout.flush()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded
    os.environ["PYTHONPATH"] = lean_path()
    os.execv(sys.executable, [*program, "--host", host, "--port", str(port), *given])
