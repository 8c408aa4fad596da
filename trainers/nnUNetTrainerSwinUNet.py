"""Swin-Unet (Cao et al. 2021), the baseline of the thesis' chapter 3."""

from __future__ import annotations

from nnunet_ext.training.swin import SwinSettings, SwinTrainer


class nnUNetTrainerSwinUNet(SwinTrainer):
    """Swin-Unet from scratch, supervised by the labelled cases."""

    section = "SwinUNet"
    Settings = SwinSettings
