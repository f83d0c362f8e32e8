"""A real Orthanc with DICOMweb as a child process, for the demo, the tests and for trying things out."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import time
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite

from tests.harness.server import ServerError, free_port

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Orthanc:
    """Orthanc on the loopback address, its database in `folder`; stopped on leaving the `with` block.

    Args:
        folder: where it keeps what it holds, its configuration and its log.
        users: user -> password; without any, everyone on this machine may ask.
    """

    def __init__(self, folder: Path, port: int = 0, users: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.dicomweb = f"{self.url}/dicom-web"
        self.log = folder / "orthanc.log"
        self.session = requests.Session()
        if users:
            self.session.auth = next(iter(users.items()))
        self._settings: dict[str, Any] = {
            "Name": "MAML",
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "HttpPort": self.port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": bool(users),
            "RegisteredUsers": users or {},
            "DicomServerEnabled": False,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, or start again on the same database and port."""
        if not (program := shutil.which("Orthanc")) or not PLUGIN.exists():
            raise ServerError("Orthanc and its DICOMweb plugin are not installed; run scripts/install-tools")
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self.folder / "orthanc.json"
        settings.write_text(json.dumps(self._settings), encoding="utf-8")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([program, str(settings)], stdout=log, stderr=log)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            try:
                if self.session.get(f"{self.url}/system", timeout=10).ok:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.2)
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
        raise ServerError("Orthanc did not start:\n" + "\n".join(lines))

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> Orthanc:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def add(self, images: Iterable[Dataset]) -> None:
        """Put DICOM objects into it, all at once."""
        together = io.BytesIO()
        with zipfile.ZipFile(together, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number, image in enumerate(images):
                buffer = io.BytesIO()
                dcmwrite(buffer, image, write_like_original=False)
                archive.writestr(str(number), buffer.getvalue())
        self.session.post(f"{self.url}/instances", data=together.getvalue(), timeout=600).raise_for_status()

    def add_folder(self, folder: Path) -> int:
        """Put all files below a folder into it, those that are DICOM; how many were."""
        count = 0
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            answer = self.session.post(f"{self.url}/instances", data=path.read_bytes(), timeout=60)
            count += answer.ok
        return count

    def clear(self) -> None:
        """Take everything out of it."""
        held = self.session.get(f"{self.url}/patients", timeout=60).json()
        deleted = self.session.post(f"{self.url}/tools/bulk-delete", json={"Resources": held}, timeout=60)
        deleted.raise_for_status()

    def delete_series(self, uid: str) -> None:
        for found in self.session.post(f"{self.url}/tools/lookup", data=uid, timeout=60).json():
            if found["Type"] == "Series":
                self.session.delete(f"{self.url}/series/{found['ID']}", timeout=60).raise_for_status()
