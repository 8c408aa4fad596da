"""What the terms of MCSC, MCSCv2 and CCT-R share, cross-labelled pixels of two students, and MCSC's term itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from nnunet_ext.losses.contrastive import balanced_contrastive_loss, normalised
from nnunet_ext.losses.sampling import patch_groups, sample_per_class, spread_draws
from nnunet_ext.training.projection import Projectors
from nnunet_ext.training.settings import Section
from nnunet_ext.training.students import same_size

Terms = dict[str, float | Tensor]


class ContrastSettings(Section):
    """Settings of every contrastive term."""

    contrast_weight: float = Field(1e-3, ge=0, description="w_cl")
    temperature: float = Field(0.1, gt=0, description="tau")
    scales: tuple[Annotated[float, Field(ge=1)], ...] = Field(
        (1, 8), min_length=1, description="resolutions contrasted, 1/scale of the image"
    )
    width: int = Field(256, ge=1, description="channels of the projectors' first layer")
    dim: int = Field(128, ge=1, description="channels of the shared last layer")
    cross_labels: bool = Field(True, description="label one student's pixels by the other's predictions")


@dataclass(frozen=True)
class Pixels:
    """All pixels of a step, of both students, at full resolution and at the contrasted scales.

    Attributes:
        features: per scale, the first student's map and the second's, each (N, C, *S').
        probabilities: of the network that labels the first student's pixels, and of that for the second's, (N, K, *S).
        labels: truth where labelled and the label-giver's prediction elsewhere, (N, *S), -1 where nothing is known.
        labelled: (N) which images have labels.
        images: what else is known of each image, entries of length N.
    """

    features: list[tuple[Tensor, Tensor]]
    probabilities: tuple[Tensor, Tensor]
    labels: tuple[Tensor, Tensor]
    labelled: Tensor
    images: dict[str, Tensor]


def cross_labelled(
    features: tuple[Sequence[Tensor], Sequence[Tensor]],
    logits: tuple[Tensor, Tensor],
    truth: Tensor,
    classes: int,
    cross: bool = True,
    images: dict[str, Tensor] | None = None,
) -> Pixels:
    """Label every pixel of one student by the truth or by the other student (sections 4.3.2 and 5.3.2.1).

    Args:
        features: of the first student and the second, each a list over scales; labelled images come first.
        logits: (N, K, *S) of the first student and the second.
        truth: (L, *S) labels of the first L images; values outside the classes mark pixels without a label.
        classes: K.
        cross: labels from the other student; from the student itself where false.
        images: further entries of length N.
    """
    with torch.no_grad():
        own = [x.detach().float().softmax(1) for x in logits]
        given = (own[1], own[0]) if cross else (own[0], own[1])
        known = torch.where((truth >= 0) & (truth < classes), truth.long(), -1)
        first, second = (torch.cat((known, p[len(truth) :].argmax(1))) for p in given)
    labelled = torch.arange(len(first), device=truth.device) < len(truth)
    maps = [(a, same_size(b, a.shape[2:])) for a, b in zip(*features, strict=True)]
    return Pixels(maps, given, (first, second), labelled, images or {})


def shrink(volume: Tensor, size: Sequence[int]) -> Tensor:
    """(N, *S) or (N, C, *S) at the pixels nearest to the centres of a coarser grid."""
    for axis, n in enumerate(reversed(size), start=1):
        if volume.shape[-axis] != n:
            scale = volume.shape[-axis] / n
            index = ((torch.arange(n, device=volume.device) + 0.5) * scale).long()
            volume = volume.index_select(volume.ndim - axis, index)
    return volume


def rows(maps: Tensor, image: Tensor, place: Tensor) -> Tensor:
    """(n, C) entries of (N, C, *S) maps at flat places of images."""
    return maps.flatten(2)[image, :, place]


class Contrast(nn.Module, ABC):
    """A contrastive term with its projectors and whatever it remembers.

    Args:
        settings: of the term.
        channels: per scale, the feature channels of the two students.
        classes: number of classes.
    """

    def __init__(self, settings: Any, channels: Sequence[tuple[int, int]], classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.classes = classes
        self.projectors = Projectors(channels, settings.width, settings.dim)

    @abstractmethod
    def forward(self, pixels: Pixels, progress: float) -> tuple[Tensor, Terms]:
        """The loss summed over scales, and what to log.

        Args:
            pixels: of this step.
            progress: 0 at the first update, 1 at the last.
        """

    def memory(self) -> dict[str, Any]:
        """What is remembered from step to step, for the checkpoint."""
        return {}

    def load_memory(self, memory: dict[str, Any]) -> None:
        """Take over what `memory` gave."""


class PatchSettings(ContrastSettings):
    """Settings of MCSC's contrastive term (section 4.3.2)."""

    patches: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (19, 14), min_length=1, description="edge h' of a patch at each scale, pixels"
    )
    groups: int = Field(4, ge=1, description="groups of patches contrasted in a step and scale, of all that there are")
    pixels: int = Field(512, ge=2, description="pixels drawn from a group; memory grows with their square")


