"""What a server is told by `--conf NAME VALUE`, or by the environment as MAML_NAME: each with its meaning."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from maml_app.errors import SettingsError

PREFIX = "MAML_"
Gigabytes = Annotated[float, Field(ge=0)]


class Settings(BaseModel):
    """All settings. An empty text is as not given, so that a setting of the environment can be undone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = Field(default="", description="the task: a shipped one's name, or a path to a task.yaml")
    models: Path | None = Field(default=None, description="folder for models; model/ in the app's folder without it")
    prepared_gb: Gigabytes = Field(
        default=20.0, description="room for prepared cases, the least recently used go first"
    )
    seen_gb: Gigabytes = Field(
        default=10.0,
        description="room on disk for what models saw of cases: a second look costs no inference; 0: memory alone",
    )
    memory_gb: Gigabytes = Field(
        default=0.0, description="memory of a training; 0: what it has and three quarters of what is free"
    )
    random: str = Field(default="", description="the strategy that answers clients who ask for `random`, as OHIF does")
    cache: str = Field(
        default="", description="folder for the ledger and what is downloaded; ~/.cache/maml_app without it"
    )
    cache_gb: Gigabytes = Field(
        default=20.0, description="archive: room for downloads, the least recently used go first"
    )
    assign: str = Field(
        default="", description="archive: series set by hand, a JSON file or UID=MODALITY,UID=none; before every rule"
    )
    foreign_segs: Literal["ignore", "use"] = Field(
        default="ignore", description="archive: whether SEGs by other software count as labels"
    )
    users: Path | None = Field(
        default=None, description="file of accounts, made by `python -m maml_app users`: everyone has to log in"
    )
    open: bool = Field(
        default=False, description="yes: answers other machines although nobody has to log in; only where you trust all"
    )
    origins: str = Field(
        default="",
        description="addresses of other pages that may ask, and of a proxy before the server: https://a,https://b",
    )
    upload_mb: Annotated[float, Field(gt=0)] = Field(default=1024.0, description="the largest request, MB")
    upload_mvox: Annotated[float, Field(gt=0)] = Field(
        default=300.0, description="the largest image that is sent to be segmented, million voxels"
    )
    queue: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=8, description="segmentations that may wait for the one that runs; more are told to come back"
    )
    infer_s: Annotated[float, Field(gt=0)] = Field(
        default=1800.0, description="so long a client waits for a segmentation at most, seconds"
    )
    engine: Literal["auto", "torch", "openvino", "openvino-bf16"] = Field(
        default="auto",
        description="what runs the network on a CPU; auto: OpenVINO where it is installed; bf16: faster, less exact",
    )
    nninteractive: Annotated[str, StringConstraints(pattern=r"^(https?://\S+)?$")] = Field(
        default="",
        description="a server of nnInteractive, http://HOST:1527, that may answer clicks in OHIF in our place; the "
        "images are sent there",
    )
    server_mode: bool = Field(default=False, description="MONAI Label's own: it changes what /info tells")

    @field_validator("*", mode="before")
    @classmethod
    def _trimmed(cls, value: object) -> object:
        return value.strip() if isinstance(value, str) else value

    @classmethod
    def read(cls, given: Mapping[str, str] | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
        """The settings of `--conf`, before those of the environment, before the defaults.

        Raises:
            SettingsError: an unknown name, or a value that does not fit; the message lists what there is.
        """
        told = {name: environment[f"{PREFIX}{name.upper()}"] for name in cls.model_fields if _is_set(name, environment)}
        told |= dict(given or {})
        try:
            return cls.model_validate({name: value for name, value in told.items() if value != ""})
        except ValidationError as error:
            lines = []
            for item in error.errors():
                name = ".".join(str(part) for part in item["loc"])
                where = f"--conf {name}" if name in (given or {}) else f"{PREFIX}{name.upper()}"
                if item["type"] == "extra_forbidden":
                    lines.append(f"{where}: no such setting; expected one of {', '.join(cls.model_fields)}")
                else:
                    lines.append(f"{where}: {item['msg']}, got {item['input']!r}")
            raise SettingsError("\n".join(lines)) from None

    @classmethod
    def help(cls) -> str:
        """Every setting with its meaning and default, a line each."""
        rows = [(name, field.description or "", field.default) for name, field in cls.model_fields.items()]
        width = max(len(name) for name, _, _ in rows)
        return "\n".join(
            f"  {name:<{width}}  {said}" + (f" (default {default})" if default not in ("", None) else "")
            for name, said, default in rows
        )


def _is_set(name: str, environment: Mapping[str, str]) -> bool:
    return f"{PREFIX}{name.upper()}" in environment
