"""Cross Teaching with certainty-guided contrast and negative banks (thesis, chapter 5)."""

from __future__ import annotations

from nnunet_ext.training.cross_teaching import MCSCv2Trainer


class nnUNetTrainerMCSCv2(MCSCv2Trainer):
    """Cross Teaching with certainty-guided contrast and negative banks (thesis, chapter 5)."""

    section = "MCSCv2"
