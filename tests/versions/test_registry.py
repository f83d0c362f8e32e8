from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from maml_app.errors import ModelError
from maml_app.network.checkpoint import Checkpoint, load_checkpoint
from maml_app.network.ensemble import build_network
from maml_app.network.settings import Network
from maml_app.versions import registry as module
from maml_app.versions.registry import ModelRegistry
from tests.harness.server import ROOT

PLAN = Network(head="light", shared_decoder=False, channels=(2, 3), strides=((1, 1, 1), (2, 2, 2)))
CHECKPOINT = Checkpoint("toy", "abc", 2, 2, PLAN, (8, 8, 8))


def network(seed: int = 0):  # type: ignore[no-untyped-def]
    torch.manual_seed(seed)
    return build_network(2, 2, PLAN)


def test_versions_count_up_and_the_last_published_is_served(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "toy")
    assert registry.served() is None
    assert registry.versions() == []
    assert registry.publish(network(), CHECKPOINT, {"steps": 1}) == "v0001"
    assert registry.publish(network(), CHECKPOINT, {"steps": 2}) == "v0002"
    assert (registry.versions(), registry.served()) == (["v0001", "v0002"], "v0002")
    assert registry.report("v0002") == {"steps": 2}
    load_checkpoint(registry.path("v0001"), "toy", "abc", torch.device("cpu"))
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == ["served", "v0001", "v0002"]


def test_a_failed_publish_leaves_the_served_version_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = ModelRegistry(tmp_path)
    registry.publish(network(), CHECKPOINT, {})

    def full(*args: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(module, "save_checkpoint", full)
    with pytest.raises(ModelError, match="No space left on device"):
        registry.publish(network(), CHECKPOINT, {})
    assert registry.served() == "v0001"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["served", "v0001"]


def test_a_stored_version_waits_until_it_is_promoted_and_rollback_goes_back(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    registry.publish(network(), CHECKPOINT, {})
    assert registry.store(network(1), CHECKPOINT, {}) == "v0002"
    assert registry.served() == "v0001"
    registry.serve("v0002")
    registry.serve("v0002")  # twice changes nothing
    assert registry.history() == ["v0001", "v0002"]
    assert registry.rollback() == "v0001" == registry.served()
    with pytest.raises(ModelError, match=r"expected an earlier served version to go back to, got \['v0001'\]"):
        registry.rollback()
    with pytest.raises(ModelError, match=r"expected a version of \['v0001', 'v0002'\], got 'v0009'"):
        registry.serve("v0009")
    assert registry.publish(network(2), CHECKPOINT, {}) == "v0003"


def test_a_pointer_to_nothing_or_a_stray_folder_is_not_served(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    (tmp_path / "v0007").mkdir()
    (tmp_path / "served").write_text("v0007")
    assert registry.served() is None
    assert registry.report("v0007") == {}
    assert registry.publish(network(), CHECKPOINT, {}) == "v0008"  # the stray folder is left alone


def test_readers_always_find_a_whole_version_while_others_are_published(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    registry.publish(network(), CHECKPOINT, {})
    done = threading.Event()
    seen: list[str] = []

    def read() -> None:
        while not done.is_set():
            version = registry.served()
            assert version is not None
            load_checkpoint(registry.path(version), "toy", "abc", torch.device("cpu"))
            seen.append(version)

    reader = threading.Thread(target=read)
    reader.start()
    for seed in range(8):
        registry.publish(network(seed), CHECKPOINT, {})
    done.set()
    reader.join()
    assert seen
    assert registry.served() == "v0009"


def test_old_versions_are_pruned_but_never_what_is_served_or_before_it(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    for _ in range(3):
        registry.publish(network(), CHECKPOINT, {})
    for _ in range(4):
        registry.store(network(), CHECKPOINT, {})
    assert registry.prune(2) == ["v0001", "v0004", "v0005"]
    assert registry.versions() == ["v0002", "v0003", "v0006", "v0007"]
    assert registry.rollback() == "v0002"
    assert registry.store(network(), CHECKPOINT, {}) == "v0008"  # no name is used twice
    assert registry.prune(9) == []
    assert not list(registry.root.glob(".work-*"))


def test_a_report_can_be_added_to(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    version = registry.publish(network(), CHECKPOINT, {"seed": 1})
    registry.annotate(version, cross_validation={"mean": 0.5})
    assert registry.report(version) == {"seed": 1, "cross_validation": {"mean": 0.5}}


STORE = """
import sys, torch
from maml_app.lean import spare_imports
spare_imports()
from pathlib import Path
from maml_app.versions.registry import ModelRegistry
from maml_app.network.checkpoint import open_checkpoint
registry = ModelRegistry(Path(sys.argv[1]))
network, checkpoint = open_checkpoint(registry.path("v0001"), torch.device("cpu"))
input()
for _ in range(15):
    registry.publish(network, checkpoint, {})
"""


def test_two_trainings_that_end_together_both_get_a_version(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    registry.publish(network(), CHECKPOINT, {})
    command = [sys.executable, "-c", STORE, str(registry.root)]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(120) for process in running] == [0, 0]
    assert len(registry.versions()) == 31
    assert sorted(registry.history()) == registry.versions()  # none was lost on the way
    assert not list(registry.root.glob(".work-*"))
