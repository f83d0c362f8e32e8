"""A small network that redraws one label around a click, whichever label it is, from any of a task's modalities."""

from __future__ import annotations

import torch
from monai.networks.nets.dynunet import DynUNet
from torch import nn

from maml_app.network.layers import LAYOUT

CHANNELS = (12, 24, 24)
DIVISOR = 4  # of each side of a crop, voxels
# over the batch in training, not over the crop: absence and depth in the mask are constants that must not be lost
NORM = "batch"
FAR = 4.0  # the logit of a voxel deep in the mask before the click


class Refiner(nn.Module):
    """A U-Net whose answer changes the mask before the click; with new weights it changes nothing.

    Its channels: of each modality its image, whether it is there and its expert's logit; what the ensemble says; the
    signed distance to the border of the mask, 1 deep in it; the distances to the clicks inside and outside; and the
    newest click.
    """

    def __init__(self, modalities: int) -> None:
        super().__init__()
        self.modalities = modalities
        unet = DynUNet(
            spatial_dims=3,
            in_channels=3 * modalities + 5,
            out_channels=1,
            kernel_size=(3, 3, 3),
            strides=(1, 2, 2),
            upsample_kernel_size=(2, 2),
            filters=CHANNELS,
            norm_name=NORM,
        )
        # all that it runs; it lists its blocks a second time beside, and files hold weights once
        self.body, self.head = unet.skip_layers, unet.output_block
        nn.init.zeros_(self.head.conv.conv.weight)
        nn.init.zeros_(self.head.conv.conv.bias)
        self.to(memory_format=LAYOUT)  # type: ignore[call-overload]  # a form of Module.to that its stubs leave out

    def forward(self, shown: torch.Tensor) -> torch.Tensor:
        """Logit (B, X, Y, Z) of the label, from channels (B, C, X, Y, Z); each side divisible by `DIVISOR`."""
        shown = shown.contiguous(memory_format=LAYOUT)
        change: torch.Tensor = self.head(self.body(shown))[:, 0]
        return change + FAR * shown[:, -4]
