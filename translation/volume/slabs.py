"""2.5D: a volume as overlapping slabs of neighbouring slices, and slabs blended into a volume."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: pixels in one forward pass; bounds memory and keeps small volumes in one batch
PIXELS = 2**19


def slab_indices(depth: int, slices: int) -> Tensor:
    """(depth, slices): the slices of the slab around each slice; beyond the ends the outermost slice repeats."""
    offsets = torch.arange(slices) - slices // 2
    return (torch.arange(depth)[:, None] + offsets).clamp(0, depth - 1)


def blend_weights(slices: int) -> Tensor:
    """(slices,): triangular, highest in the middle of a slab."""
    half = slices // 2
    return 1.0 - (torch.arange(slices) - half).abs() / (half + 1)


def translate_volume(
    translate: Callable[[Tensor, Tensor | None], Tensor], volume: Tensor, labels: Tensor | None, slices: int
) -> Tensor:
    """Translate the slab around every slice and blend the overlaps by `blend_weights`.

    Args:
        translate: (B, slices, H, W) and labels (B, H, W) of the middle slices -> (B, slices, H, W).
        volume: (D, H, W).
        labels: (D, H, W), or None.
        slices: odd thickness of a slab.

    Returns:
        (D, H, W), float32, a convex combination of what the slabs say about each slice.
    """
    depth = volume.shape[0]
    indices = slab_indices(depth, slices)
    weights = blend_weights(slices).to(volume.device)
    total = torch.zeros_like(volume, dtype=torch.float32)
    mass = torch.zeros(depth, device=volume.device)
    at_once = max(1, PIXELS // (volume.shape[1] * volume.shape[2] * slices))
    for centres in torch.arange(depth).split(at_once):
        out = translate(volume[indices[centres]], None if labels is None else labels[centres]).float()
        for offset in range(slices):
            # A slice that stands in beyond the ends gives no say of its own.
            true = centres + offset - slices // 2
            real = (true >= 0) & (true < depth)
            where = true[real].to(volume.device)
            total[where] += weights[offset] * out[real.to(out.device), offset]
            mass[where] += weights[offset]
    return total / mass[:, None, None]
