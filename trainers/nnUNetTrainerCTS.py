"""Cross Teaching between the network of the plans and a Transformer."""

from __future__ import annotations

from nnunet_ext.training.cross_teaching import CrossTeachingTrainer


class nnUNetTrainerCTS(CrossTeachingTrainer):
    """Cross Teaching between the network of the plans and a Transformer."""

    section = "CTS"
