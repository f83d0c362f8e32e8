"""Several processes for one training: started by torchrun, or from here for a server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import distributed, multiprocessing
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from maml_app.cases.spec import TaskSpec
from maml_app.errors import TrainingError
from maml_app.machine import settle_threads
from maml_app.network.ensemble import SegmentationNetwork, build_network
from maml_app.training.dataset import load_sample
from maml_app.training.optimise import optimise, ranks
from maml_app.training.recipe import Recipe, tell_nobody, wait_for_nobody

METHOD = "forkserver"  # one process reads the libraries, and all others begin as copies of it


def join_torchrun(device: str = "") -> torch.device | None:
    """Join the processes that torchrun started (it sets WORLD_SIZE); None if it did not start this one.

    Each process takes the GPU of its local rank, if there are as many, with NCCL; else the CPU with Gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    place = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = device != "cpu" and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    distributed.init_process_group("nccl" if cuda else "gloo")
    if not cuda:
        settle_threads(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        return torch.device("cpu")
    torch.cuda.set_device(place)
    return torch.device("cuda", place)


def shared(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if ranks()[1] == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def optimise_on(spec: TaskSpec, samples: Mapping[str, Path], recipe: Recipe, folder: Path) -> SegmentationNetwork:
    """Optimise with one process a device of the recipe; the result is as from `optimise` with as many parts.

    Args:
        samples: case id -> the folder of the prepared case.
        folder: for what the processes leave for this one; it must exist.

    Raises:
        TrainingError: a process failed; its reason is in the message.
    """
    if recipe.start is not None:
        _save(recipe.start, folder / "start.safetensors")
    context = multiprocessing.get_context(METHOD)
    context.set_forkserver_preload([__name__, "torch._dynamo"])  # torch's optimisers read the latter when they are made
    messages: Any = context.SimpleQueue()
    # neither a network on a device nor a function of this process goes to another one
    sent = replace(recipe, start=None, report=messages.put)
    world = len(recipe.devices)
    running = start_processes(  # type: ignore[no-untyped-call]
        _one, (spec, dict(samples), sent, folder), nprocs=world, join=False, start_method=METHOD
    )
    assert running is not None
    try:
        while not running.join(timeout=0.5):
            while not messages.empty():
                recipe.report(messages.get())
    except ProcessExitedException as error:
        raise TrainingError(f"one of {world} processes was killed ({error}): out of memory, or stopped") from None
    except ProcessRaisedException as error:
        raise TrainingError(f"one of {world} processes failed: {str(error).strip().splitlines()[-1]}") from None
    while not messages.empty():
        recipe.report(messages.get())
    return _read(spec, folder / "result.safetensors").to(recipe.device).eval()


def _one(rank: int, spec: TaskSpec, samples: dict[str, Path], recipe: Recipe, folder: Path) -> None:
    device, world = recipe.devices[rank], len(recipe.devices)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: no other interface is needed
    settle_threads(world)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=world
    )
    start = folder / "start.safetensors"
    mine = replace(recipe, devices=(device,), start=_read(spec, start) if start.exists() else None)
    if rank > 0:  # the first one tells, and waits for all
        mine = replace(mine, report=tell_nobody, wait=wait_for_nobody)
    network, _ = optimise(spec, [load_sample(*item) for item in samples.items()], mine)
    if rank == 0:
        _save(network, folder / "result.safetensors")
    distributed.destroy_process_group()


def _read(spec: TaskSpec, path: Path) -> SegmentationNetwork:
    network = build_network(len(spec.modalities), spec.classes, spec.network)
    network.load_state_dict(load_file(path))
    return network


def _save(network: SegmentationNetwork, path: Path) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}, path)
