"""Files and folders whole or not at all, and what killed processes leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maml_app.disk import FORSAKEN_S, sweep, workspace, write_atomically, write_text
from tests.harness.server import ROOT

HOLD = """
import sys, time
from pathlib import Path
from maml_app.disk import workspace, write_atomically
def hold(part):
    part.write_text("half")
    with workspace(Path(sys.argv[1])) as work:
        (work / "file").write_text("half")
        print("ready", flush=True)
        time.sleep(100)
write_atomically(Path(sys.argv[1]) / "whole", hold)
"""


def test_what_a_killed_process_left_goes_and_what_a_running_one_holds_stays(tmp_path: Path) -> None:
    def litter() -> list[Path]:
        return sorted(tmp_path.glob(".*"))

    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    held = litter()
    assert len(held) == 2
    for path in held:  # however long ago
        os.utime(path, (0, 0))
    sweep(tmp_path)
    assert litter() == held
    process.send_signal(signal.SIGKILL)
    process.wait()
    with workspace(tmp_path) as work:
        assert litter() == [work]
    assert litter() == []


def test_what_may_have_been_made_this_moment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".new-x").mkdir()
    (tmp_path / ".part-y").write_text("")
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    for path in tmp_path.iterdir():
        os.utime(path, (0, time.time() - FORSAKEN_S - 1))
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "first")

    def fail(part: Path) -> None:
        part.write_text("second")
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        write_atomically(tmp_path / "file", fail)
    assert (tmp_path / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "file", lambda part: None, replace=False)
