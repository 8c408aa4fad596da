"""CBAL's contrast between domains at several feature levels: pixels, regions, and prototypes as an option."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from nnunet_ext.losses.alignment import cross_domain_contrast, region_descriptors
from nnunet_ext.losses.contrastive import normalised
from nnunet_ext.losses.sampling import sample_per_class
from nnunet_ext.training.contrast import shrink
from nnunet_ext.training.settings import Section


class ClassAlignmentSettings(Section):
    """Settings of eqs. 4 and 5."""

    contrast_weight: float = Field(0.1, ge=0, description="lambda_3 of eq. 7 for pixels, eq. 4")
    region_weight: float = Field(0.1, ge=0, description="lambda_3 of eq. 7 for regions, eq. 5")
    temperature: float = Field(0.1, gt=0, description="tau of eqs. 4 and 5")
    scales: tuple[float, ...] = Field((4, 8), min_length=1, description="feature levels, 1/scale of the image")
    pixels: int = Field(512, ge=2, description="pixels drawn from each domain and level, classes alike")
    region_patch: int = Field(8, ge=1, description="edge of a region's patch, in voxels of the feature map")
    prototypes: float = Field(
        0.0, ge=0, lt=1, description="alpha of moving class means among the target's regions; 0: none"
    )


class ClassAlignment(nn.Module):
    """The contrastive terms of CBAL, summed over feature levels.

    Args:
        settings: see `ClassAlignmentSettings`.
        channels: of the features, per level.
        classes: K.
    """

    def __init__(self, settings: Any, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.classes = classes
        if settings.prototypes > 0:
            for level, width in enumerate(channels):
                self.register_buffer(f"prototypes{level}", torch.zeros(classes, width))

    def forward(
        self, features: Sequence[Tensor], labels: Tensor, labelled: int
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The weighted sum, and each term by itself.

        Args:
            features: per level (N, C, *S'), source images first.
            labels: (N, *S) of all of them, pseudo-labels for the target; -1 takes no part.
            labelled: how many images are of the source.
        """
        s = self.settings
        loss = features[0].new_zeros((), dtype=torch.float32)
        terms: dict[str, float | Tensor] = {}
        for level, maps in enumerate(features):
            small = shrink(labels, maps.shape[2:])
            source, target = (maps[:labelled], small[:labelled]), (maps[labelled:], small[labelled:])
            if s.contrast_weight > 0:
                contrast = cross_domain_contrast(*self._pixels(*source), *self._pixels(*target), s.temperature)
                loss = loss + s.contrast_weight * contrast
                terms["contrast"] = terms.get("contrast", 0.0) + contrast
            if s.region_weight > 0:
                regions = [region_descriptors(*side, self.classes, s.region_patch) for side in (source, target)]
                if s.prototypes > 0:
                    regions[1] = self._with_prototypes(level, *regions[1])
                contrast = cross_domain_contrast(*regions[0], *regions[1], s.temperature)
                loss = loss + s.region_weight * contrast
                terms["regions"] = terms.get("regions", 0.0) + contrast
        return loss, terms

    def _pixels(self, maps: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        flat = labels.flatten()
        index, _ = sample_per_class(flat, self.settings.pixels)
        return maps.movedim(1, -1).flatten(0, -2)[index], flat[index]

    def _with_prototypes(self, level: int, descriptors: Tensor, names: Tensor) -> tuple[Tensor, Tensor]:
        """The target's descriptors and the moving mean of every class seen so far, which takes a step of alpha."""
        prototypes = self.get_buffer(f"prototypes{level}")
        with torch.no_grad():
            unit = normalised(descriptors)
            for c in range(self.classes):
                if (names == c).any():
                    mean = unit[names == c].mean(0)
                    fresh = not prototypes[c].any()
                    prototypes[c] = mean if fresh else torch.lerp(prototypes[c], mean, self.settings.prototypes)
        seen = prototypes.any(1).nonzero()[:, 0]
        return torch.cat((descriptors, prototypes[seen].to(descriptors.dtype))), torch.cat((names, seen))
