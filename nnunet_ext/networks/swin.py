"""Swin-Unet, CS-Unet and every step between them as one network with switches.

Sources: thesis chapter 3 (CS-Unet: eqs. 3.1-3.5, figure 3.3, table 3.3); Swin-Unet (Cao et al. 2021); Swin Transformer
(Liu et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nnunet_ext.errors import InputError
from nnunet_ext.networks.swin_attention import AttentionOutput, Projection
from nnunet_ext.networks.swin_blocks import BlockOptions, FeedForward, SwinStage
from nnunet_ext.networks.swin_layers import (
    ConvolutionalEmbedding,
    ConvolutionalSkip,
    ConvolutionalUpsampling,
    Dropout,
    LinearEmbedding,
    LinearSkip,
    PatchExpansion,
    PatchMerging,
    crop,
)

LinearOrConvolutional = Literal["linear", "convolutional"]

# Table 3.3, row by row: the modules switched on after Swin-Unet (row 0). LayerScale is not a column of the table.
# Row 1 prints the parameter count of row 2, 21.55 M. The convolutional embedding alone gives 27.30 M, and nothing but
# the depth-wise projections saves the difference; so row 1 has them over the whole map (as in CvT, the step before
# 3.3.1's windows), and row 2 has them per window.
_EMBEDDING: dict[str, Any] = {"patch_embedding": "convolutional"}
_ATTENTION: dict[str, Any] = {**_EMBEDDING, "projection": "window", "attention_output": "convolutional"}
_FEED_FORWARD: dict[str, Any] = {**_ATTENTION, "feed_forward": "dsf"}
TABLE_3_3: tuple[Mapping[str, Any], ...] = tuple(
    MappingProxyType(row)
    for row in (
        {"position_bias": True},
        {**_EMBEDDING, "projection": "map", "position_bias": True},
        {**_EMBEDDING, "projection": "window", "position_bias": True},
        {**_ATTENTION, "position_bias": False},
        {**_FEED_FORWARD, "position_bias": False},
        {**_FEED_FORWARD, "skip": "convolutional", "position_bias": True},
        {**_FEED_FORWARD, "skip": "convolutional", "position_bias": False},
    )
)


class SwinUNet(nn.Module):
    """U-shaped (convolutional) Swin Transformer for images and volumes of any size.

    (B, in_channels, *size) -> logits (B, out_channels, *size). Sizes that patches do not divide are padded with zeros
    at the end of the axis and cropped back; padding of windows is masked, see `swin_attention.WindowAttention`.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        spatial_dims: 2 or 3.
        embed_dim: C, channels at the first resolution; they double with every merging.
        depths: encoder blocks per resolution, finest first; the last entry is the bottleneck.
        decoder_depths: decoder blocks per resolution, coarsest first, one entry fewer than `depths` (the published
            "2/2/2/1" counts the bottleneck's expansion as a stage).
        num_heads: attention heads per resolution, finest first; the decoder has the encoder's.
        window_size: largest window, tokens per axis, one number or one per axis.
        patch_strides: voxels per token at the first resolution, 1, 2 or 4 per axis.
        merge_strides: 1 or more per merging and axis; 2 everywhere by default.
        mlp_ratio: width of the feed-forward's hidden layer / C.
        patch_embedding: "linear" patches or four overlapping convolutions (Emb of table 3.3).
        projection: q, k, v by "linear" layers or by depth-wise convolutions of the "map" or of each "window" (Proj).
        attention_output: "linear" layer or depth-wise convolution of each window (Att).
        position_bias: relative position bias B of eq. 3.5 (Pos).
        feed_forward: "mlp" or "dsf" (DSF).
        skip: "linear" patch expansion and skip, or deconvolution and skip convolutions (SC).
        layer_scale: initial LayerScale of both branches of a block, None for none (1e-6 text, 0.7 published code).
        dropout: rate after embedding, up-sampling and skips.
        drop_path: stochastic depth of the deepest block; it grows linearly from 0 down the encoder and shrinks back
            to 0 up the decoder.
        deep_supervision: add a classifier to every decoder resolution and return a list of logits.

    Attributes:
        deep_supervision: whether `forward` returns a list (needs the classifiers, so construction with True) or the
            logits alone; may be switched at any time.

    Raises:
        InputError: an option is unknown or does not fit the others.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 2,
        *,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 2, 2),
        decoder_depths: Sequence[int] = (2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int | Sequence[int] = 7,
        patch_strides: int | Sequence[int] = 4,
        merge_strides: Sequence[int | Sequence[int]] | None = None,
        mlp_ratio: float = 4.0,
        patch_embedding: LinearOrConvolutional = "linear",
        projection: Projection = "linear",
        attention_output: AttentionOutput = "linear",
        position_bias: bool = True,
        feed_forward: FeedForward = "mlp",
        skip: LinearOrConvolutional = "linear",
        layer_scale: float | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        _one_of("spatial_dims", spatial_dims, (2, 3))
        _one_of("patch_embedding", patch_embedding, ("linear", "convolutional"))
        _one_of("projection", projection, ("linear", "map", "window"))
        _one_of("attention_output", attention_output, ("linear", "convolutional"))
        _one_of("feed_forward", feed_forward, ("mlp", "dsf"))
        _one_of("skip", skip, ("linear", "convolutional"))
        levels = len(depths)
        _length("decoder_depths", decoder_depths, levels - 1)
        _length("num_heads", num_heads, levels)
        channels = [embed_dim * 2**level for level in range(levels)]
        for width, heads in zip(channels, num_heads, strict=True):
            if width % heads:
                raise InputError(f"num_heads: {heads} heads at {width} channels, a divisor of the channels is needed")
        patch = _per_axis("patch_strides", patch_strides, spatial_dims)
        for stride in patch:
            _one_of("patch_strides", stride, (1, 2, 4))
        steps = (2,) * (levels - 1) if merge_strides is None else merge_strides
        _length("merge_strides", steps, levels - 1)
        merges = [_per_axis("merge_strides", step, spatial_dims) for step in steps]
        options = BlockOptions(
            spatial_dims=spatial_dims,
            window_size=_per_axis("window_size", window_size, spatial_dims),
            mlp_ratio=mlp_ratio,
            projection=projection,
            attention_output=attention_output,
            position_bias=position_bias,
            feed_forward=feed_forward,
            layer_scale=layer_scale,
        )
        self.out_channels = out_channels
        self.deep_supervision = deep_supervision
        self.dropout = Dropout(dropout)

        embedding = LinearEmbedding if patch_embedding == "linear" else ConvolutionalEmbedding
        self.embedding = embedding(in_channels, embed_dim, patch)
        rates = iter(_ramp(drop_path, sum(depths)))
        self.encoder = nn.ModuleList(
            SwinStage(width, heads, drop_path=[next(rates) for _ in range(depth)], options=options)
            for width, heads, depth in zip(channels, num_heads, depths, strict=True)
        )
        self.merges = nn.ModuleList(PatchMerging(c, s) for c, s in zip(channels[:-1], merges, strict=True))
        self.encoder_norm = nn.LayerNorm(channels[-1])

        # The decoder's resolutions, coarsest first.
        upward = list(zip(reversed(channels[:-1]), reversed(num_heads[:-1]), reversed(merges), strict=True))
        rates = reversed(_ramp(drop_path, sum(decoder_depths)))
        self.ups = nn.ModuleList(
            PatchExpansion(2 * width, width, strides)
            if skip == "linear"
            else ConvolutionalUpsampling(2 * width, strides)
            for width, _, strides in upward
        )
        self.skips = nn.ModuleList(
            LinearSkip(width) if skip == "linear" else ConvolutionalSkip(spatial_dims, width) for width, _, _ in upward
        )
        self.decoder = nn.ModuleList(
            SwinStage(width, heads, drop_path=[next(rates) for _ in range(depth)], options=options)
            for (width, heads, _), depth in zip(upward, decoder_depths, strict=True)
        )
        self.decoder_norm = nn.LayerNorm(embed_dim)
        self.final_expansion = PatchExpansion(embed_dim, embed_dim, patch)
        self.classifier = nn.Linear(embed_dim, out_channels, bias=False)
        self.auxiliary_classifiers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out_channels, bias=False)) for width, _, _ in upward
        )
        if not deep_supervision:
            self.auxiliary_classifiers = nn.ModuleList()

        self._strides = [patch]
        for step in merges:
            self._strides.append(tuple(a * b for a, b in zip(self._strides[-1], step, strict=True)))
        self.feature_channels: tuple[int, ...] = (embed_dim, *channels[:-1])
        self.apply(_initialise)
        # Tokens are channels last; weights in the same format spare a copy of each at every step.
        self.to(memory_format=torch.channels_last if spatial_dims == 2 else torch.channels_last_3d)

    @property
    def feature_scales(self) -> list[list[float]]:
        """Size of each map of `forward_features` relative to the image, per axis: [[1, 1], [1/4, 1/4], ...]."""
        return [[1.0] * len(self._strides[0]), *([1 / s for s in strides] for strides in self._strides[:-1])]

    @property
    def deep_supervision_scales(self) -> list[list[float]]:
        """Scales of the list that `forward` returns under deep supervision, full resolution first (nnU-Net's form)."""
        return self.feature_scales[: 1 + len(self.auxiliary_classifiers)]

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """(B, in_channels, *size) -> logits (B, out_channels, *size), or a list, finest first, with deep supervision.

        The logits of scale s have round(s * size) voxels, as nnU-Net's down-sampled targets have.
        """
        return self.forward_features(image)[0]

    def forward_features(self, image: Tensor) -> tuple[Tensor | list[Tensor], list[Tensor]]:
        """Logits as from `forward`, and the decoder's feature maps for contrastive heads.

        Returns:
            The logits, and maps (B, feature_channels[i], *size_i), finest first: the last features before the
            classifier at full resolution, then those of each decoder resolution, of ceil(size / stride) voxels.
        """
        size = tuple(image.shape[2:])
        maps = self._decode(self._encode(image))
        full = crop(self.final_expansion(self.decoder_norm(maps[0])), size)
        logits = self.classifier(full).movedim(-1, 1)
        features = [tokens.movedim(-1, 1) for tokens in (full, *maps)]
        if not self.deep_supervision:
            return logits, features
        outputs = [logits]
        for classifier, tokens, scale in zip(
            reversed(self.auxiliary_classifiers), maps, self.deep_supervision_scales[1:], strict=True
        ):
            target = tuple(max(1, round(n * s)) for n, s in zip(size, scale, strict=True))
            outputs.append(classifier(crop(tokens, target)).movedim(-1, 1))
        return outputs, features

    def _encode(self, image: Tensor) -> list[Tensor]:
        """Image -> tokens of every resolution, finest first; the last are normalised."""
        tokens = self.encoder[0](self.dropout(self.embedding(image)))
        maps = [tokens]
        for merge, stage in zip(self.merges, self.encoder[1:], strict=True):
            maps.append(stage(merge(maps[-1])))
        maps[-1] = self.encoder_norm(maps[-1])
        return maps

    def _decode(self, encoded: list[Tensor]) -> list[Tensor]:
        """The encoder's tokens -> the decoder's, finest first, without the bottleneck."""
        tokens = encoded[-1]
        maps: list[Tensor] = []
        for up, skip, stage, shallow in zip(self.ups, self.skips, self.decoder, reversed(encoded[:-1]), strict=True):
            raised = crop(self.dropout(up(tokens)), tuple(shallow.shape[1:-1]))
            tokens = stage(self.dropout(skip(raised, shallow)))
            maps.insert(0, tokens)
        return maps


