"""What prompts see of one label of a case, whichever of its modalities are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from maml_app.correcting.marks import Box
from maml_app.imaging.volume import Array
from maml_app.versions.shelf import Seen


@dataclass(frozen=True, eq=False)
class View:
    """One label of a case on the network's grid, or a part of it.

    Attributes:
        images: modality index -> image (X, Y, Z), of those that are seen.
        experts: modality index -> the label's probability (X, Y, Z) by its expert.
        fused: the label's probability (X, Y, Z) by the whole ensemble; None where it is not seen.
    """

    images: dict[int, Array]
    experts: dict[int, Array]
    fused: Array | None

    @property
    def size(self) -> int:
        """Bytes."""
        fused = [] if self.fused is None else [self.fused]
        return sum(array.nbytes for array in (*self.images.values(), *self.experts.values(), *fused))

    def cut(self, box: Box) -> View:
        """A part of it."""
        return self._each(lambda array: array[box])

    def copied(self) -> View:
        """The same, without the rest of what it is a part of."""
        return self._each(np.ascontiguousarray)

    def _each(self, change: Callable[[Array], Array]) -> View:
        images = {index: change(image) for index, image in self.images.items()}
        experts = {index: change(said) for index, said in self.experts.items()}
        return View(images, experts, None if self.fused is None else change(self.fused))


def view(seen: Seen, value: int, sees: Sequence[int]) -> View:
    """What is seen of a label; what the whole ensemble says only where all of a task's modalities may be looked at.

    Args:
        sees: indices of the modalities that are looked at.
    """
    present, opinions = seen.prepared.presence.tolist(), seen.opinions
    whole = len(sees) == len(present) and bool(opinions.fused.any())
    return View(
        {index: seen.prepared.images[index].numpy() for index in sees if present[index]},
        {index: opinions.experts[index][value].numpy() for index in sees if index in opinions.experts},
        opinions.fused[value].numpy() if whole else None,
    )


def logit(probability: Array) -> Array:
    """Of probabilities, which may be 0 or 1; float32."""
    sure = np.clip(probability.astype(np.float32), 1e-3, 1 - 1e-3)
    result: Array = np.log(sure / (1 - sure))
    return result
