"""Scoring on many machines with Ray: the same scoring, in parts of a few cases, over as many workers as there are.

Images, model and scores lie where every machine sees them under the same path. A part whose worker is lost is given to
another; what was stored is not computed again, so that each case is scored once. Ray is an extra, in
requirements-cluster.txt.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.choosing.look import score_all
from maml_app.choosing.store import ScoreStore
from maml_app.choosing.worth import COLD
from maml_app.errors import MamlError, StudiesError
from maml_app.machine import settle_threads
from maml_app.versions.predict import Model, load_model, pick_device
from maml_app.versions.registry import ModelRegistry

LOCAL = "local"  # stands for the address of a Ray that is started here, for this one call
PART = 4  # cases a worker takes at a time
RETRIES = 5  # of a part, if its worker is lost

Problems = list[tuple[str, str]]


@dataclass(frozen=True)
class Cluster:
    """Where scoring runs: the address of a running Ray cluster, or "local" for this machine's cores.

    `workers`: how many, at most; 0 for one a GPU, or one a core where there is none.
    """

    address: str = LOCAL
    workers: int = 0


def score_on_cluster(
    cases: Sequence[Case], version: str, spec: TaskSpec, registry: ModelRegistry, cluster: Cluster
) -> Iterator[tuple[str, str]]:
    """Score what has no score of this version yet; stopped at any moment, it goes on where it was.

    Yields each case's id when it is done, and what was wrong with it ('' if nothing was).

    Args:
        version: of the model, in the registry; `worth.COLD` for what images look like.

    Raises:
        MamlError: Ray is not installed or cannot be reached; scores cannot be written; a part was lost too often.
    """
    store = ScoreStore(registry.scores)
    waiting = store.waiting(cases, version)
    if not waiting:
        return
    ray = _start(cluster)
    try:
        resources = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}
        score = ray.remote(max_retries=RETRIES, **resources)(_score_part)
        slots = int(ray.cluster_resources().get("GPU" if "num_gpus" in resources else "CPU", 1))
        parts = iter([waiting[start : start + PART] for start in range(0, len(waiting), PART)])
        running: list[Any] = []
        while True:
            # as many parts ahead as keep the workers busy: what lies in an archive is fetched only then
            while len(running) < 2 * (cluster.workers or slots) and (part := next(parts, None)) is not None:
                running.append(score.remote([_fetched(case) for case in part], version, spec, registry.root))
            if not running:
                return
            ready, running = ray.wait(running)
            yield from ray.get(ready[0])
    except ray.exceptions.RayTaskError as error:
        raise StudiesError(str(error.cause)) from None
    except ray.exceptions.RayError as error:
        raise MamlError(f"scoring on Ray ended: {error}; start it again, it goes on where it was") from None
    finally:
        ray.shutdown()


def _start(cluster: Cluster) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise MamlError(
            "expected Ray for scoring on a cluster, it is not installed: pip install -r requirements-cluster.txt"
        ) from None
    address = cluster.address
    here = str(Path(__file__).resolve().parents[2])
    of_workers = {"env_vars": {"PYTHONPATH": here}, "worker_process_setup_hook": "maml_app.lean.spare_imports"}
    options: dict[str, Any] = {"runtime_env": of_workers, "log_to_driver": False}
    try:
        _reach(address)
        if address == LOCAL:
            here_only = {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
            ray.init("local", num_cpus=cluster.workers or None, **here_only, **options)
        else:
            ray.init(address, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise MamlError(f"{address}: expected the address of a Ray cluster, or {LOCAL!r}, got: {error}") from None
    return ray


def _reach(address: str) -> None:
    """Ray itself tries for minutes to reach a machine that does not answer.

    Raises:
        OSError: nobody listens there.
        ValueError: it is no address.
    """
    if address in (LOCAL, "auto"):
        return
    host, _, port = address.rpartition("://")[2].partition(":")
    with socket.create_connection((host, int(port)), timeout=10):
        pass


def _fetched(case: Case) -> Case:
    """The case with its files on the disk, and nothing in it that only this process can use."""
    files = {name: replace(ref, path=ref.local(), fetch=None) for name, ref in case.images.items()}
    labels = tuple(replace(ref, fetch=None) for ref in case.labels)
    return replace(case, images=files, others={}, labels=labels)


def _score_part(cases: list[Case], version: str, spec: TaskSpec, root: Path) -> Problems:
    """In a worker: score what of these cases is not scored yet; each case, and what was wrong with it."""
    settle_threads(most=1)
    registry = ModelRegistry(root)
    model = None if version == COLD else _model(registry.path(version), version, spec.model_dump_json())
    done = dict(score_all(cases, model, spec, ScoreStore(registry.scores)))
    return [(case.id, done.get(case.id, "")) for case in cases]


@lru_cache(maxsize=1)
def _model(path: Path, version: str, task: str) -> Model:
    return load_model(path, TaskSpec.model_validate_json(task), version, pick_device())
