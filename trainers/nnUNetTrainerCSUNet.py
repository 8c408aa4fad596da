"""CS-Unet, the convolutional Swin-Unet of the thesis' chapter 3."""

from __future__ import annotations

from nnunet_ext.training.swin import CSUNetSettings, SwinTrainer


class nnUNetTrainerCSUNet(SwinTrainer):
    """CS-Unet from scratch, supervised by the labelled cases."""

    section = "CSUNet"
    Settings = CSUNetSettings
