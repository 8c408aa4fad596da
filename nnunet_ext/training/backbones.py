"""Single networks that adaptation trains: the plans', a Transformer, DeepLab or one of AccSeg-Net's segmenters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from nnunet_ext.errors import InputError
from nnunet_ext.networks.attention_unet import AttentionUNet
from nnunet_ext.networks.deeplab import DeepLab
from nnunet_ext.networks.duse_unet import DuSEUNet
from nnunet_ext.training.students import (
    Architecture,
    Output,
    build_student,
    decoder_levels,
    is_unet,
    nearest_levels,
    unet_outputs,
)

Backbone = Literal["plans", "SwinUNet", "CSUNet", "DeepLab"]
Segmenter = Literal["plans", "SwinUNet", "CSUNet", "DuSEUNet", "AttentionUNet"]
LEVELS = 5  # of AccSeg-Net's U-Nets


class FeatureNetwork(nn.Module):
    """A network and its decoder's features at some scales, in one forward pass.

    Args:
        network: what predicts.
        scales: resolutions of the features, 1 for full, 8 for an eighth; the nearest ones that there are.

    Attributes:
        channels: of the features, per scale.
    """

    def __init__(self, network: nn.Module, scales: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        channels, reductions = decoder_levels(network)
        self.levels = nearest_levels(reductions, scales)
        self.channels = [channels[i] for i in self.levels]

    def forward(self, x: Tensor) -> Output:
        network: Any = self.network
        logits, features = unet_outputs(network, x) if is_unet(network) else network.forward_features(x)
        return Output([logits] if isinstance(logits, Tensor) else list(logits), [features[i] for i in self.levels])


def build_backbone(
    name: Backbone | Segmenter,
    plans: PlansManager,
    configuration: ConfigurationManager,
    in_channels: int,
    out_channels: int,
    deep_supervision: bool,
) -> nn.Module:
    """One network with the resolutions and widths of the plans.

    Args:
        name: which; everything but `plans` has no outputs at lower resolutions.
        plans, configuration: nnU-Net's managers.
        in_channels: of the image.
        out_channels: classes.
        deep_supervision: outputs at lower resolutions as well.

    Raises:
        InputError: for plans whose network has no stages of given widths, kernels and strides.
    """
    if name in get_args(Architecture):
        return build_student(name, plans, configuration, in_channels, out_channels, deep_supervision)  # type: ignore[arg-type]
    kwargs = configuration.network_arch_init_kwargs
    try:
        features, kernels, strides = (kwargs[k] for k in ("features_per_stage", "kernel_sizes", "strides"))
    except KeyError as error:
        raise InputError(
            f"{plans.dataset_name}/{plans.plans_name}.json: the planned network has no {error.args[0]}, one of"
            f" nnU-Net's U-Nets is needed to size a {name}"
        ) from None
    if name == "DeepLab":
        return DeepLab(in_channels, out_channels, features, kernels, strides)
    stages = min(LEVELS, len(features))
    dims = len(strides[0])
    kind = DuSEUNet if name == "DuSEUNet" else AttentionUNet
    network = kind(
        in_channels,
        stages,
        list(features[:stages]),
        {2: nn.Conv2d, 3: nn.Conv3d}[dims],
        kernels[:stages],
        strides[:stages],
        2,
        out_channels,
        2,
        conv_bias=True,
        norm_op={2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims],
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
    network.apply(network.initialize)
    # nnU-Net's decoder has outputs at lower resolutions also where nobody asks for them; DDP waits for the gradients of
    # whatever could have some.
    network.decoder.seg_layers[:-1].requires_grad_(False)
    return network