class PatchContrast(Contrast):
    """Balanced supervised local contrastive loss over groups of patches (MCSC, eq. 4.2)."""

    def forward(self, pixels: Pixels, progress: float) -> tuple[Tensor, Terms]:
        settings: PatchSettings = self.settings
        total = pixels.features[0][0].new_zeros((), dtype=torch.float32)
        for scale, maps in enumerate(pixels.features):
            size = maps[0].shape[2:]
            labels = [shrink(y, size).flatten(1) for y in pixels.labels]
            images = len(labels[0])
            patch = settings.patches[min(scale, len(settings.patches) - 1)]
            groups = patch_groups(tuple(size), patch, 2 * images, settings.groups, labels[0].device)
            losses = [self._group(group, scale, maps, labels) for group in groups]
            total = total + torch.stack(losses).mean()
        return total, {}

    def _group(self, group: Tensor, scale: int, maps: tuple[Tensor, Tensor], labels: list[Tensor]) -> Tensor:
        """One patch of every map: the first student's maps, then the second's."""
        images, area = len(labels[0]), group.shape[1]
        inside = torch.where(group >= 0, torch.cat(labels).gather(1, group.clamp_min(0)), -1).flatten()
        # Both students' pixels are drawn together: each stands for as many as any other of its class.
        index, weight = sample_per_class(inside, self.settings.pixels)
        order = index.argsort()  # the first student's maps come first
        index, weight = index[order], weight[order]
        drawn, place = index.div(area, rounding_mode="floor"), group.flatten()[index]
        first = drawn < images
        projected = torch.cat(
            [
                self.projectors(rows(maps[0], drawn[first], place[first]), scale, 0),
                self.projectors(rows(maps[1], drawn[~first] - images, place[~first]), scale, 1),
            ]
        )
        return balanced_contrastive_loss(projected, inside[index], self.settings.temperature, weight)


@dataclass(frozen=True)
class Pool:
    """Pixels drawn from a step at one scale, from both students, in equal shares of the classes.

    Attributes:
        features: (n, dim) projected, of unit length, with gradient.
        labels: (n).
        probabilities: (n, K) of the network that labelled them.
        labelled: (n) whether the label is the truth.
        certain: (n) whether a pseudo-label is certain.
        image: (n) which image.
        place: (n) flat place in the full-resolution image.
    """

    features: Tensor
    labels: Tensor
    probabilities: Tensor
    labelled: Tensor
    certain: Tensor
    image: Tensor
    place: Tensor


def draw_pool(
    pixels: Pixels, scale: int, n: int, projectors: Projectors, certain: tuple[Tensor, Tensor] | None = None
) -> Pool:
    """Draw `n` pixels at one scale, half of them from each student, and project only those.

    Args:
        pixels: of the step.
        scale: index of the scale.
        n: pixels to draw.
        projectors: of the term.
        certain: (N, *S) of each student's pixels; all are certain where absent.
    """
    parts: list[list[Tensor]] = []
    for student, maps in enumerate(pixels.features[scale]):
        size, full = maps.shape[2:], pixels.labels[student].shape[1:]
        numbers = torch.arange(full.numel(), device=maps.device).reshape(full)
        labels = shrink(pixels.labels[student], size).flatten(1)
        index, _ = sample_per_class(labels.flatten(), n // 2)
        image, at = index.div(labels.shape[1], rounding_mode="floor"), index % labels.shape[1]
        place = shrink(numbers[None], size).flatten()[at]
        parts.append(
            [
                normalised(projectors(rows(maps, image, at), scale, student)),
                labels.flatten()[index],
                rows(pixels.probabilities[student], image, place),
                pixels.labelled[image],
                certain[student].flatten(1)[image, place] if certain else torch.ones_like(image, dtype=torch.bool),
                image,
                place,
            ]
        )
    return Pool(*(torch.cat(part) for part in zip(*parts, strict=True)))


def anchors_of(pool: Pool, candidates: Tensor, c: int, n: int) -> tuple[Tensor, Tensor]:
    """Class c's candidates and `n` of them at random, as places in the pool: A_c and an_c."""
    there = (candidates & (pool.labels == c)).nonzero()[:, 0]
    return there, there[spread_draws(len(there), min(n, len(there)), there.device)]
