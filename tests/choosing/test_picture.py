"""The picture of the slice where experts disagree most."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from maml_app.cases.spec import TaskSpec
from maml_app.choosing.picture import COLOURS, PANEL, draw
from maml_app.choosing.worth import score_opinions
from maml_app.imaging.preprocess import Prepared
from maml_app.imaging.volume import Grid
from maml_app.network.window import Opinions


def opinion(*box: slice) -> torch.Tensor:
    """Class probabilities (2, 20, 16, 6) that are sure of foreground in a box."""
    result = torch.zeros(3, 20, 16, 6)
    result[0] = 1
    result[0][box], result[1][box] = 0, 1
    return result


def test_the_picture_shows_each_opinion_where_it_is(spec: TaskSpec) -> None:
    """On axes that run to R, A and S: the patient's right on the left, front at the top."""
    right_front, left_back = (slice(13, 18), slice(11, 15), slice(2, 4)), (slice(2, 6), slice(1, 5), slice(2, 4))
    opinions = Opinions(opinion(*right_front), {0: opinion(*right_front), 2: opinion(*left_back)}, torch.zeros(3))
    prepared = Prepared(torch.rand(3, 20, 16, 6), torch.tensor([True, False, True]), Grid((20, 16, 6), np.eye(4)))
    score = score_opinions(opinions, "case", "v0001", spec, 0.001)
    assert score.worst_slice in (2, 3)
    picture = np.asarray(Image.open(io.BytesIO(draw(prepared, opinions, score, spec))))
    zoom = PANEL // 20
    assert picture.shape == (16 * zoom, 2 * 20 * zoom, 3)  # two modalities are there
    panel = picture[:, : 20 * zoom]
    for index, box in ((0, right_front), (2, left_back)):
        colour = [int(COLOURS[index][place : place + 2], 16) for place in (1, 3, 5)]
        rows, columns = np.nonzero((panel[20:] == colour).all(axis=-1))  # below the modality's name
        x, y = box[0], box[1]
        assert np.isclose(columns.mean(), (20 - (x.start + x.stop) / 2) * zoom, atol=zoom)
        assert np.isclose(rows.mean() + 20, (16 - (y.start + y.stop) / 2) * zoom, atol=zoom)
