"""AccSeg-Net: translation and segmentation learned together."""

from __future__ import annotations

from nnunet_ext.training.accseg import AccSegTrainer


class nnUNetTrainerAccSeg(AccSegTrainer):
    """Source cases are translated to the look of the target while a segmenter learns from the translations."""

    section = "AccSeg"
