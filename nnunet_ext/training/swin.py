"""Supervised training of CS-Unet and Swin-Unet (thesis, chapter 3)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar, Literal

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from pydantic import Field

from nnunet_ext.networks.swin import SwinUNet
from nnunet_ext.training import checkpoint
from nnunet_ext.training.batches import Batch
from nnunet_ext.training.lr import WarmupPoly
from nnunet_ext.training.settings import Section, configuration_settings
from nnunet_ext.training.trainer import ExtTrainer

SMALLEST_MAP = 4  # tokens per axis that strides beyond the planned ones leave


class NetworkSettings(Section):
    """Size and switches of the network; the defaults are Swin-Unet's."""

    embed_dim: int = Field(96, ge=1, description="channels at the first resolution, doubled with every merging")
    depths: tuple[int, ...] = Field((2, 2, 2, 2), min_length=2, description="encoder blocks per level, finest first")
    decoder_depths: tuple[int, ...] = Field((2, 2, 2), description="decoder blocks per resolution, coarsest first")
    num_heads: tuple[int, ...] = Field((3, 6, 12, 24), description="attention heads per resolution, finest first")
    window_size: int | tuple[int, ...] = Field(7, description="largest attention window, tokens per axis")
    patch_strides: tuple[int, ...] | None = Field(
        None, description="voxels per token and axis at the first resolution; null follows the plans"
    )
    merge_strides: tuple[tuple[int, ...], ...] | None = Field(
        None, description="strides of each merging; null follows the plans"
    )
    mlp_ratio: float = Field(4.0, gt=0, description="width of the feed-forward's hidden layer per channel")
    patch_embedding: Literal["linear", "convolutional"] = Field("linear", description="Emb of table 3.3")
    projection: Literal["linear", "map", "window"] = Field("linear", description="Proj of table 3.3")
    attention_output: Literal["linear", "convolutional"] = Field("linear", description="Att of table 3.3")
    position_bias: bool = Field(True, description="Pos of table 3.3: relative position bias")
    feed_forward: Literal["mlp", "dsf"] = Field("mlp", description="DSF of table 3.3")
    skip: Literal["linear", "convolutional"] = Field("linear", description="SC of table 3.3")
    layer_scale: float | None = Field(None, gt=0, description="initial LayerScale; null for none")
    dropout: float = Field(0.0, ge=0, lt=1, description="after embedding, up-sampling and skips")
    drop_path: float = Field(0.2, ge=0, lt=1, description="stochastic depth of the deepest block")
    deep_supervision: bool = Field(False, description="losses at the decoder's lower resolutions too")


class SwinSettings(NetworkSettings):
    """Network and optimiser; the defaults of the optimiser are section 3.4.1's for Synapse."""

    learning_rate: float = Field(1e-3, gt=0, description="highest learning rate (1e-3 Synapse, 5e-3 ACDC)")
    weight_decay: float = Field(5e-4, ge=0, description="of AdamW")
    warmup_epochs: float = Field(10, ge=0, description="linear warm-up, at most a tenth of the training")


class CSUNetSettings(SwinSettings):
    """CS-Unet: row 6 of table 3.3."""

    patch_embedding: Literal["linear", "convolutional"] = Field("convolutional", description="Emb of table 3.3")
    projection: Literal["linear", "map", "window"] = Field("window", description="Proj of table 3.3")
    attention_output: Literal["linear", "convolutional"] = Field("convolutional", description="Att of table 3.3")
    position_bias: bool = Field(False, description="Pos of table 3.3: relative position bias")
    feed_forward: Literal["mlp", "dsf"] = Field("dsf", description="DSF of table 3.3")
    skip: Literal["linear", "convolutional"] = Field("convolutional", description="SC of table 3.3")
    layer_scale: float | None = Field(1e-6, gt=0, description="initial LayerScale; null for none")
    dropout: float = Field(0.2, ge=0, lt=1, description="after embedding, up-sampling and skips")


def planned_strides(
    patch_size: Sequence[int], pooling: Sequence[Sequence[int]], merges: int
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Strides for a Transformer that goes down as the planned network does, so that anisotropic patches work.

    The patches of the first resolution take the first two poolings together (4 x 4 in 2D), each merging the next one.
    Where the plans have no more, an axis is halved as long as 4 tokens are left.

    Args:
        patch_size: voxels per axis.
        pooling: the planned strides per stage and axis, beginning with the first stage's ones.
        merges: how many mergings there are.

    Returns:
        Strides of the patches, and of each merging.
    """
    steps = [tuple(int(s) for s in step) for step in pooling[1:]]
    patch = tuple(prod(axis) for axis in zip(*steps[:2], strict=True)) if steps else (1,) * len(patch_size)
    strides = steps[2 : 2 + merges]
    while len(strides) < merges:
        done = [prod(axis) for axis in zip(patch, *strides, strict=True)]
        strides.append(tuple(2 if n // d >= 2 * SMALLEST_MAP else 1 for n, d in zip(patch_size, done, strict=True)))
    return patch, tuple(strides)


def build_network(
    settings: NetworkSettings, configuration: ConfigurationManager, in_channels: int, out_channels: int
) -> SwinUNet:
    """The network of the settings for the patch size and pooling of a configuration of the plans."""
    patch_size = configuration.patch_size
    patch, merges = planned_strides(patch_size, configuration.pool_op_kernel_sizes, len(settings.depths) - 1)
    options = settings.model_dump(include=set(NetworkSettings.model_fields))
    options["patch_strides"] = settings.patch_strides or patch
    options["merge_strides"] = settings.merge_strides or merges
    return SwinUNet(in_channels, out_channels, len(patch_size), **options)


class SwinTrainer(ExtTrainer):
    """CE + Dice and nnU-Net's augmentation, AdamW with warm-up and polynomial decay per update."""

    section: ClassVar[str] = "SwinUNet"
    Settings: ClassVar[type[SwinSettings]] = SwinSettings

    def initialize(self) -> None:
        self.initial_lr = self.settings.learning_rate
        self.weight_decay = self.settings.weight_decay
        self.enable_deep_supervision = self.settings.deep_supervision
        super().initialize()

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> SwinUNet:
        """The network of the plans' settings, for training and, through nnU-Net, for prediction.

        A network trained with deep supervision keeps its classifiers at lower resolutions when it predicts, so that
        its weights fit; `enable_deep_supervision` only says whether it returns their outputs.
        """
        settings = configuration_settings(plans_manager, configuration_manager, cls.section, cls.Settings)
        network = build_network(settings, configuration_manager, num_input_channels, num_output_channels)
        network.deep_supervision = enable_deep_supervision and settings.deep_supervision
        return network

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupPoly]:
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        warmup = self.settings.warmup_epochs
        return optimizer, WarmupPoly(optimizer, self.num_epochs, self.num_iterations_per_epoch, warmup)

    def train_step(self, batch: Batch) -> dict[str, Any]:
        self.lr_scheduler.step(self.iteration / self.num_iterations_per_epoch)
        return super().train_step(batch)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        network: Any = checkpoint.unwrap(self.network)
        network.deep_supervision = enabled and self.enable_deep_supervision

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        network: Any = checkpoint.unwrap(self.network)
        return network.deep_supervision_scales if self.enable_deep_supervision else None
