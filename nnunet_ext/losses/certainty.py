r"""Certainty-guided choice of anchors and negatives (MCSCv2, eqs. 5.1-5.6; anchors of CCT-R, eq. 6.3).

All functions take probabilities with the classes last, one row per pixel, and return masks over the pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy(probabilities: Tensor, dim: int = -1) -> Tensor:
    r""":math:`H(P) = -\sum_c P(c) \log P(c)` in nats (eq. 5.1); 0 log 0 is 0, with a finite gradient."""
    tiny = torch.finfo(probabilities.dtype).tiny
    return -(probabilities * probabilities.clamp_min(tiny).log()).sum(dim)


def certain_mask(uncertainty: Tensor, share_uncertain: float) -> Tensor:
    """Which pixels are certain: all but the `share_uncertain` with the highest entropy (section 5.3.2.2).

    Args:
        uncertainty: entropies of any shape, taken together.
        share_uncertain: beta, 0 to 1. At 0 every pixel is certain, at 1 none is.

    Returns:
        A mask of the same shape. Pixels that tie with the threshold gamma count as certain (eq. 5.3 has <=), so a map
        of one value is certain everywhere unless beta is 1.
    """
    if share_uncertain <= 0:
        return torch.ones_like(uncertainty, dtype=torch.bool)
    n_certain = uncertainty.numel() - math.ceil(share_uncertain * uncertainty.numel())
    if n_certain <= 0:
        return torch.zeros_like(uncertainty, dtype=torch.bool)
    return uncertainty <= uncertainty.flatten().kthvalue(n_certain).values


def class_ranks(probabilities: Tensor) -> Tensor:
    """O_i(c): the place of class c when pixel i's classes are sorted by probability, 0 for the likeliest; (n, C)."""
    return probabilities.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


def anchor_mask(probabilities: Tensor, usable: Tensor, threshold: float) -> Tensor:
    """Pixels that may be anchors of the class they are labelled with (eqs. 5.2, 5.3 and 6.3).

    Args:
        probabilities: (n, C).
        usable: (n) labelled, or unlabelled and certain.
        threshold: h, which the likeliest class's probability must exceed.
    """
    return usable & (probabilities.amax(-1) > threshold)


def negative_mask(
    ranks: Tensor, labels: Tensor, labelled: Tensor, certain: Tensor, c: int, rank_low: int, rank_high: int
) -> Tensor:
    """Pixels that are negatives for class c (eqs. 5.5 and 5.6).

    A labelled pixel of another class counts if c is nevertheless among its `rank_low` likeliest: the hard ones. A
    certain unlabelled pixel counts if c is not among them, an uncertain one only if c is at the very bottom.

    Args:
        ranks: (n, C) from `class_ranks`.
        labels: (n) truth where labelled, pseudo-label elsewhere; below 0 is never a negative.
        labelled: (n) where `labels` is the truth.
        certain: (n) from `certain_mask`; not read where labelled.
        c: the class.
        rank_low: r_l.
        rank_high: r_h.
    """
    rank = ranks[:, c]
    hard = labelled & (rank < rank_low)
    unlabelled = ~labelled & torch.where(certain, rank >= rank_low, rank >= rank_high)
    return (labels >= 0) & (labels != c) & (hard | unlabelled)


def default_rank_high(classes: int) -> int:
    """r_h of the thesis for its two class counts, 2 of 4 and 7 of 9: all but the two least likely are passed over.

    Of three classes it is all but the least likely: at r_l = 1 an uncertain pixel would count like a certain one.
    """
    return min(classes - 1, max(2, classes - 2))
