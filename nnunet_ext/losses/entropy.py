"""Selective entropy: what two views of an unlabelled image agree on becomes surer (CBAL, eq. 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nnunet_ext.losses.certainty import entropy
from nnunet_ext.losses.precision import wide


def agreement_mask(first: Tensor, second: Tensor, threshold: float = 0.1) -> Tensor:
    """The indicator of eq. 3: voxels where no class's probability differs by `threshold` or more.

    Args:
        first, second: (B, K, *S) probabilities.

    Returns:
        (B, *S) bool.
    """
    return (first.detach() - second.detach()).abs().amax(1) < threshold


def selective_entropy(first: Tensor, second: Tensor, threshold: float = 0.1) -> Tensor:
    """- sum_c P_first log P_second where the two views agree (eq. 3), both sides with a gradient.

    The paper prints a sum over all voxels; this is the mean over those that agree, so that the weight does not depend
    on the patch size or on how many agree.

    Args:
        first: (B, K, *S) logits of one view.
        second: (B, K, *S) logits of the other view of the same voxels.
        threshold: tau of eq. 3.

    Returns:
        A scalar >= 0; 0 with a zero gradient where no voxel agrees.
    """
    with torch.autocast(first.device.type, enabled=False):
        log_first, log_second = (wide(x).log_softmax(1) for x in (first, second))
        probability = log_first.exp()
        agree = agreement_mask(probability, log_second.exp(), threshold)
        cross = -(probability * log_second).sum(1)
        return (cross * agree).sum() / agree.sum().clamp_min(1)


def reliable_labels(first: Tensor, second: Tensor, agreement: float = 0.1, certainty: float = 0.1) -> Tensor:
    """Pseudo-labels of the voxels on which two views agree and are sure; no gradient.

    Args:
        first, second: (B, K, *S) logits of the two views.
        agreement: tau of eq. 3.
        certainty: highest entropy of the mean prediction, as a share of the largest possible one, log K.

    Returns:
        (B, *S) class indices, -1 where the voxel is not reliable.
    """
    with torch.no_grad(), torch.autocast(first.device.type, enabled=False):
        views = [wide(x).softmax(1) for x in (first, second)]
        mean = (views[0] + views[1]) / 2
        sure = entropy(mean, dim=1) <= certainty * math.log(mean.shape[1])
        return torch.where(sure & agreement_mask(views[0], views[1], agreement), mean.argmax(1), -1)
