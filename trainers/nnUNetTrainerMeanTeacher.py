"""Mean Teacher: the student agrees with a moving average of itself."""

from __future__ import annotations

from nnunet_ext.training.mean_teacher import MeanTeacherTrainer


class nnUNetTrainerMeanTeacher(MeanTeacherTrainer):
    """Mean Teacher: the student agrees with a moving average of itself."""

    section = "MeanTeacher"
