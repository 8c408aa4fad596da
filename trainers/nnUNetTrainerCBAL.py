"""CBAL: contrastive boundary-aware learning across domains."""

from __future__ import annotations

from nnunet_ext.training.cbal import CBALTrainer


class nnUNetTrainerCBAL(CBALTrainer):
    """Labelled source and unlabelled target cases of one dataset: entropy, contrast, boundaries and an adversary."""

    section = "CBAL"
