"""Training: started, asked after, stopped. It runs in MONAI Label's background process."""

from __future__ import annotations

import threading
import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException
from monailabel.utils.async_tasks import utils as background

from maml_app.server.forms import Name, TrainParams
from maml_app.server.house import Here, House
from maml_app.server.identity import Leading, Looking

router = APIRouter()

STOP_S = 20.0  # so long a training that was just asked for takes to appear as a process at most
GOING = ("SUBMITTED", "RUNNING")

_one_at_a_time = threading.Lock()


@router.get("/train/")
def status(house: Here, user: Looking, all: bool = False, check_if_running: bool = False) -> Any:
    """The last training, or all; with `check_if_running` the one that runs, or 404."""
    tasks = [_shown(task) for task in list(background.tasks("train"))]
    if check_if_running:
        tasks = [task for task in tasks if task["status"] == "RUNNING"]
    if not tasks:
        raise HTTPException(404, "No training is running." if check_if_running else "There was no training yet.")
    return tasks if all and not check_if_running else tasks[-1]


def _shown(task: dict[str, Any]) -> dict[str, Any]:
    details = task.get("details")
    return {**task, **({"details": list(details)} if details is not None else {})}  # another thread adds lines


@router.post("/train/")
def start_all(
    house: Here, user: Leading, params: Annotated[TrainParams | dict[Name, TrainParams] | None, Body()] = None
) -> dict[str, Any]:
    """Train the served task; params flat, or by model."""
    (model,) = house.app._trainers
    given = params.get(model) if isinstance(params, dict) else params
    if params and not given:
        raise HTTPException(404, f"expected a model of {[model]}, got {sorted(params)}")
    return {model: {"result": _start(house, model, given or TrainParams()), "detail": None}}


@router.post("/train/{model}")
def start(house: Here, user: Leading, model: Name, params: TrainParams | None = None) -> dict[str, Any]:
    """Train a model."""
    return _start(house, model, params or TrainParams())


def _start(house: House, model: str, params: TrainParams) -> dict[str, Any]:
    if model not in house.app._trainers:
        raise HTTPException(404, f"expected a model of {sorted(house.app._trainers)}, got {model!r}")
    told = params.model_dump(exclude_none=True, exclude={"client_id", "name", "model"})
    with _one_at_a_time:
        if any(task["status"] in GOING for task in background.tasks("train")):
            raise HTTPException(429, "A training is running already; stop it first, or wait.", {"Retry-After": "60"})
        # once it has ended, cases are looked at with the new model
        task = background.run_background_task(
            {"model": model, **told}, "train", lambda _: house.app.async_scoring(None)
        )
    return _shown(task)


@router.delete("/train/")
def stop(house: Here, user: Leading) -> dict[str, Any] | None:
    """Stop the training, also one that is only about to begin."""
    end = time.monotonic() + STOP_S
    with _one_at_a_time:
        going = [task for task in background.tasks("train") if task["status"] in GOING]
        for task in going:
            # its process is there once it counts as running
            while task["status"] == "SUBMITTED" and time.monotonic() < end:
                time.sleep(0.02)
            if task["status"] == "RUNNING":
                background.stop_background_task("train")
    return _shown(going[-1]) if going else None
