"""The part of a task.yaml that says how it is learned: grid, augmentation, training; network and loss are beside the
network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from maml_app.network.settings import Ints3, Loss, Positive, Strict, Weight


class Preprocess(Strict):
    """The grid that the network works on: axes nearest to R, A, S and this spacing."""

    spacing_mm: tuple[Positive, Positive, Positive]


class Review(Strict):
    """Which labels count for learning.

    `required`: only those that someone else than their author has approved. `readings`: so many people label each case,
    without seeing each other's label, before a reviewer picks one or makes a third.
    """

    required: bool = False
    readings: Annotated[int, Field(ge=1, le=2)] = 1


class Augment(Strict):
    """How far training images are varied, beyond rotation, scaling, flips and intensities; 0 switches one off.

    `misalignment_mm`: one modality is shifted by up to so much against the others, as phases and scanners do.
    `elastic_mm`: a smooth deformation of all, at most so far. `low_resolution`: how often a modality loses resolution.
    """

    misalignment_mm: Weight = 0.0
    elastic_mm: Weight = 0.0
    low_resolution: Annotated[float, Field(ge=0, le=1)] = 0.0


class Training(Strict):
    """How a model is trained.

    `folds` of cross-validation while no labelled patient is kept for validation (0: none). `new_labels`: how many times
    an epoch a case is drawn whose label the served model has not seen; the others once. `modality_dropout`: how often a
    random part of the modalities is drawn for a case, else all of them; `each_alone`: besides, every modality by itself
    learns to answer in every step. `optimiser` adamw with a cosine, or sgd with Nesterov momentum and a polynomial
    decay of the learning rate, as nnU-Net. `clip`: largest norm of the gradient; 0: none. `amp`: forward in bfloat16 on
    CUDA. `ema`: averaged weights are the result. `checks`: how often in the course of a run the validation cases are
    scored, for people to see. `unlabelled`: what cases that nobody has labelled weigh against labelled ones (0: they
    are not used); the ensemble labels them for itself where it is sure (training/teaching.py), at most
    `unlabelled_cases`. `refine_steps`: of the refinement, which learns from played clicks after the model and answers
    clicks where it does that better (0: none is trained, and clicks are answered by a classifier).
    """

    steps: Annotated[int, Field(ge=1)] = 500
    batch: Annotated[int, Field(ge=1)] = 2
    patch: Ints3 = (64, 64, 32)
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 2e-3
    clip: Weight = 1.0
    amp: bool = True
    ema: bool = True
    modality_dropout: Annotated[float, Field(ge=0, le=1)] = 1.0
    each_alone: bool = True
    unlabelled: Weight = 0.0
    unlabelled_cases: Annotated[int, Field(ge=1)] = 50
    foreground: Annotated[float, Field(ge=0, le=1)] = 0.67
    flips: tuple[bool, bool, bool] = (True, True, True)
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.2
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.02
    folds: Annotated[int, Field(ge=0, le=10)] = 3
    new_labels: Annotated[int, Field(ge=1, le=10)] = 1
    checks: Annotated[int, Field(ge=0, le=100)] = 3
    refine_steps: Annotated[int, Field(ge=0)] = 300
    augment: Augment = Augment()
    loss: Loss = Loss()
