"""What a network is built from and what its loss weighs: the `network` and `training.loss` sections of a task.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Ints3 = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


class Strict(BaseModel):
    """A section of a task.yaml: unknown keys are refused, and nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(Strict):
    """Widths and strides of a U-Net expert; the early-fusion rival is `fusion_width` times as wide.

    `head`: how the experts' features are fused, see network/fusion.py; `average` is the mean of their opinions.
    `shared_decoder`: each expert has its own encoder, and all have one decoder, which learns from every modality.
    `stem`: so many voxels along each axis are taken together before the first level, and told apart by the last layer
    alone: (2, 2, 2) is an eighth of the arithmetic.
    """

    kind: Literal["maml", "early-fusion"] = "maml"
    head: Literal["joint", "light", "paper", "average"] = "joint"
    shared_decoder: bool = True
    stem: Ints3 = (1, 1, 1)
    channels: tuple[Annotated[int, Field(ge=1)], ...] = (8, 16, 32, 64)
    strides: tuple[Ints3, ...] = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    fusion_width: Annotated[float, Field(ge=1, le=8)] = 2.0

    @model_validator(mode="after")
    def _one_stride_a_level(self) -> Network:
        if len(self.channels) != len(self.strides) or len(self.channels) < 2:
            raise ValueError(
                f"channels and strides need one entry a level and at least two levels, "
                f"got {len(self.channels)} and {len(self.strides)}"
            )
        if any(stride != 1 for stride in self.strides[0]):
            raise ValueError(f"the first stride must be [1, 1, 1], got {list(self.strides[0])}")
        return self

    @property
    def divisor(self) -> tuple[int, int, int]:
        """By what each side of a patch must be divisible, voxels."""
        x, y, z = self.stem
        for stride in self.strides:
            x, y, z = x * stride[0], y * stride[1], z * stride[2]
        return x, y, z


class Loss(Strict):
    """Weights of the loss terms; 0 switches a term off. `network/losses.py` explains each.

    `deep`: what each coarser level of a U-Net weighs against the next finer one; 0 for no deep supervision.
    """

    fused: Weight = 1.0
    experts: Weight = 0.5
    mutual: Weight = 0.5
    subset: Weight = 0.5
    consistency: Weight = 0.25
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    deep: Annotated[float, Field(ge=0, le=1)] = 0.5
