"""UA-MT: Mean Teacher where the teacher is certain."""

from __future__ import annotations

from nnunet_ext.training.mean_teacher import UAMTTrainer


class nnUNetTrainerUAMT(UAMTTrainer):
    """UA-MT: Mean Teacher where the teacher is certain."""

    section = "UAMT"