def swin_unet(in_channels: int, out_channels: int, spatial_dims: int = 2, **options: Any) -> SwinUNet:
    """Swin-Unet, row 0 of table 3.3, with drop-path 0.2; `options` as for `SwinUNet`, which they override."""
    return SwinUNet(in_channels, out_channels, spatial_dims, **{**TABLE_3_3[0], "drop_path": 0.2, **options})


def csunet(in_channels: int, out_channels: int, spatial_dims: int = 2, **options: Any) -> SwinUNet:
    """CS-Unet, row 6 of table 3.3, with LayerScale 1e-6 and dropout and drop-path 0.2; `options` override."""
    regularised = {"layer_scale": 1e-6, "dropout": 0.2, "drop_path": 0.2}
    return SwinUNet(in_channels, out_channels, spatial_dims, **{**TABLE_3_3[6], **regularised, **options})


def _ramp(highest: float, count: int) -> list[float]:
    """`count` numbers that grow evenly from 0 to `highest`."""
    return [highest * i / max(1, count - 1) for i in range(count)]


def _initialise(module: nn.Module) -> None:
    """Swin Transformer's weights for linear layers; convolutions keep PyTorch's."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _one_of(option: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise InputError(f"{option}: {value!r}, one of {', '.join(map(repr, allowed))} is needed")


def _length(option: str, values: Sequence[object], needed: int) -> None:
    if len(values) != needed:
        raise InputError(f"{option}: {len(values)} entries, {needed} are needed for the resolutions of depths")


def _per_axis(option: str, value: int | Sequence[int], spatial_dims: int) -> tuple[int, ...]:
    values = (value,) * spatial_dims if isinstance(value, int) else tuple(value)
    if len(values) != spatial_dims or min(values) < 1:
        raise InputError(f"{option}: {value}, one positive number or {spatial_dims} are needed")
    return values
