"""Cross Teaching with multi-scale cross supervised contrast (thesis, chapter 4)."""

from __future__ import annotations

from nnunet_ext.training.cross_teaching import MCSCTrainer


class nnUNetTrainerMCSC(MCSCTrainer):
    """Cross Teaching with multi-scale cross supervised contrast (thesis, chapter 4)."""

    section = "MCSC"
