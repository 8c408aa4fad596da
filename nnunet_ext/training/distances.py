"""Signed distances to the labels of a batch, made by whoever makes the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from nnunet_ext.losses.boundary import signed_distances
from nnunet_ext.training.batches import Batch


class WithDistances:
    """Batches with the signed distance of every voxel from every foreground class.

    Distances are those in the augmented patch: it is rotated and scaled, so distances in the case that it was cut
    from would no longer be its own. They are computed once for each patch, in the loader's processes, which have the
    next batches ready while the network learns from this one.

    Args:
        batches: makes batches with `target`.
        spacing: mm per axis, of the patch's axes or of all three of the volume.
        classes: K, background included.
    """

    def __init__(self, batches: Callable[[], Batch], spacing: Sequence[float], classes: int) -> None:
        self.batches = batches
        self.spacing = list(spacing)
        self.classes = classes

    def __call__(self) -> Batch:
        """The batch and `distances` (B, K - 1, *patch), float32, mm, negative inside."""
        batch = self.batches()
        target = batch["target"][0] if isinstance(batch["target"], list) else batch["target"]
        spacing = self.spacing[-(target.ndim - 2) :]
        maps = [torch.from_numpy(signed_distances(label[0].numpy(), self.classes, spacing)) for label in target]
        return {**batch, "distances": torch.stack(maps)}
