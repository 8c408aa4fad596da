"""Choosing which pixels a contrastive loss sees, so that its cost is a setting and not the size of the image."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_per_class(labels: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Draw pixels in equal shares from every class that is there, spread evenly over a class's pixels.

    A class smaller than its share is taken whole and the others fill up, so that a rare class is never lost.

    Args:
        labels: (P) integers; below 0 is never drawn.
        n: pixels to draw.

    Returns:
        index: (m) into `labels`, none twice; m is n, or all there are.
        weight: (m) float, how many pixels each drawn one stands for: its class's size by its class's draws.
            Weighted means over the draws estimate means over all pixels.
    """
    classes = int(labels.max()) + 1 if labels.numel() else 0
    members = [m for c in range(classes) if len(m := (labels == c).nonzero()[:, 0])]
    members.sort(key=len)
    left = n
    index, weight = [labels.new_zeros(0, dtype=torch.long)], [torch.zeros(0, device=labels.device)]
    for place, member in enumerate(members):
        draws = min(len(member), left // (len(members) - place))
        left -= draws
        index.append(member[spread_draws(len(member), draws, labels.device)])
        weight.append(torch.full((draws,), len(member) / max(draws, 1), device=labels.device))
    return torch.cat(index), torch.cat(weight)


def spread_draws(size: int, n: int, device: torch.device | str = "cpu") -> Tensor:
    """(n) different numbers below `size`, ascending: one at random from each of n stretches of equal length.

    Unlike a permutation it costs nothing for the numbers that are not drawn.
    """
    edges = torch.arange(n + 1, device=device) * size // max(n, 1)
    lengths = edges[1:] - edges[:-1]
    return edges[:-1] + (torch.rand(n, device=device, dtype=torch.float64) * lengths).long()


def patch_groups(
    size: tuple[int, ...], patch: int, maps: int, groups: int | None, device: torch.device | str = "cpu"
) -> Tensor:
    """Group patches of many feature maps: each group takes one patch of every map, none twice (MCSC, section 4.3.2).

    Args:
        size: spatial size of the feature maps, in pixels.
        patch: edge of a patch (h'), in pixels; an axis shorter than it is one patch long.
        maps: number of feature maps.
        groups: how many groups to form; None for as many as there are patches, which covers every pixel once.
        device: where the result lies.

    Returns:
        (G, maps, pixels of a patch) flat positions into a map; -1 where a patch juts out over the border.
    """
    flat = torch.zeros((1, 1), dtype=torch.long, device=device)
    inside = torch.ones((1, 1), dtype=torch.bool, device=device)
    for length in size:
        edge = min(patch, length)
        line = torch.arange(-(-length // edge) * edge, device=device).reshape(-1, edge)
        shape = (len(flat) * len(line), flat.shape[1] * edge)
        flat = (flat[:, None, :, None] * length + line.clamp_max(length - 1)[None, :, None, :]).reshape(shape)
        inside = (inside[:, None, :, None] & (line < length)[None, :, None, :]).reshape(shape)
    table = torch.where(inside, flat, -1)
    chosen = torch.rand((maps, len(table)), device=device).argsort(dim=1)[:, : len(table) if groups is None else groups]
    return table[chosen].transpose(0, 1)
