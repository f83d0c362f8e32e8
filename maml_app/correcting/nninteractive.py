"""nnInteractive as a guest (arXiv 2503.08373): its server answers clicks and scribbles on one image of a case.

It is asked by its own client, `pip install maml-app[nninteractive]`. Its network sees one image and none of our
features.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from scipy import ndimage

from maml_app.cases.case import Case
from maml_app.correcting.correct import Corrected, Marked, Prompt, on, replaced
from maml_app.correcting.marks import within
from maml_app.errors import CaseError, GuestError, SettingsError
from maml_app.imaging.files import read_image
from maml_app.imaging.volume import Array, Grid, Volume
from maml_app.versions.kept import content_key

CLIENT = "nnInteractive.inference.remote"


class NnInteractive:
    """A server of nnInteractive, with one session there, which keeps the last image between clicks.

    Its key, where it wants one, is the environment's NN_INTERACTIVE_API_KEY, as for its own client.

    Args:
        address: where it answers, http://HOST:1527.

    Raises:
        SettingsError: its client is not installed.
    """

    def __init__(self, address: str) -> None:
        if find_spec("nnInteractive") is None:
            raise SettingsError(
                f"--conf nninteractive {address}: expected nnInteractive's client, got none; "
                "pip install maml-app[nninteractive]"
            )
        self.address = address
        self._turn = threading.Lock()
        self._session: Any = None
        self._holds: Hashable = None

    def correct(self, case: Case, asked: str, label: Volume, marked: Marked) -> Corrected:
        """The label as nnInteractive draws it on one image, from what it was and all its prompts.

        Args:
            asked: the image that it looks at.
            label: on the grid of that image, as is the answer. The whole label is as nnInteractive says; other
                labels keep their voxels.

        Raises:
            CaseError: a prompt lies outside of the image.
            GuestError: its server cannot be reached, refuses, or is busy with others.
        """
        remote = importlib.import_module(CLIENT)
        mask = label.voxels == marked.value
        strokes = [_stroke(case, prompt, label.grid) for prompt in marked.prompts]
        with self._turn, self._told(remote):
            try:
                found = self._answer(remote, case, asked, mask, strokes)
            except remote.SessionExpiredError:  # nobody clicked for long, or it was started anew
                self._leave()
                found = self._answer(remote, case, asked, mask, strokes)
            by = f"nnInteractive, weights {self._session.license or 'of unknown licence'}"
        return replace(replaced(label, marked.value, found, np.ones_like(found)), by=by)

    def _answer(self, remote: Any, case: Case, asked: str, mask: Array, strokes: list[tuple[Array, bool]]) -> Array:
        """The mask (X, Y, Z) after all strokes; arrays there are (Z, Y, X), as ITK's, which its network learnt from."""
        key = (case.id, content_key(case, [asked]))
        if self._session is None or key != self._holds:
            self._leave()
            self._session = remote.nnInteractiveRemoteInferenceSession(self.address)
            self._session.set_image(np.ascontiguousarray(read_image(case.images[asked]).voxels.T[None]))
            self._session.set_target_buffer(np.zeros(mask.shape[::-1], np.uint8))
            self._holds = key
        session = self._session
        if mask.any():
            session.add_initial_seg_interaction(np.ascontiguousarray(mask.T).astype(np.uint8))
        else:
            session.reset_interactions()
        parts = [(*part, says) for voxels, says in strokes for part in _in_slices(voxels)]
        for number, (voxels, flat, says) in enumerate(parts, start=1):
            last = number == len(parts)  # its network runs once, when it knows all
            if len(voxels) == 1:
                session.add_point_interaction(voxels[0, ::-1].tolist(), says, run_prediction=last)
            else:
                drawn, box = _drawn(voxels, flat, mask.shape, session.preferred_scribble_thickness)
                session.add_scribble_interaction(drawn, says, run_prediction=last, interaction_bbox=box)
        return np.asarray(session.target_buffer.T > 0)

    def _leave(self) -> None:
        """Give the session back."""
        session, self._session, self._holds = self._session, None, None
        if session is not None:
            session.close()

    @contextmanager
    def _told(self, remote: Any) -> Iterator[None]:
        """What goes wrong with its server, as one message; the next request begins a session of its own."""
        httpx = importlib.import_module("httpx")
        try:
            yield
        except httpx.HTTPStatusError as error:
            self._leave()
            said = error.response.text[:300]
            raise GuestError(
                f"nnInteractive at {self.address}: expected an answer, got {error.response.status_code}: {said}"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL, remote.SessionExpiredError) as error:
            self._leave()
            raise GuestError(
                f"expected nnInteractive at {self.address}, got no answer ({error}); start its server "
                "(`nninteractive-server`), or mend --conf nninteractive"
            ) from None
        except (ValueError, KeyError) as error:
            self._leave()
            raise GuestError(
                f"expected nnInteractive at {self.address}, got what its client does not understand ({error!r})"
            ) from None
        except remote.ServerAtCapacityError as error:
            raise GuestError(
                f"nnInteractive at {self.address} is busy with others: {error}; click again later"
            ) from None


def _stroke(case: Case, prompt: Prompt, grid: Grid) -> tuple[Array, bool]:
    """The voxels (N, 3) of a grid that a prompt passes through, and whether the structure is there."""
    voxels = within(np.round(on(grid, prompt.path_mm)).astype(int), grid.shape)
    if not len(voxels):
        raise CaseError(
            f"case {case.id}: nnInteractive looks at one image, expected clicks and scribbles within it, got one at "
            f"{prompt.place}"
        )
    return np.unique(voxels, axis=0), prompt.inside


def _in_slices(voxels: Array) -> list[tuple[Array, int]]:
    """A stroke's voxels by slices, for a scribble there lies in one, and the axis across these.

    It is the axis on which the stroke extends least; of two that of the slices as they were acquired.
    """
    flat = 2 - int(np.argmin(np.ptp(voxels, axis=0)[::-1]))
    return [(voxels[voxels[:, flat] == index], flat) for index in np.unique(voxels[:, flat])]


def _drawn(voxels: Array, flat: int, shape: tuple[int, ...], thickness: list[float]) -> tuple[Array, list[list[int]]]:
    """A scribble in one slice, as thick as its network knows them: a mask (Z, Y, X), and its box in the image."""
    margin = np.array([0 if axis == flat else int(max(thickness)) for axis in range(3)])
    first, last = np.maximum(voxels.min(axis=0) - margin, 0), np.minimum(voxels.max(axis=0) + margin + 1, shape)
    thin = np.zeros(last - first, dtype=bool)
    thin[tuple((voxels - first).T)] = True
    spread = ndimage.generate_binary_structure(3, 1)
    spread.swapaxes(0, flat)[[0, 2]] = False  # not into the slices beside it
    drawn = ndimage.binary_dilation(thin, spread, iterations=max(int(max(thickness)) // 2, 1))
    box = [[int(low), int(high)] for low, high in zip(first[::-1], last[::-1], strict=True)]
    return np.ascontiguousarray(drawn.T).astype(np.uint8), box
