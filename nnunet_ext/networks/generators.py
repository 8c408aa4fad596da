"""ResNet generators for image translation, after Johnson et al. 2016 as CycleGAN and CUT use them.

With one channel, width 64 and 9 blocks a generator has 11,365,633 parameters, as published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_ext.networks.region_norm import PlainNorm

NormFactory = Callable[[int], nn.Module]
_CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class Blur(nn.Module):
    """Binomial smoothing [1 2 1]/4 along every axis whose stride is above 1, then that stride (Zhang 2019)."""

    def __init__(self, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(stride)
        kernel = torch.ones([1] * len(self.stride))
        for axis, s in enumerate(self.stride):
            line = torch.tensor([1.0, 2.0, 1.0]) / 4 if s > 1 else torch.ones(1)
            kernel = kernel * line.reshape([-1 if a == axis else 1 for a in range(len(self.stride))])
        self.register_buffer("kernel", kernel[None, None], persistent=False)
        self.padding = [p for size in reversed(kernel.shape) for p in (size // 2, size // 2)]

    def forward(self, x: Tensor) -> Tensor:
        convolve = F.conv2d if x.ndim == 4 else F.conv3d
        kernel = self.get_buffer("kernel").to(x).expand(x.shape[1], 1, *[-1] * (x.ndim - 2))
        return convolve(F.pad(x, self.padding, mode="replicate"), kernel, stride=self.stride, groups=x.shape[1])


class ResidualBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), 3-wide reflected convolutions of unchanged width."""

    def __init__(self, channels: int, norm: NormFactory, spatial_dims: int) -> None:
        super().__init__()
        conv = _CONV[spatial_dims]
        mode = "reflect" if spatial_dims == 2 else "replicate"
        self.conv1 = conv(channels, channels, 3, padding=1, padding_mode=mode)
        self.norm1 = norm(channels)
        self.conv2 = conv(channels, channels, 3, padding=1, padding_mode=mode)
        self.norm2 = norm(channels)

    def forward(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x), masks))
        return x + self.norm2(self.conv2(y), masks)


