"""Histogram matching only: the baseline that every learned method has to beat."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from translation.method import TranslationMethod
from translation.settings import VolumeSettings
from translation.volume.intensity import Curve, curve
from translation.volume.preparation import Preparation, to_unit


class Histogram(TranslationMethod):
    """One curve that maps the source cohort's mean histogram to the target cohort's."""

    def __init__(self, settings: VolumeSettings, preparation: Preparation) -> None:
        super().__init__(settings, preparation)
        source, target = (to_unit(np.array(h)) for h in (preparation.source_histogram, preparation.target_histogram))
        self.curve: Curve = curve(source.tolist(), target.tolist())

    def translate(self, volume: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.from_numpy(self.curve(volume.cpu().numpy())).to(volume.device)
