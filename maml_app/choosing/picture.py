"""The picture of a case: the slice where the experts disagree most, with their contours."""

from __future__ import annotations

import io

import numpy as np
import torch

from maml_app.cases.spec import TaskSpec
from maml_app.choosing.worth import CaseScore
from maml_app.imaging.preprocess import Prepared
from maml_app.network.window import Opinions

PANEL = 240  # pixels of a picture's longer side, about
COLOURS = ("#ff5050", "#50b4ff", "#ffd23c", "#7dff7d", "#ff8cff", "#ffa050", "#8cffff", "#c8a0ff")


def draw(prepared: Prepared, opinions: Opinions, score: CaseScore, spec: TaskSpec) -> bytes:
    """The worst slice in each present modality: the ensemble's contour in white, each expert's in its colour.

    Drawn pixel by pixel: there is one for every case, and plotting would take ten times as long as looking at it.
    """
    from PIL import Image, ImageDraw
    from skimage.measure import find_contours

    masks = [
        (opinions.fused, "white", 2),
        *((opinion, COLOURS[index], 1) for index, opinion in opinions.experts.items()),
    ]
    panels = []
    for index in _shown(prepared):
        image = _upright(prepared.images[index], score.worst_slice).numpy()
        low, span = float(image.min()), max(float(np.ptp(image)), 1e-6)
        zoom = max(1, round(PANEL / max(image.shape)))
        grey = np.kron((image - low) / span * 255, np.ones((zoom, zoom))).astype(np.uint8)
        panel = Image.fromarray(grey).convert("RGB")
        pen = ImageDraw.Draw(panel)
        for probabilities, colour, width in masks:
            found = _upright((probabilities.argmax(dim=0) > 0).float(), score.worst_slice)
            for line in find_contours(np.pad(found.numpy(), 1), 0.5):
                pen.line([((x - 0.5) * zoom, (y - 0.5) * zoom) for y, x in line], fill=colour, width=width)
        pen.text((3, 1), spec.modality_names[index], fill=COLOURS[index])
        panels.append(np.asarray(panel))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(panels, axis=1)).save(buffer, format="png")
    return buffer.getvalue()


def _shown(prepared: Prepared) -> list[int]:
    return [index for index, there in enumerate(prepared.presence.tolist()) if there]


def _upright(values: torch.Tensor, place: int) -> torch.Tensor:
    """A slice of (X, Y, Z) as an image: seen from below as radiologists do, the patient's right on the left."""
    return values[:, :, place].T.flip(0, 1)
