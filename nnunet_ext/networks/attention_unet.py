"""A U-Net whose skip connections pass through attention gates (Oktay et al., MIDL 2018)."""

from __future__ import annotations

from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import Tensor, nn


class AttentionGate(nn.Module):
    """Scales a skip connection by how much it matters to what comes from below (Oktay et al., MIDL 2018, eqs. 1 and 2).

    alpha = sigmoid(psi(relu(W_x x + W_g g + b_g))), at the skip's resolution, where the decoder has g already.

    Args:
        channels: of the skip and of the gating signal.
        spatial_dims: 2 or 3.
    """

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        conv: Any = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        hidden = max(1, channels // 2)
        self.skip = conv(channels, hidden, 1, bias=False)
        self.gate = conv(channels, hidden, 1)
        self.psi = conv(hidden, 1, 1)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        """Two maps (B, C, *S) -> the gated skip, of the same shape."""
        return skip * self.psi((self.skip(skip) + self.gate(gate)).relu()).sigmoid()


class AttentionUNet(PlainConvUNet):
    """nnU-Net's plain U-Net whose skip connections pass through attention gates; full-resolution logits only.

    It takes the arguments of `PlainConvUNet`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        dims = 2 if self.encoder.conv_op is nn.Conv2d else 3
        self.gates = nn.ModuleList(AttentionGate(c, dims) for c in list(self.encoder.output_channels)[-2::-1])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> logits (B, K, *S)."""
        *skips, below = self.encoder(x)
        decoder = self.decoder
        for stage, upsample, gate, skip in zip(
            decoder.stages, decoder.transpconvs, self.gates, reversed(skips), strict=True
        ):
            up = upsample(below)
            below = stage(torch.cat((up, gate(skip, up)), dim=1))
        return decoder.seg_layers[-1](below)