class ResNetEncoder(nn.Module):
    """7-wide stem, two halvings of the resolution that double the width, then residual blocks.

    Args:
        in_channels: image channels (neighbouring slices in 2.5D).
        width: channels of the stem; the encoder ends with 4 * width.
        blocks: residual blocks.
        spatial_dims: 2 or 3.
        stride: of each of the two halvings, per axis; 1 leaves an axis as it is (thick slices). 2 without.
        norm: makes the normalisation layer for a number of channels; called with (features, masks).
        antialias: blur before each halving instead of a strided convolution, as CUT does.
    """

    def __init__(
        self,
        in_channels: int = 1,
        width: int = 64,
        blocks: int = 9,
        *,
        spatial_dims: int = 2,
        stride: Sequence[int] | None = None,
        norm: NormFactory = PlainNorm,
        antialias: bool = False,
    ) -> None:
        super().__init__()
        conv = _CONV[spatial_dims]
        self.stride = tuple(stride or (2,) * spatial_dims)
        mode = "reflect" if spatial_dims == 2 else "replicate"
        self.stem = conv(in_channels, width, 7, padding=3, padding_mode=mode)
        self.stem_norm = norm(width)
        self.downs = nn.ModuleList(
            conv(c, 2 * c, 3, stride=1 if antialias else self.stride, padding=1) for c in (width, 2 * width)
        )
        self.down_norms = nn.ModuleList(norm(2 * c) for c in (width, 2 * width))
        self.blur = Blur(self.stride) if antialias else nn.Identity()
        self.blocks = nn.ModuleList(ResidualBlock(4 * width, norm, spatial_dims) for _ in range(blocks))
        self.out_channels = 4 * width
        #: channels of what `forward_features` returns
        self.feature_channels = [in_channels, 2 * width, 4 * width] + [4 * width] * min(blocks, 2)

    def forward(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        """(B, in_channels, *spatial), sizes divisible by stride^2 -> (B, 4 * width, *spatial / stride^2)."""
        return self.forward_features(x, masks)[0]

    def forward_features(
        self, x: Tensor, masks: Tensor | None = None, *, only: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Also the five features that PatchNCE contrasts: CUT's layers 0, 4, 8, 12 and 16.

        They are the image, both halving convolutions, the first and the fifth (or last) residual block.

        Args:
            only: the features are all that is wanted; the blocks after the fifth do not run.

        Returns:
            the encoder's output (with `only` the last feature) and the features, whose channels are
            `feature_channels`.
        """
        features = [x]
        x = F.relu(self.stem_norm(self.stem(x), masks))
        for down, norm in zip(self.downs, self.down_norms, strict=True):
            x = down(x)
            features.append(x)
            x = self.blur(F.relu(norm(x, masks)))
        last = min(5, len(self.blocks)) - 1
        for index, block in enumerate(self.blocks):
            x = block(x, masks)
            if index in (0, last):
                features.append(x)
            if only and index == last:
                break
        return x, features


class ResNetDecoder(nn.Module):
    """Residual blocks, two doublings of the resolution that halve the width, and a 7-wide output layer.

    Args:
        out_channels: channels of the image, or classes.
        width: of the last hidden layer; the decoder takes 4 * width channels.
        blocks: residual blocks before the doublings.
        tanh: end with tanh (images in [-1, 1]); without it the output is raw (logits).
        spatial_dims, stride, norm: as in `ResNetEncoder`.
        antialias: interpolate, then convolve, instead of a transposed convolution.
    """

    def __init__(
        self,
        out_channels: int = 1,
        width: int = 64,
        blocks: int = 0,
        *,
        tanh: bool = True,
        spatial_dims: int = 2,
        stride: Sequence[int] | None = None,
        norm: NormFactory = PlainNorm,
        antialias: bool = False,
    ) -> None:
        super().__init__()
        self.stride = tuple(stride or (2,) * spatial_dims)
        self.antialias = antialias
        conv, transposed = _CONV[spatial_dims], _TRANSPOSED[spatial_dims]
        mode = "reflect" if spatial_dims == 2 else "replicate"
        self.blocks = nn.ModuleList(ResidualBlock(4 * width, norm, spatial_dims) for _ in range(blocks))
        self.ups = nn.ModuleList(
            conv(c, c // 2, 3, padding=1)
            if antialias
            else transposed(c, c // 2, 3, stride=self.stride, padding=1, output_padding=[s - 1 for s in self.stride])
            for c in (4 * width, 2 * width)
        )
        self.up_norms = nn.ModuleList(norm(c // 2) for c in (4 * width, 2 * width))
        self.head = conv(width, out_channels, 7, padding=3, padding_mode=mode)
        self.tanh = tanh

    def forward(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        """(B, 4 * width, *spatial) -> (B, out_channels, *spatial * stride^2)."""
        for block in self.blocks:
            x = block(x, masks)
        for up, norm in zip(self.ups, self.up_norms, strict=True):
            if self.antialias:
                mode = "bilinear" if x.ndim == 4 else "trilinear"
                x = F.interpolate(x, scale_factor=[float(s) for s in self.stride], mode=mode, align_corners=False)
            x = F.relu(norm(up(x), masks))
        x = self.head(x)
        return torch.tanh(x) if self.tanh else x


class ResNetGenerator(nn.Module):
    """Encoder and decoder in one; image in, image of the same size in [-1, 1] out, for any spatial size.

    Args:
        in_channels, out_channels: image channels.
        width: channels of the outermost layers (64 in the papers).
        blocks: residual blocks (9 in CycleGAN, CUT and AccSeg-Net).
        spatial_dims, stride, norm, antialias: see `ResNetEncoder`.
        decoder_norm: the decoder's normalisation where it differs.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 64,
        blocks: int = 9,
        *,
        spatial_dims: int = 2,
        stride: Sequence[int] | None = None,
        norm: NormFactory = PlainNorm,
        decoder_norm: NormFactory | None = None,
        antialias: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = ResNetEncoder(
            in_channels, width, blocks, spatial_dims=spatial_dims, stride=stride, norm=norm, antialias=antialias
        )
        self.decoder = ResNetDecoder(
            out_channels,
            width,
            spatial_dims=spatial_dims,
            stride=stride,
            norm=decoder_norm or norm,
            antialias=antialias,
        )
        initialise(self)

    @property
    def feature_channels(self) -> list[int]:
        """Channels of what `forward_features` returns, for `PatchProjector`."""
        return self.encoder.feature_channels

    def forward(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        """(B, in_channels, *spatial) -> (B, out_channels, *spatial), in [-1, 1]."""
        padded, masks, cut = pad_to_stride(x, masks, self.encoder.stride)
        return self.decoder(self.encoder(padded, masks), masks)[cut]

    def forward_all(self, x: Tensor, masks: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """The translated image and, from the same pass, the encoder's features of `x`."""
        padded, masks, cut = pad_to_stride(x, masks, self.encoder.stride)
        code, features = self.encoder.forward_features(padded, masks)
        return self.decoder(code, masks)[cut], features

    def forward_features(self, x: Tensor, masks: Tensor | None = None) -> list[Tensor]:
        """The encoder's features for PatchNCE; nothing behind them runs. See `ResNetEncoder.forward_features`."""
        padded, masks, _ = pad_to_stride(x, masks, self.encoder.stride)
        return self.encoder.forward_features(padded, masks, only=True)[1]


def pad_to_stride(
    x: Tensor, masks: Tensor | None, stride: Sequence[int]
) -> tuple[Tensor, Tensor | None, tuple[slice, ...]]:
    """Pad the end of every axis to a multiple of stride^2, and to at least 4 pixels, which a 7-wide reflection needs.

    Returns:
        the padded image and masks, and the slices that cut an output back to the size of `x`.
    """
    missing = [max(-n % s**2, 4 - n) for n, s in zip(x.shape[2:], stride, strict=True)]
    cut = (slice(None), slice(None), *(slice(n) for n in x.shape[2:]))
    if not any(missing):
        return x, masks, cut
    padding = [p for m in reversed(missing) for p in (0, m)]
    x = F.pad(x, padding, mode="replicate")
    return x, None if masks is None else F.pad(masks.float(), padding, mode="replicate"), cut


def initialise(network: nn.Module, std: float = 0.02) -> None:
    """Weights of all convolutions and linear layers from N(0, std), biases 0 (CycleGAN's initialisation)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
