"""nnU-Net as it is, at the length and seed of the settings: the comparison for every other trainer."""

from __future__ import annotations

from nnunet_ext.training.trainer import ExtTrainer


class nnUNetTrainerBaseline(ExtTrainer):
    """nnU-Net's own network, loss, optimiser and augmentation, with lengths and seed from the settings."""

    section = "Baseline"
