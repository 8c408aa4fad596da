"""Convolutions of token maps (B, *extent, C), channels last, and a depth-wise one whose gradient is fast on a CPU.

Seen with channels second, tokens are in PyTorch's channels-last memory format, in which convolutions need no copy on
either side.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

CONVOLUTIONS: dict[int, Callable[..., nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}


class TokenConv(nn.Module):
    """A convolution of tokens (B, *extent, C_in) -> (B, *extent_out, C_out), kernel odd, zeros outside the map."""

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, kernel_size: int, *, stride: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        self.conv = CONVOLUTIONS[spatial_dims](
            in_channels, out_channels, kernel_size, stride=stride or 1, padding=kernel_size // 2
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.conv(tokens.movedim(-1, 1)).movedim(1, -1)


class DepthwiseConv(nn.Module):
    """A depth-wise convolution with bias of tokens (B, *extent, C) -> the same, kernel odd, zeros outside the map."""

    def __init__(self, spatial_dims: int, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = CONVOLUTIONS[spatial_dims](
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels
        )

    def forward(self, tokens: Tensor) -> Tensor:
        image = tokens.movedim(-1, 1)
        if image.device.type != "cpu":
            return self.conv(image).movedim(1, -1)
        weight, bias = self.conv.weight, self.conv.bias
        assert bias is not None
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            image, weight, bias = image.to(dtype), weight.to(dtype), bias.to(dtype)
        return _CpuDepthwise.apply(image, weight, bias).movedim(1, -1)


def _depthwise(image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    convolution = F.conv2d if image.ndim == 4 else F.conv3d
    padding = [k // 2 for k in weight.shape[2:]]
    return convolution(image, weight, bias, padding=padding, groups=image.shape[1])


class _CpuDepthwise(torch.autograd.Function):
    """The depth-wise convolution itself, with the gradients that its definition gives, computed another way.

    oneDNN has fast kernels for the forward pass of any depth-wise convolution, but for the gradients only in 2D and,
    of the weights, only up to 3 columns wide; it takes ten times as long beyond (7x7, and everything in 3D). The
    gradient of the image is itself a convolution, with the mirrored kernel; that of the weights is a set of 2D
    gradients of 3 columns.
    """

    @staticmethod
    def forward(ctx, image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(image, weight)
        return _depthwise(image, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        image, weight = ctx.saved_tensors
        axes = list(range(2, weight.ndim))
        to_image = _depthwise(gradient, weight.flip(axes), None)
        to_weight = _weight_gradient_2d if weight.ndim == 4 else _weight_gradient_3d
        return to_image, to_weight(image, gradient, weight.shape[2:]), gradient.sum([0, *axes])


def _weight_gradient_2d(image: Tensor, gradient: Tensor, kernel: torch.Size) -> Tensor:
    """Images and gradients (B, C, H, W) -> (C, 1, *kernel)."""
    rows, columns = kernel
    channels, width = gradient.shape[1], gradient.shape[3]
    if columns <= 3:
        padding = (rows // 2, columns // 2)
        return conv2d_weight(image, (channels, 1, rows, columns), gradient, padding=padding, groups=channels)
    padded = F.pad(image, (columns // 2, columns // 2))
    bands = []
    for first in range(0, columns, 3):
        size = min(3, columns - first)
        bands.append(
            conv2d_weight(
                padded[..., first : first + width + size - 1],
                (channels, 1, rows, size),
                gradient,
                padding=(rows // 2, 0),
                groups=channels,
            )
        )
    return torch.cat(bands, dim=-1)


def _weight_gradient_3d(image: Tensor, gradient: Tensor, kernel: torch.Size) -> Tensor:
    """Images and gradients (B, C, D, H, W) -> (C, 1, *kernel): one 2D gradient for each depth of the kernel."""
    depth = gradient.shape[2]
    reach = kernel[0] // 2

    def as_slices(volumes: Tensor) -> Tensor:
        return volumes.transpose(1, 2).flatten(0, 1)

    padded = F.pad(image, (0, 0, 0, 0, reach, reach))
    slices = as_slices(gradient)
    planes = [_weight_gradient_2d(as_slices(padded[:, :, i : i + depth]), slices, kernel[1:]) for i in range(kernel[0])]
    return torch.stack(planes, dim=2)
