"""Two layers of torch as a processor computes them quickest in the layout of the networks; the same within rounding.

Both spare what torch does for one window at a time: it copies each convolution's result into another layout for the
norm and back, and it computes small convolutions (deep levels) without oneDNN, several times slower. On a GPU, in
graphs that go elsewhere, and in training they are torch's own: a step would win little, and where memory runs out
oneDNN gives none back for smaller patches.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

# channels last: twice as fast as the default for narrow 3D convolutions on the CPU
LAYOUT = torch.channels_last_3d
# ATen gives a batch of one to oneDNN from this many values in (C, X, Y) on (use_mkldnn in Convolution.cpp)
SMALL = 20480


class InstanceNorm(nn.InstanceNorm3d):
    """A group norm with a group for each channel is an instance norm, and keeps the layout."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, C, X, Y, Z), normalised over their voxels."""
        if not _here(features):
            return super().forward(features)
        return F.group_norm(features, self.num_features, self.weight, self.bias, self.eps)


class Conv(nn.Conv3d):
    """Always by oneDNN."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, C, X, Y, Z) -> (B, C', X', Y', Z')."""
        assert not isinstance(self.padding, str)
        small = features.shape[0] == 1 and features[0, :, :, :, 0].numel() <= SMALL
        if not (small and _here(features) and torch.backends.mkldnn.is_available()):
            return super().forward(features)
        features = features.contiguous(memory_format=LAYOUT)
        found: torch.Tensor = torch.mkldnn_convolution(
            features, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )
        return found


QUICK = {nn.InstanceNorm3d: InstanceNorm, nn.Conv3d: Conv}


def quicken(network: nn.Module) -> None:
    """Bring a network into the layout, and its layers to their quicker kind; weights and their names stay."""
    network.to(memory_format=LAYOUT)  # type: ignore[call-overload]  # a form of Module.to that its stubs leave out
    for module in network.modules():
        module.__class__ = QUICK.get(type(module), type(module))


def _here(features: torch.Tensor) -> bool:
    """On a processor, in single precision, not in training, and not traced for a graph that runs elsewhere."""
    plain = features.device.type == "cpu" and features.dtype == torch.float32 and not torch.is_grad_enabled()
    return plain and not torch.jit.is_tracing() and not torch.compiler.is_compiling()  # type: ignore[attr-defined]
