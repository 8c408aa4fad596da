"""Cross Pseudo Supervision between two networks of the plans."""

from __future__ import annotations

from nnunet_ext.training.cross_teaching import CPSTrainer


class nnUNetTrainerCPS(CPSTrainer):
    """Cross Pseudo Supervision between two networks of the plans."""

    section = "CPS"
