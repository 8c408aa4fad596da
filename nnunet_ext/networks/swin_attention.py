"""(Shifted) window multi-head self-attention, linear (Swin Transformer) or convolutional (CS-Unet, thesis 3.3.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_ext.networks.swin_windows import WindowLayout, cached_layout, cached_position_index
from nnunet_ext.networks.token_convolution import DepthwiseConv

Projection = Literal["linear", "map", "window"]
AttentionOutput = Literal["linear", "convolutional"]


class WindowAttention(nn.Module):
    """(S)W-MSA or (S)W-CMSA over a token map, normalisation and residual not included (eqs. 3.1, 3.3, 3.5).

    softmax(q k^T / sqrt(d) + B) v within each window, with q, k, v and the output by

    - projection "linear": one linear layer C -> 3C; "window": three 3x3 depth-wise convolutions of every window by
      itself; "map": the same over the whole map before it is cut;
    - output "linear": C -> C; "convolutional": a 3x3 depth-wise convolution of every window by itself, then GELU,
      before windows are reversed.

    A window that the shift or the map's end has cut is convolved as it lies on the map: neither what the cyclic shift
    puts beside it nor padding is within reach of its kernels or visible to its queries.

    Args:
        spatial_dims: 2 or 3.
        channels: C, a multiple of `num_heads`.
        num_heads: attention heads, each of d = C / num_heads channels.
        window_size: largest window, tokens per axis; see `swin_windows.window_shape`.
        shifted: shift the windows by half their size along axes with more than one.
        position_bias: add the relative position bias B, one learnt number per head and offset.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        num_heads: int,
        window_size: tuple[int, ...],
        *,
        shifted: bool,
        projection: Projection,
        output: AttentionOutput,
        position_bias: bool,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.shifted = shifted
        self.projection = projection
        self.qkv = nn.Linear(channels, 3 * channels) if projection == "linear" else None
        self.qkv_convs = (
            nn.ModuleList(DepthwiseConv(spatial_dims, channels, 3) for _ in range(3))
            if projection != "linear"
            else None
        )
        self.linear_output = nn.Linear(channels, channels) if output == "linear" else None
        self.conv_output = DepthwiseConv(spatial_dims, channels, 3) if output == "convolutional" else None
        self.bias_table = (
            nn.Parameter(torch.empty(prod(2 * w - 1 for w in window_size), num_heads)) if position_bias else None
        )
        if self.bias_table is not None:
            nn.init.trunc_normal_(self.bias_table, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, *extent, C) -> the same."""
        # A layout belongs to one shape; counting makes torch.compile fix the shape where it would leave it open.
        extent = tuple(len(range(length)) for length in tokens.shape[1:-1])
        layout = cached_layout(extent, self.window_size, self.shifted, tokens.device)
        q, k, v = self._project(tokens, layout)
        attended = self._attend(q, k, v, layout)
        if self.linear_output is not None:
            return layout.reverse(self.linear_output(attended)).view(tokens.shape)
        assert self.conv_output is not None
        spaced = F.gelu(_convolve(self.conv_output, layout.reverse_spaced(attended), layout.spaced_extent))
        return layout.close(spaced).view(tokens.shape)

    def _project(self, tokens: Tensor, layout: WindowLayout) -> Sequence[Tensor]:
        """(B, *extent, C) -> q, k, v, each (B, rows of windows, C)."""
        rows = tokens.flatten(1, -2)
        if self.qkv is not None:
            return self.qkv(layout.partition(rows)).chunk(3, dim=-1)
        assert self.qkv_convs is not None
        if self.projection == "map":
            return [layout.partition(_convolve(conv, rows, layout.extent)) for conv in self.qkv_convs]
        spaced = layout.space(rows)
        return tuple(layout.partition_spaced(_convolve(conv, spaced, layout.spaced_extent)) for conv in self.qkv_convs)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, layout: WindowLayout) -> Tensor:
        """(B, rows of windows, C) thrice -> the same once."""
        batch, rows, channels = q.shape
        size = prod(layout.window)

        def heads(t: Tensor) -> Tensor:
            return t.view(batch * layout.windows, size, self.num_heads, -1).transpose(1, 2)

        mask = layout.visible
        if self.bias_table is not None:
            index = cached_position_index(layout.window, self.window_size, q.device)
            bias = self.bias_table[index].movedim(-1, 0)[None].to(q.dtype)
            mask = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
        if mask is not None and mask.shape[0] > 1:
            mask = mask.repeat(batch, 1, 1, 1)
        attended = F.scaled_dot_product_attention(heads(q), heads(k), heads(v), attn_mask=mask)
        return attended.transpose(1, 2).reshape(batch, rows, channels)


def _convolve(conv: Callable[[Tensor], Tensor], rows: Tensor, extent: tuple[int, ...]) -> Tensor:
    """Convolve rows (B, prod(extent), C) as the map they are."""
    return conv(rows.view(rows.shape[0], *extent, -1)).flatten(1, -2)
