"""Batches of exams in two views: several of each grade, and some without a grade."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nnunet_ext.koos.augment import augment
from nnunet_ext.koos.cohort import Exam
from nnunet_ext.koos.prepared import Boxes
from nnunet_ext.koos.settings import KoosSettings

UNGRADED = -1


@dataclass(frozen=True)
class Batch:
    """Row i of all is exam i; the graded come first.

    Attributes:
        images, masks: (2, B, slices, rows, columns): two modalities of an exam, or two augmented copies of its one.
        grades: (B,) index of the class, -1 without a grade.
    """

    images: Tensor
    masks: Tensor
    grades: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(self.images.to(device), self.masks.to(device), self.grades.to(device))


class Batches:
    """Batch i depends on the settings' seed, the stage and i alone, so that a fit can go on anywhere.

    A grade with fewer cases than `cases_per_grade` has all of them in every batch and no case twice: a second copy
    would be a positive that teaches nothing.

    Args:
        exams: graded and ungraded.
        boxes: of all their cases.
        settings: composition and augmentation.
        spacing: mm along slices, rows, columns.
    """

    def __init__(
        self, exams: Sequence[Exam], boxes: Boxes, settings: KoosSettings, spacing: tuple[float, float, float]
    ) -> None:
        self.boxes, self.settings, self.spacing = boxes, settings, spacing
        self.by_grade: dict[int, list[Exam]] = defaultdict(list)
        for exam in exams:
            grade = UNGRADED if exam.grade is None else settings.classes.index(exam.grade)
            self.by_grade[grade].append(exam)
        self.ungraded = self.by_grade.pop(UNGRADED, [])

    def __len__(self) -> int:
        """Updates in an epoch."""
        graded = sum(map(len, self.by_grade.values()))
        drawn = sum(min(len(e), self.settings.cases_per_grade) for e in self.by_grade.values())
        return self.settings.iterations_per_epoch or -(-graded // drawn)

    def compose(self, stage: int, index: int) -> list[tuple[Exam, int, tuple[int, int]]]:
        """Exam, class index and the numbers of its two views, for every row. Ungraded exams take part in stage 0."""
        rng = np.random.default_rng([self.settings.seed, stage, index])
        rows = []
        groups = [(g, e, self.settings.cases_per_grade) for g, e in sorted(self.by_grade.items())]
        if stage == 0:
            groups.append((UNGRADED, self.ungraded, self.settings.ungraded_cases))
        for grade, exams, count in groups:
            for chosen in rng.permutation(len(exams))[:count]:
                exam = exams[chosen]
                first, second = rng.permutation(len(exam.views))[:2] if len(exam.views) > 1 else (0, 0)
                rows.append((exam, grade, (int(first), int(second))))
        return rows

    def batch(self, stage: int, index: int) -> Batch:
        """Augmented boxes; a stage is 0 for the pre-training and 1 for the head."""
        rows = self.compose(stage, index)
        boxes = [[self.boxes[exam.views[views[side]].case] for exam, _, views in rows] for side in (0, 1)]
        image = torch.from_numpy(np.stack([b.image for side in boxes for b in side]))
        mask = torch.from_numpy(np.stack([b.mask for side in boxes for b in side]))
        seed = np.random.SeedSequence([self.settings.seed, stage, index, 1]).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(seed))
        image, mask = augment(image, mask, self.settings, self.spacing, generator)
        grades = torch.tensor([grade for _, grade, _ in rows])
        return Batch(image.unflatten(0, (2, -1)), mask.unflatten(0, (2, -1)), grades)
