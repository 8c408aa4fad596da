"""CCT-R: contrastive cross teaching with registration (thesis, chapter 6)."""

from __future__ import annotations

from nnunet_ext.training.cctr import CCTRTrainer


class nnUNetTrainerCCTR(CCTRTrainer):
    """CCT-R: contrastive cross teaching with registration (thesis, chapter 6)."""

    section = "CCTR"
