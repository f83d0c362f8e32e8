"""A real MONAI Label server as a child process, for the demo and the integration tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]


class ServerError(Exception):
    """The server did not come up; the message holds the end of its log."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`monailabel start_server`, stopped on leaving the `with` block.

    Args:
        studies: what to serve: a folder, a datalist or a DICOMweb address.
        log: file for everything the server prints.
        app: app folder, relative to the project.
        conf: `--conf` pairs.
        host: address to listen on; None leaves it to the server.
        ready: what is asked until it is answered.
        scoring: whether a process of its own looks at the cases at the start and after trainings.
    """

    def __init__(
        self,
        studies: Path | str,
        log: Path,
        app: str = "maml_app",
        port: int = 0,
        conf: dict[str, str] | None = None,
        host: str | None = "127.0.0.1",
        ready: str = "/info/",
        scoring: bool = True,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self.ready = ready
        self.scoring = scoring
        self._command = ["monailabel", "start_server", "--app", str(ROOT / app), "--studies"]
        self._command += [str(studies.resolve() if isinstance(studies, Path) else studies), "--port", str(self.port)]
        self._command += ["--host", host] if host else []
        for key, value in (conf or {}).items():
            self._command += ["--conf", key, value]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = {**os.environ, "PATH": path, "MONAI_LABEL_AUTO_UPDATE_SCORING": str(self.scoring)}
        with self.log.open("wb") as log:
            # a session of its own: stopping reaches a running training as well
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, start_new_session=True
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def _wait(self, seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self._process is not None
            if self._process.poll() is not None:
                raise ServerError(f"the server ended with code {self._process.returncode}:\n{self.tail()}")
            try:
                with urllib.request.urlopen(f"{self.url}{self.ready}", timeout=30):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        raise ServerError(f"the server did not answer within {seconds:.0f} s:\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def wait(self) -> int:
        """Wait until the server ends by itself; its exit code."""
        assert self._process is not None
        return self._process.wait()

    def kill(self) -> None:
        """End the server and all its processes at once, as a power cut would."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        if self._process is None:
            return
        for kind in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, kind)
                self._process.wait(timeout=15)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
