"""DeepLabv2's idea on the planned encoder: resolution kept at an eighth, dilated stages, atrous classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn
from torch.nn import functional as F

_CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM: dict[int, Any] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def _dilated(in_channels: int, out_channels: int, kernel: Sequence[int], dilation: int) -> Any:
    """A convolution of unchanged size; axes of kernel 1 (thick slices) are not dilated."""
    spread = tuple(dilation if k > 1 else 1 for k in kernel)
    padding = tuple(k // 2 * d for k, d in zip(kernel, spread, strict=True))
    return _CONV[len(kernel)](in_channels, out_channels, tuple(kernel), padding=padding, dilation=spread)


class DilatedBlock(nn.Module):
    """Residual pair of dilated convolutions with instance norm, from `in_channels` to `out_channels`."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Sequence[int], dilation: int) -> None:
        super().__init__()
        dims = len(kernel)
        self.conv1 = _dilated(in_channels, out_channels, kernel, dilation)
        self.norm1 = _NORM[dims](out_channels, affine=True)
        self.conv2 = _dilated(out_channels, out_channels, kernel, dilation)
        self.norm2 = _NORM[dims](out_channels, affine=True)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else _CONV[dims](in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *S) -> (B, out_channels, *S)."""
        y = F.leaky_relu(self.norm1(self.conv1(x)), 0.01)
        return F.leaky_relu(self.norm2(self.conv2(y)) + self.shortcut(x), 0.01)


class DeepLab(nn.Module):
    """Encoder down to an eighth, two dilated stages in place of further striding, and atrous spatial pyramid pooling.

    The published network (Chen et al., TPAMI 2018; CBAL's backbone) is a ResNet-101 with ImageNet weights; here the
    encoder is that of nnU-Net's plans, trained from scratch, with any number of channels, in 2D and 3D. ASPP is the
    sum of 3-wide classifiers of several dilations, enlarged linearly, as published.

    Args:
        in_channels: of the image.
        out_channels: classes.
        features, kernel_sizes, strides: per stage as in the plans; stages beyond `reduction` are replaced.
        reduction: how much smaller the feature maps are than the image, along the axis that shrinks most.
        rates: dilations of ASPP.

    Attributes:
        feature_channels, feature_scales: of what `forward_features` returns, sizes by the image's per axis.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        features: Sequence[int],
        kernel_sizes: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        *,
        reduction: int = 8,
        rates: Sequence[int] = (6, 12, 18, 24),
    ) -> None:
        super().__init__()
        dims = len(strides[0])
        shrunk = np.cumprod([list(s) for s in strides], axis=0)
        stages = max(1, int((shrunk.max(1) <= reduction).sum()))
        self.encoder = PlainConvEncoder(
            in_channels,
            stages,
            list(features[:stages]),
            _CONV[dims],
            [list(k) for k in kernel_sizes[:stages]],
            [list(s) for s in strides[:stages]],
            2,
            conv_bias=True,
            norm_op=_NORM[dims],
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            return_skips=False,
        )
        kernel = kernel_sizes[stages - 1]
        widths = [features[min(stages + i, len(features) - 1)] for i in range(2)]
        self.conv4 = DilatedBlock(features[stages - 1], widths[0], kernel, 2)
        self.conv5 = DilatedBlock(widths[0], widths[1], kernel, 4)
        self.classifiers = nn.ModuleList(_dilated(widths[1], out_channels, kernel, rate) for rate in rates)
        self.feature_channels = tuple(widths)
        self.feature_scales = (tuple(1 / int(s) for s in shrunk[stages - 1]),) * 2
        self.apply(InitWeights_He(1e-2))

    def forward_features(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, C, *S) -> logits (B, K, *S) and the two dilated stages' features."""
        conv4 = self.conv4(self.encoder(x))
        conv5 = self.conv5(conv4)
        scores = sum(classify(conv5) for classify in self.classifiers)
        mode = "bilinear" if x.ndim == 4 else "trilinear"
        return F.interpolate(scores, size=x.shape[2:], mode=mode, align_corners=False), [conv4, conv5]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> logits (B, K, *S)."""
        return self.forward_features(x)[0]
