"""Transformer blocks and stages: Swin (LN, MSA, LN, MLP) and CST (LN, CMSA, DSF; thesis eqs. 3.1-3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nnunet_ext.networks.swin_attention import AttentionOutput, Projection, WindowAttention
from nnunet_ext.networks.token_convolution import DepthwiseConv

FeedForward = Literal["mlp", "dsf"]


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of a network have in common; see `SwinUNet`."""

    spatial_dims: int
    window_size: tuple[int, ...]
    mlp_ratio: float
    projection: Projection
    attention_output: AttentionOutput
    position_bias: bool
    feed_forward: FeedForward
    layer_scale: float | None


class Residual(nn.Module):
    """tokens + factor * branch, with LayerScale (Touvron et al. 2021) and stochastic depth (Huang et al. 2016).

    The factor is a learnt number per channel, if `layer_scale` gives its initial value, times, in training, 0 for a
    share `drop_path` of the samples and 1 / (1 - drop_path) for the others. One product and sum applies both.
    """

    def __init__(self, channels: int, layer_scale: float | None, drop_path: float) -> None:
        super().__init__()
        self.scale = None if layer_scale is None else nn.Parameter(torch.full((channels,), layer_scale))
        self.drop_path = drop_path

    def forward(self, tokens: Tensor, branch: Tensor) -> Tensor:
        """(B, *extent, C) twice -> the same once."""
        if self.training and self.drop_path > 0:
            per_sample = (tokens.shape[0], *(1,) * (tokens.ndim - 1))
            keep = tokens.new_empty(per_sample).bernoulli_(1 - self.drop_path) / (1 - self.drop_path)
            return torch.addcmul(tokens, branch, keep if self.scale is None else keep * self.scale)
        return tokens + branch if self.scale is None else torch.addcmul(tokens, branch, self.scale)


def mlp(channels: int, ratio: float) -> nn.Sequential:
    """LN -> linear d -> ratio d -> GELU -> linear -> d."""
    hidden = round(channels * ratio)
    return nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))


def dsf(spatial_dims: int, channels: int, ratio: float) -> nn.Sequential:
    """Depth-wise separable feed-forward: 7x7 depth-wise convolution -> LN -> two point-wise layers, GELU between."""
    return nn.Sequential(DepthwiseConv(spatial_dims, channels, 7), *mlp(channels, ratio))


class SwinBlock(nn.Module):
    """z' = attention(LN(z)) + z; z'' = feed_forward(z') + z', tokens (B, *extent, C) -> the same.

    The MLP normalises its input, the DSF after its depth-wise convolution. Each branch has its own LayerScale (if
    any) and stochastic depth.
    """

    def __init__(
        self, channels: int, num_heads: int, *, shifted: bool, drop_path: float, options: BlockOptions
    ) -> None:
        super().__init__()
        dims = options.spatial_dims
        self.norm = nn.LayerNorm(channels)
        self.attention = WindowAttention(
            dims,
            channels,
            num_heads,
            options.window_size,
            shifted=shifted,
            projection=options.projection,
            output=options.attention_output,
            position_bias=options.position_bias,
        )
        self.feed_forward = (
            dsf(dims, channels, options.mlp_ratio)
            if options.feed_forward == "dsf"
            else mlp(channels, options.mlp_ratio)
        )
        self.residuals = nn.ModuleList(Residual(channels, options.layer_scale, drop_path) for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.residuals[0](tokens, self.attention(self.norm(tokens)))
        return self.residuals[1](tokens, self.feed_forward(tokens))


class SwinStage(nn.Sequential):
    """Blocks of one resolution, every second one shifted; one block per entry of `drop_path`."""

    def __init__(self, channels: int, num_heads: int, *, drop_path: Sequence[float], options: BlockOptions) -> None:
        super().__init__(
            *(
                SwinBlock(channels, num_heads, shifted=i % 2 == 1, drop_path=rate, options=options)
                for i, rate in enumerate(drop_path)
            )
        )
