"""Two segmentation networks that learn side by side, and the features that a contrast between them needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_ext.errors import InputError
from nnunet_ext.training.settings import configuration_settings
from nnunet_ext.training.swin import CSUNetSettings, SwinSettings, build_network

Architecture = Literal["plans", "SwinUNet", "CSUNet"]
Inference = Literal["first", "second", "mean"]


class Output(NamedTuple):
    """What one student makes of a batch.

    Attributes:
        logits: (B, K, *S), full resolution first; one entry where there is no deep supervision.
        features: the decoder's features at the scales asked for, (B, C, *S').
    """

    logits: list[Tensor]
    features: list[Tensor]


def unet_outputs(network: Any, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Run one of nnU-Net's U-Nets and keep its decoder's features, full resolution first.

    This is `UNetDecoder.forward` over the network's own public submodules: nothing is patched, no hook breaks the graph
    of `torch.compile`, and DDP sees one forward pass.

    Args:
        network: `PlainConvUNet`, `ResidualEncoderUNet` or `ResidualUNet` of dynamic_network_architectures.
        x: (B, C, *S).
    """
    decoder = network.decoder
    skips = network.encoder(x)
    below = skips[-1]
    logits, features = [], [below]
    for stage, upsample, segment, skip in zip(
        decoder.stages, decoder.transpconvs, decoder.seg_layers, reversed(skips[:-1]), strict=True
    ):
        below = stage(torch.cat((upsample(below), skip), dim=1))
        features.append(below)
        logits.append(segment(below) if decoder.deep_supervision or stage is decoder.stages[-1] else None)
    return [level for level in reversed(logits) if level is not None], features[::-1]


def is_unet(network: nn.Module) -> bool:
    """Whether `unet_outputs` knows how to run a network."""
    decoder = getattr(network, "decoder", None)
    parts = ("stages", "transpconvs", "seg_layers", "deep_supervision")
    return hasattr(network, "encoder") and all(hasattr(decoder, part) for part in parts)


def decoder_levels(network: Any) -> tuple[list[int], list[float]]:
    """Channels of a network's decoder features, full resolution first, and by how much each is smaller than the image.

    An axis that shrinks faster than the others counts.

    Raises:
        InputError: for a network whose decoder's features cannot be had.
    """
    if is_unet(network):
        strides = np.cumprod([np.atleast_1d(s) for s in network.encoder.strides], axis=0)
        return list(network.encoder.output_channels), [float(s.max()) for s in strides]
    if hasattr(network, "forward_features"):
        return list(network.feature_channels), [max(1 / s for s in scale) for scale in network.feature_scales]
    raise InputError(
        f"{type(network).__name__}: not a network whose decoder's features can be had, plans with one of nnU-Net's"
        " U-Nets are needed"
    )


def nearest_levels(reductions: Sequence[float], scales: Sequence[float]) -> list[int]:
    """A level of its own for each scale (8 for an eighth), as close as can be; the coarsest where none goes as far.

    Raises:
        InputError: for more scales than the network has levels.
    """
    if len(scales) > len(reductions):
        raise InputError(
            f"scales: {len(scales)} of them, the network has {len(reductions)} levels of features, at most as many"
            " scales are needed"
        )
    distance = np.subtract.outer(np.log(scales), np.log(reductions))
    return [int(level) for level in linear_sum_assignment(distance**2)[1]]


class StudentPair(nn.Module):
    """Two students in one module, so that DDP and `torch.compile` see one network and one forward pass.

    Args:
        first: the student of the plans, as a rule.
        second: the other one.
        scales: resolutions of the features that `forward` returns, 1 for full resolution, 8 for an eighth.

    Attributes:
        channels: per scale, the feature channels of the first student and the second.

    Raises:
        InputError: for a network whose decoder's features cannot be had.
    """

    def __init__(self, first: nn.Module, second: nn.Module, scales: Sequence[float] = ()) -> None:
        super().__init__()
        self.first = first
        self.second = second
        levels = [decoder_levels(network) for network in (first, second)]
        self.levels = [nearest_levels(reductions, scales) for _, reductions in levels]
        chosen = [[channels[i] for i in own] for (channels, _), own in zip(levels, self.levels, strict=True)]
        self.channels = list(zip(*chosen, strict=True))

    def forward(self, x: Tensor) -> tuple[Output, Output]:
        return self._run(self.first, x, self.levels[0]), self._run(self.second, x, self.levels[1])

    @staticmethod
    def _run(network: Any, x: Tensor, levels: list[int]) -> Output:
        logits, features = unet_outputs(network, x) if is_unet(network) else network.forward_features(x)
        return Output([logits] if isinstance(logits, Tensor) else list(logits), [features[i] for i in levels])


class LogitMean(nn.Module):
    """The mean of two networks' logits (CCT-R's inference).

    Of networks with deep supervision the full-resolution outputs are averaged and the others left out.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        return (full_resolution(self.first(x)) + full_resolution(self.second(x))) / 2


def full_resolution(logits: Tensor | Sequence[Tensor]) -> Tensor:
    return logits if isinstance(logits, Tensor) else logits[0]


def build_student(
    architecture: Architecture,
    plans: PlansManager,
    configuration: ConfigurationManager,
    in_channels: int,
    out_channels: int,
    deep_supervision: bool,
) -> nn.Module:
    """One student.

    Args:
        architecture: the network of the plans, or a Transformer with the settings of its own section in the plans.
        plans, configuration: nnU-Net's managers.
        in_channels: of the image.
        out_channels: classes.
        deep_supervision: outputs at lower resolutions as well; the Transformers are trained without.
    """
    if architecture == "plans":
        return get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            in_channels,
            out_channels,
            allow_init=True,
            deep_supervision=deep_supervision,
        )
    kind = SwinSettings if architecture == "SwinUNet" else CSUNetSettings
    settings = configuration_settings(plans, configuration, architecture, kind)
    return build_network(
        settings.model_copy(update={"deep_supervision": False}), configuration, in_channels, out_channels
    )


def set_deep_supervision(network: nn.Module, enabled: bool) -> None:
    """Switch the lower-resolution outputs of the network of the plans; other networks have none."""
    if is_unet(network):
        network.decoder.deep_supervision = enabled  # type: ignore[union-attr]


def predictor(pair: StudentPair, inference: Inference) -> nn.Module:
    """The part of a pair that predicts."""
    if inference == "mean":
        return LogitMean(pair.first, pair.second)
    return pair.first if inference == "first" else pair.second


def same_size(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Bring a feature map to the size of another student's map of the same scale."""
    if tuple(feature.shape[2:]) == tuple(size):
        return feature
    return F.interpolate(feature, size=tuple(size), mode="bilinear" if len(size) == 2 else "trilinear")
