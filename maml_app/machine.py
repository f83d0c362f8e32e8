"""This process among others: its cores and memory, whether another one still runs, letting inference go first."""

from __future__ import annotations

import fcntl
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

import torch

MEMORY_SHARE = 0.75  # of what is free when training starts, and of a GPU: the rest is for inference
LONGEST_WAIT_S = 20.0  # so long at most training stands aside before a step, however many ask


def cores() -> int:
    """Physical cores that this process may use, by its affinity and its container's quota; at least 1."""
    if not hasattr(os, "sched_getaffinity"):  # not Linux
        return os.cpu_count() or 1
    found = set()
    for cpu in os.sched_getaffinity(0):
        try:  # two threads of one core share what arithmetic needs
            found.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            found.add(str(cpu))
    with suppress(OSError, ValueError):  # no such quota, or "max"
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        return max(1, min(len(found), quota // period))
    return len(found)


def settle_threads(processes: int = 1, spare: int = 0, most: int | None = None) -> int:
    """Decide how many threads arithmetic has in this process: once, at its start, and never in a request.

    OMP_NUM_THREADS is obeyed. Threads of processes that this one starts do not burn a core while they wait for each
    other: beside any other work that makes them many times slower.

    Args:
        processes: so many like this one share the machine.
        spare: cores that are left to others.
        most: not more than so many, whatever there is.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # a list is one number a nesting level
    count = int(wanted) if wanted.isdigit() else max(1, (cores() - spare) // processes)
    count = max(1, min(count, most or count))
    torch.set_num_threads(count)
    with suppress(RuntimeError):  # settled before
        torch.set_num_interop_threads(1)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return count


def is_running(process: int) -> bool:
    """Whether a process of this id exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def step_back(memory_gb: float = 0.0) -> float:
    """Let this process give way: low priority, capped memory, and the first to go if the system runs out of it.

    Args:
        memory_gb: what it may take in all; 0 for what it has and MEMORY_SHARE of what is free now.

    Returns:
        The limit on its memory, GB; infinite where the system does not tell what is free.
    """
    os.setpriority(os.PRIO_PROCESS, 0, 10)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    limit = memory_gb * 1e9
    if not limit:
        try:
            limit = proc_bytes("self/status", "VmData") + MEMORY_SHARE * proc_bytes("meminfo", "MemAvailable")
        except (OSError, StopIteration):  # not Linux
            return float("inf")
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit), hard))
    return limit / 1e9


def free_memory_gb() -> float:
    """Memory of the GPU, or what is free of the machine's; 4 where the system does not tell."""
    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory) / 1e9
    try:
        return proc_bytes("meminfo", "MemAvailable") / 1e9
    except (OSError, StopIteration):
        return 4.0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is how torch says on a GPU, or on the CPU, that there is no memory left."""
    said = ("DefaultCPUAllocator", "could not create a memory", "could not create a primitive")
    plain = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return plain or (isinstance(error, RuntimeError) and any(words in str(error) for words in said))


def proc_bytes(file: str, key: str) -> float:
    """A value of a file in /proc, bytes."""
    lines = Path("/proc", file).read_text().splitlines()
    return float(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) * 1024


class Turns:
    """A lock file by which inference goes first: training waits before each step while an inference runs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Hold training back meanwhile. Several inferences may run at a time."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a")
        except OSError:  # a disk that cannot be written must not keep anyone from a segmentation
            yield
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield  # closing the file lets go of the lock, as does the end of the process

    def wait(self) -> float:
        """Wait until no inference runs; the seconds waited."""
        began = time.monotonic()
        if not self.path.exists():
            return 0.0
        with self.path.open("a") as file:
            while time.monotonic() - began < LONGEST_WAIT_S:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.01)
        return time.monotonic() - began


_nobody_waits: ContextVar[Callable[[], bool]] = ContextVar("nobody_waits", default=lambda: False)


class Abandoned(Exception):
    """Nobody waits for the result any more."""


@contextmanager
def abandoned_when(nobody_waits: Callable[[], bool]) -> Iterator[None]:
    """Inside the block, `go_on` ends a long computation of this thread once nobody waits for it."""
    token = _nobody_waits.set(nobody_waits)
    try:
        yield
    finally:
        _nobody_waits.reset(token)


def go_on() -> None:
    """Called between the steps of a long computation.

    Raises:
        Abandoned: there is nobody to compute it for.
    """
    if _nobody_waits.get()():
        raise Abandoned
