"""A model in one file: weights as safetensors, and beside them, in the same file, what they are for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from maml_app.errors import ModelError
from maml_app.network.ensemble import SegmentationNetwork, build_network
from maml_app.network.refine import Refiner
from maml_app.network.settings import Network

FORMAT = "maml_app 1"
UNNAMED = {"shared_decoder": False}  # models of the first versions do not name it, and had none
GONE = ("agreement", "crosstalk")  # options of networks before 0.3
REFINE = "refine."  # before the names of the weights of a refinement


@dataclass(frozen=True)
class Checkpoint:
    """What a model file holds.

    Attributes:
        task: name of the task; `signature` tells whether the task has changed since.
        modalities, classes, network: what `build_network` needs to make the network again.
        notes: anything else: steps, seed, cases seen, validation.
        refiner: what redraws a label around clicks, on the CPU; None where a model has none.
    """

    task: str
    signature: str
    modalities: int
    classes: int
    network: Network
    patch: tuple[int, int, int]
    notes: dict[str, Any] = field(default_factory=dict)
    refiner: Refiner | None = None


def save_checkpoint(path: Path, network: SegmentationNetwork, checkpoint: Checkpoint) -> None:
    """Write weights and description to exactly `path`. Not atomic: the caller hands in a temporary file.

    Raises:
        OSError: it cannot be written, as when the disk is full.
    """
    weights = dict(network.state_dict())
    if checkpoint.refiner:
        weights |= checkpoint.refiner.state_dict(prefix=REFINE)
    weights = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    try:
        save_file(weights, path, metadata={"format": FORMAT, "checkpoint": _described(checkpoint)})
    except SafetensorError as error:  # how it says that the system refused
        raise OSError(str(error)) from None


def open_checkpoint(path: Path, device: torch.device) -> tuple[SegmentationNetwork, Checkpoint]:
    """Read a model of any task, ready for inference.

    Raises:
        ModelError: no file, damaged, or not of this program.
    """
    if not path.is_file():
        raise ModelError(f"{path}: expected a model file, got none; train one first")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: expected a model file, got a damaged or different file ({error})") from None
    if metadata.get("format") != FORMAT:
        raise ModelError(f"{path}: expected a model of format {FORMAT!r}, got {metadata.get('format')!r}")
    try:
        checkpoint = _read(metadata["checkpoint"], path)
        network = build_network(checkpoint.modalities, checkpoint.classes, checkpoint.network)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # pydantic's are ValueErrors
        raise ModelError(f"{path}: expected a description of the network, got a damaged one ({error!r})") from None
    refining = {name.removeprefix(REFINE): weights.pop(name) for name in list(weights) if name.startswith(REFINE)}
    try:
        network.load_state_dict(weights)
        if refining:
            refiner = Refiner(checkpoint.modalities)
            refiner.load_state_dict(refining)
            checkpoint = replace(checkpoint, refiner=refiner.eval())
    except RuntimeError as error:
        raise ModelError(f"{path}: expected weights of the network it describes, got others ({error})") from None
    return network.to(device).eval(), checkpoint


def _described(checkpoint: Checkpoint) -> str:
    content = {**checkpoint.__dict__, "plan": checkpoint.network.model_dump(mode="json")}
    del content["network"], content["refiner"]  # called a plan in files; weights alone
    return json.dumps(content)


def _read(text: str, path: Path) -> Checkpoint:
    content = json.loads(text)
    plan = {**UNNAMED, **content.pop("plan")}
    used = [name for name in GONE if plan.pop(name, False)]
    if used:
        raise ModelError(f"{path}: expected a network of this version, got one with {', '.join(used)}; train it anew")
    network = Network.model_validate(plan)
    return Checkpoint(**{**content, "network": network, "patch": tuple(content["patch"])})


def load_checkpoint(
    path: Path, task: str, signature: str, device: torch.device
) -> tuple[SegmentationNetwork, Checkpoint]:
    """Read a model for a task, ready for inference.

    Raises:
        ModelError: as `open_checkpoint`; or it is of another task, or of an older form of the task.
    """
    network, checkpoint = open_checkpoint(path, device)
    if checkpoint.task != task:
        raise ModelError(f"{path}: expected a model of task {task!r}, got one of {checkpoint.task!r}")
    if checkpoint.signature != signature:
        raise ModelError(
            f"{path}: expected a model of the present form of task {task!r}, got one trained before its modalities, "
            "labels or spacing changed; train again"
        )
    return network, checkpoint
