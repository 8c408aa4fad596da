"""A U-Net with concurrent spatial and channel squeeze & excitation at every level: AccSeg-Net's DuSEUNet."""

from __future__ import annotations

from typing import Any

from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import Tensor, nn


class DualSqueezeExcitation(nn.Module):
    """x * channel gate + x * spatial gate (scSE, Roy et al., MICCAI 2018, eqs. 1 to 5, added up).

    Args:
        channels: of the feature map.
        spatial_dims: 2 or 3.
        reduction: width of the channel gate's hidden layer is `channels` by this.
    """

    def __init__(self, channels: int, spatial_dims: int, reduction: int = 2) -> None:
        super().__init__()
        conv: Any = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        hidden = max(1, channels // reduction)
        self.channel = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.spatial = conv(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> the same shape."""
        channel = self.channel(x.flatten(2).mean(2)).sigmoid().reshape(*x.shape[:2], *[1] * (x.ndim - 2))
        return x * (channel + self.spatial(x).sigmoid())


class DuSEUNet(PlainConvUNet):
    """nnU-Net's plain U-Net with a `DualSqueezeExcitation` behind every stage of encoder and decoder.

    It takes the arguments of `PlainConvUNet`, so the resolutions and widths of any plans fit; AccSeg-Net has 5 levels.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        dims = 2 if self.encoder.conv_op is nn.Conv2d else 3
        widths = list(self.encoder.output_channels)
        self.encoder.stages = nn.Sequential(
            *(
                nn.Sequential(s, DualSqueezeExcitation(c, dims))
                for s, c in zip(self.encoder.stages, widths, strict=True)
            )
        )
        self.decoder.stages = nn.ModuleList(
            nn.Sequential(s, DualSqueezeExcitation(c, dims))
            for s, c in zip(self.decoder.stages, widths[-2::-1], strict=True)
        )
