r"""Contrast between two domains, paired by class (CBAL, eqs. 4 and 5)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_ext.losses.contrastive import normalised
from nnunet_ext.losses.precision import wide


def cross_domain_contrast(
    source: Tensor, source_labels: Tensor, target: Tensor, target_labels: Tensor, temperature: float = 0.1
) -> Tensor:
    r"""NT-Xent between source anchors and target keys, paired by class instead of by place (eq. 4).

    .. math::
        L = -\frac{1}{|A|} \sum_{i \in A} \frac{1}{|P_i|} \sum_{p \in P_i} \log
            \frac{e^{z_i \cdot z_p / \tau}}{e^{z_i \cdot z_p / \tau} + \sum_{n \in N_i} e^{z_i \cdot z_n / \tau}}

    with the target keys of anchor i's class as :math:`P_i` and those of all other classes as :math:`N_i`. The printed
    equation pairs pixel i of one image with pixel i of another, which means something only where both show the same
    structure there; other keys of the anchor's own class are positives of their own and no negatives.

    Args:
        source: (n, D) features, normalised here.
        source_labels: (n) integers; below 0 takes no part.
        target: (m, D), normalised here.
        target_labels: (m) pseudo-labels; below 0 takes no part.
        temperature: tau.

    Returns:
        The mean over anchors that have a positive and a negative key; 0 with a zero gradient where there is none.
    """
    with torch.autocast(source.device.type, enabled=False):
        anchors = normalised(source)
        similarity = anchors @ normalised(target).to(anchors.dtype).T / temperature
        known = (source_labels >= 0)[:, None] & (target_labels >= 0)[None, :]
        same = source_labels[:, None] == target_labels[None, :]
        positive, negative = known & same, known & ~same
        usable = positive.any(1) & negative.any(1)
        # Rows without a negative would give the logarithm of an empty sum, whose gradient is not a number.
        repulsion = similarity.masked_fill(~(negative | ~usable[:, None]), -torch.inf)
        if repulsion.numel() == 0:
            return similarity.sum()
        per_pair = F.softplus(repulsion.logsumexp(1, keepdim=True) - similarity)
        per_anchor = (per_pair * positive).sum(1) / positive.sum(1).clamp_min(1)
        return (per_anchor * usable).sum() / usable.sum().clamp_min(1)


def region_descriptors(features: Tensor, labels: Tensor, classes: int, patch: int) -> tuple[Tensor, Tensor]:
    """Mean features of every class in every patch that shows it: the Z_{P_i} of eq. 5.

    The map is cut into patches of `patch` voxels along each axis (less at the far border); a class's part of a patch
    is one region.

    Args:
        features: (B, C, *S).
        labels: (B, *S) integers in [0, classes); below 0 takes no part.
        classes: K.
        patch: edge of a patch, in voxels of the feature map.

    Returns:
        (R, C) descriptors in float32 at least, and (R) their classes.
    """
    size = features.shape[2:]
    kernel = [min(patch, n) for n in size]
    pool = F.avg_pool2d if len(size) == 2 else F.avg_pool3d
    with torch.autocast(features.device.type, enabled=False):
        features = wide(features)
        descriptors, names = [], []
        for c in range(classes):
            mask = (labels == c).to(features.dtype)[:, None]
            share = pool(mask, kernel, ceil_mode=True)
            mean = pool(features * mask, kernel, ceil_mode=True) / share.clamp_min(torch.finfo(features.dtype).tiny)
            there = share[:, 0] > 0
            found = mean.movedim(1, -1)[there]
            descriptors.append(found)
            names.append(torch.full((len(found),), c, device=labels.device))
        return torch.cat(descriptors), torch.cat(names)
