"""What changes the resolution of a token map or joins two: embedding, merging, expansion, up-sampling and skips.

Tokens are (B, *extent, C), channels last. Strides are per axis, so that the few slices of an anisotropic volume need
not be merged as often as its rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_ext.networks.token_convolution import CONVOLUTIONS, TokenConv

TRANSPOSED: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def pad_to_multiple(tokens: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Append zeros to (B, *extent, C) until each stride divides its axis."""
    missing = [-e % s for e, s in zip(tokens.shape[1:-1], strides, strict=True)]
    if not any(missing):
        return tokens
    return F.pad(tokens, (0, 0, *(p for m in reversed(missing) for p in (0, m))))


def crop(tokens: Tensor, extent: tuple[int, ...]) -> Tensor:
    """(B, *larger, C) -> (B, *extent, C): undo the padding of an earlier stage."""
    for axis, length in enumerate(extent, start=1):
        if tokens.shape[axis] != length:
            tokens = tokens.narrow(axis, 0, length)
    return tokens


def space_to_depth(tokens: Tensor, strides: tuple[int, ...]) -> Tensor:
    """(B, *extent, C) -> (B, *extent / strides, prod(strides) * C); strides divide the extent."""
    batch, *extent, channels = tokens.shape
    dims = len(strides)
    split = [n for e, s in zip(extent, strides, strict=True) for n in (e // s, s)]
    order = [0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 2 * dims + 1]
    return tokens.reshape(batch, *split, channels).permute(order).flatten(dims + 1)


def depth_to_space(tokens: Tensor, strides: tuple[int, ...]) -> Tensor:
    """(B, *extent, prod(strides) * C) -> (B, *extent * strides, C), the inverse of `space_to_depth`."""
    batch, *extent, channels = tokens.shape
    dims = len(strides)
    order = [0, *(axis for i in range(dims) for axis in (1 + i, 1 + dims + i)), 2 * dims + 1]
    parts = tokens.reshape(batch, *extent, *strides, channels // prod(strides)).permute(order)
    return parts.reshape(batch, *(e * s for e, s in zip(extent, strides, strict=True)), -1)


class Dropout(nn.Module):
    """Dropout of single numbers, as `nn.Dropout`, with cheaper random bits on a CPU.

    There PyTorch draws each number by itself, which costs several percent of a training step. Here one draw of 64
    bits serves four numbers, so `rate` is kept to 1 / 65536.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, tokens: Tensor) -> Tensor:
        if not self.training or self.rate == 0 or tokens.device.type != "cpu":
            return F.dropout(tokens, self.rate, self.training)
        count = tokens.numel()
        bits = torch.randint(-(2**63), 2**63 - 1, (-(-count // 4),)).view(torch.int16)[:count]
        keep = bits >= round(self.rate * 2**16) - 2**15
        return tokens * keep.view(tokens.shape).to(tokens.dtype).mul_(1 / (1 - self.rate))


class LinearEmbedding(nn.Module):
    """Non-overlapping patches to tokens, (B, C_in, *size) -> (B, *ceil(size / strides), C): strided conv -> LN."""

    def __init__(self, in_channels: int, channels: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.strides = strides
        self.conv = CONVOLUTIONS[len(strides)](in_channels, channels, kernel_size=strides, stride=strides)
        self.norm = nn.LayerNorm(channels)

    def forward(self, image: Tensor) -> Tensor:
        padded = pad_to_multiple(image.movedim(1, -1), self.strides)
        return self.norm(self.conv(padded.movedim(-1, 1)).movedim(1, -1))


def halves(stride: int) -> tuple[int, int]:
    """A stride of 1, 2 or 4 in two steps, the finer resolution kept for as long as possible."""
    return {1: (1, 1), 2: (1, 2), 4: (2, 2)}[stride]


class ConvolutionalEmbedding(nn.Sequential):
    """Overlapping patches to tokens (thesis 3.3.3), (B, C_in, *size) -> (B, *ceil(size / strides), C).

    Four 3x3 convolutions with GELU, d/2, d/2, d, d channels, of which the second and the fourth are strided; LN after
    the second and (unstated in the text) after the fourth.
    """

    def __init__(self, in_channels: int, channels: int, strides: tuple[int, ...]) -> None:
        dims, half = len(strides), channels // 2
        first, second = zip(*(halves(s) for s in strides), strict=True)
        super().__init__(
            TokenConv(dims, in_channels, half, 3),
            nn.GELU(),
            TokenConv(dims, half, half, 3, stride=first),
            nn.GELU(),
            nn.LayerNorm(half),
            TokenConv(dims, half, channels, 3),
            nn.GELU(),
            TokenConv(dims, channels, channels, 3, stride=second),
            nn.GELU(),
            nn.LayerNorm(channels),
        )

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image.movedim(1, -1))


class PatchMerging(nn.Module):
    """Merge neighbouring tokens, (B, *extent, C) -> (B, *ceil(extent / strides), 2C): concatenate -> LN -> linear."""

    def __init__(self, channels: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.strides = strides
        merged = prod(strides) * channels
        self.norm = nn.LayerNorm(merged)
        self.reduction = nn.Linear(merged, 2 * channels, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.reduction(self.norm(space_to_depth(pad_to_multiple(tokens, self.strides), self.strides)))


class PatchExpansion(nn.Module):
    """Swin-Unet's up-sampling, (B, *extent, C) -> (B, *extent * strides, C_out): linear -> rearrange -> LN."""

    def __init__(self, channels: int, out_channels: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.strides = strides
        self.expand = nn.Linear(channels, prod(strides) * out_channels, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(depth_to_space(self.expand(tokens), self.strides))


class ConvolutionalUpsampling(nn.Module):
    """CS-Unet's up-sampling, (B, *extent, C) -> (B, *extent * strides, C/2): LN -> strided deconvolution -> GELU."""

    def __init__(self, channels: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.deconv = TRANSPOSED[len(strides)](channels, channels // 2, kernel_size=strides, stride=strides)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.gelu(self.deconv(self.norm(tokens).movedim(-1, 1)).movedim(1, -1))


class LinearSkip(nn.Module):
    """Join decoder and encoder tokens of one shape, C each: concatenate -> linear 2C -> C."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, channels)

    def forward(self, tokens: Tensor, skip: Tensor) -> Tensor:
        return self.linear(torch.cat([tokens, skip], dim=-1))


class ConvolutionalSkip(nn.Module):
    """SC module, C each: concatenate (d = 2C) -> 3x3 conv, d/2 -> GELU -> 3x3 conv, d/2 -> GELU."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.merge = TokenConv(spatial_dims, 2 * channels, channels, 3)
        self.refine = TokenConv(spatial_dims, channels, channels, 3)

    def forward(self, tokens: Tensor, skip: Tensor) -> Tensor:
        return F.gelu(self.refine(F.gelu(self.merge(torch.cat([tokens, skip], dim=-1)))))
