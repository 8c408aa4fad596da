"""PatchGAN: scores overlapping patches instead of the whole image (Isola et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from nnunet_ext.networks.generators import initialise
from nnunet_ext.networks.region_norm import PlainNorm


class PatchDiscriminator(nn.Module):
    """Convolutions of width 4, `layers` of them halving the resolution; 70-pixel patches at the defaults.

    With one channel, width 64 and 3 layers it has the published 2,762,689 parameters.

    Args:
        in_channels: image channels.
        width: channels of the first layer, doubled by each further one up to 8 * width.
        layers: halvings.
        spatial_dims: 2 or 3.
        stride: of a halving, per axis; an axis of stride 1 is convolved 3-wide and keeps its size.
    """

    def __init__(
        self,
        in_channels: int = 1,
        width: int = 64,
        layers: int = 3,
        *,
        spatial_dims: int = 2,
        stride: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        conv: Any = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        stride = tuple(stride or (2,) * spatial_dims)
        kernel = tuple(4 if s > 1 else 3 for s in stride)
        modules: list[nn.Module] = [conv(in_channels, width, kernel, stride, 1), nn.LeakyReLU(0.2)]
        channels = width
        for index in range(1, layers + 1):
            wider = width * min(2**index, 8)
            step = stride if index < layers else (1,) * spatial_dims
            modules += [conv(channels, wider, kernel, step, 1), PlainNorm(wider), nn.LeakyReLU(0.2)]
            channels = wider
        modules.append(conv(channels, 1, kernel, 1, 1))
        self.layers = nn.Sequential(*modules)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *spatial) -> scores (B, 1, *patches); each halved axis needs at least 24 pixels."""
        return self.layers(x)
