"""An Orthanc to try things with: what it holds is lost when it stops."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Annotated

import typer

from tests.harness.orthanc import Orthanc
from tests.harness.server import ServerError


def main(
    folder: Annotated[Path, typer.Argument(help="folder with DICOM files, at any depth")],
    port: Annotated[int, typer.Argument(help="0 takes a free one")] = 8042,
) -> None:
    """Serve a folder of DICOM files over DICOMweb until Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing is left running
    if not folder.is_dir():
        sys.exit(f"pacs: expected a folder of DICOM files, got {folder}, which is none")
    with tempfile.TemporaryDirectory(prefix="maml-pacs-") as home:
        try:
            with Orthanc(Path(home), port) as orthanc:
                count = orthanc.add_folder(folder)
                print(f"{count} DICOM objects are served at {orthanc.dicomweb}; Ctrl-C stops it and forgets them")
                print(f"next: scripts/serve --studies {orthanc.dicomweb}", flush=True)
                threading.Event().wait()
        except ServerError as error:
            sys.exit(f"pacs: {error}")
        except KeyboardInterrupt:
            print("\nstopped")


if __name__ == "__main__":
    typer.run(main)
