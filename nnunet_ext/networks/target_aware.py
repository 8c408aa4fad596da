"""TANQ's generator: region-normalised encoder and decoder, and a decoder that segments."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from nnunet_ext.networks.generators import ResNetDecoder, ResNetGenerator, initialise, pad_to_stride
from nnunet_ext.networks.region_norm import RegionNorm


class TargetAwareGenerator(ResNetGenerator):
    """Generator with target-aware normalisation and SegDecoder (TANQ, "target-aware encoder-decoder construction").

    The encoder and its residual blocks separate the `region_normalised` masks from the rest (eqs. 1-3); the decoder
    separates those and the `restyled` ones, which take the style of the rest (eqs. 4-7). SegDecoder mirrors the
    decoder with plain instance normalisation. With one channel, 3 classes and one mask of each kind it has the
    published 8,218,628 parameters.

    Args:
        in_channels, out_channels, width, blocks, antialias: see `ResNetGenerator`.
        classes: outputs of SegDecoder.
        region_normalised, restyled: channels of the masks.
        min_pixels: regions smaller than this in a feature map share the whole map's statistics.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 64,
        blocks: int = 6,
        *,
        classes: int = 3,
        region_normalised: Sequence[int] = (0,),
        restyled: Sequence[int] = (1,),
        min_pixels: float = 16.0,
        antialias: bool = True,
    ) -> None:
        separate = [*region_normalised, *restyled]
        super().__init__(
            in_channels,
            out_channels,
            width,
            blocks,
            norm=partial(RegionNorm, regions=list(region_normalised), min_pixels=min_pixels),
            decoder_norm=partial(RegionNorm, regions=separate, restyled=list(restyled), min_pixels=min_pixels),
            antialias=antialias,
        )
        self.segmenter = ResNetDecoder(classes, width, tanh=False, antialias=antialias)
        initialise(self.segmenter)

    def forward_and_segment(self, x: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor, list[Tensor]]:
        """One pass of the encoder for everything the losses need.

        Args:
            x: (B, in_channels, H, W).
            masks: (B, R, H, W) of 0 and 1, disjoint.

        Returns:
            the translated image (B, out_channels, H, W), SegDecoder's logits (B, classes, H, W), and the encoder's
            features (see `ResNetEncoder.forward_features`).
        """
        padded, masks, cut = pad_to_stride(x, masks, self.encoder.stride)
        code, features = self.encoder.forward_features(padded, masks)
        return self.decoder(code, masks)[cut], self.segmenter(code)[cut], features
