"""Batches of slabs. Batch i depends on the seed, the process' rank and i only, so that resuming is exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from translation.settings import TranslationSettings
from translation.volume.cache import CachedCase


@dataclass(frozen=True)
class Batch:
    """What one update sees.

    Attributes:
        source, target: (B, slices, H, W) in [-1, 1], unpaired.
        labels: (B, H, W) class indices of the source's middle slice, -1 where ignored.
        further: the same for further label sets.
    """

    source: Tensor
    target: Tensor
    labels: Tensor
    further: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        further = {name: labels.to(device) for name, labels in self.further.items()}
        return Batch(self.source.to(device), self.target.to(device), self.labels.to(device), further)


class Batches:
    """Random crops of both cohorts, centred inside the region of interest.

    Args:
        source, target: cached cases.
        settings: crop, slices, batch size, flips and seed.
        rank: of this process.
        further: name -> further label volumes of the source, one per source case.
    """

    def __init__(
        self,
        source: Sequence[CachedCase],
        target: Sequence[CachedCase],
        settings: TranslationSettings,
        rank: int = 0,
        further: Mapping[str, Sequence[NDArray[np.int16]]] | None = None,
    ) -> None:
        self.source, self.target, self.settings, self.rank = source, target, settings, rank
        self.further = dict(further or {})

    @property
    def source_slices(self) -> int:
        """Slices of the source inside the region of interest: one epoch's worth."""
        return sum(case.region[0].stop - case.region[0].start for case in self.source)

    def batch(self, index: int) -> Batch:
        """Draw batch `index`."""
        return self._draw(np.random.default_rng([self.settings.seed, self.rank, index]), self.settings.batch_size)

    def sample(self, count: int) -> Batch:
        """A batch of `count` pairs to look at, always the same."""
        return self._draw(np.random.default_rng(self.settings.seed), count)

    def _draw(self, rng: np.random.Generator, count: int) -> Batch:
        sources, labels, targets = [], [], []
        further: dict[str, list[NDArray[np.int16]]] = {name: [] for name in self.further}
        for _ in range(count):
            which = int(rng.integers(len(self.source)))
            case = self.source[which]
            assert case.labels is not None  # source cases have labels
            window = _Window.draw(case, self.settings, rng)
            sources.append(window.image(case))
            labels.append(window.labels(case.labels))
            for name, volumes in self.further.items():
                further[name].append(window.labels(volumes[which]))
            other = self.target[int(rng.integers(len(self.target)))]
            targets.append(_Window.draw(other, self.settings, rng).image(other))
        return Batch(
            torch.from_numpy(np.stack(sources)),
            torch.from_numpy(np.stack(targets)),
            torch.from_numpy(np.stack(labels).astype(np.int64)),
            {name: torch.from_numpy(np.stack(rows).astype(np.int64)) for name, rows in further.items()},
        )


@dataclass(frozen=True)
class _Window:
    """A crop of one slab: the first index along each axis (may be negative), its size, and mirrored axes."""

    start: tuple[int, int, int]
    size: tuple[int, int, int]
    flipped: tuple[int, ...]

    @classmethod
    def draw(cls, case: CachedCase, settings: TranslationSettings, rng: np.random.Generator) -> _Window:
        size = (settings.slices, *settings.crop)
        centre_slice = int(rng.integers(case.region[0].start, case.region[0].stop))
        start = [centre_slice - settings.slices // 2]
        for axis in (1, 2):
            n, region, wanted = case.image.shape[axis], case.region[axis], size[axis]
            # A scan smaller than the crop is centred in it; a larger one is cut so that the crop stays inside both
            # the scan and, as far as it fits, the region.
            if n <= wanted:
                start.append(-((wanted - n) // 2))
                continue
            low, high = sorted((region.start, region.stop - wanted))
            low, high = (int(np.clip(edge, 0, n - wanted)) for edge in (low, high))
            start.append(int(rng.integers(low, high + 1)))
        axes = rng.random(3) < 0.5
        flipped = tuple(int(axis) for axis in np.flatnonzero(axes)) if settings.flips else ()
        return cls((start[0], start[1], start[2]), size, flipped)

    def image(self, case: CachedCase) -> NDArray[np.float32]:
        slab = self._cut(case.image)
        return self._place(case.curve(slab), -1.0)

    def labels(self, volume: NDArray[np.int16]) -> NDArray[np.int16]:
        """Of the middle slice."""
        return self._place(self._cut(volume), 0)[self.size[0] // 2]

    def _cut(self, volume: NDArray) -> NDArray:
        # Beyond the first and last slice the outermost slice is repeated.
        slices = np.clip(np.arange(self.start[0], self.start[0] + self.size[0]), 0, volume.shape[0] - 1)
        rows, columns = (
            slice(max(s, 0), min(s + n, volume.shape[axis]))
            for axis, (s, n) in enumerate(zip(self.start[1:], self.size[1:], strict=True), 1)
        )
        return np.stack([volume[z, rows, columns] for z in slices])

    def _place(self, part: NDArray, outside: float) -> NDArray:
        out = np.full(self.size, outside, part.dtype)
        rows, columns = max(-self.start[1], 0), max(-self.start[2], 0)
        out[:, rows : rows + part.shape[1], columns : columns + part.shape[2]] = part
        return np.ascontiguousarray(np.flip(out, self.flipped))
