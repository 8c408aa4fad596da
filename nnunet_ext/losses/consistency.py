"""Losses between two predictions of the same unlabelled image, and between a prediction and labels of others."""

from __future__ import annotations

import math
from typing import Literal

import torch
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import Tensor
from torch.nn import functional as F

from nnunet_ext.losses.certainty import entropy
from nnunet_ext.losses.precision import wide

PseudoLoss = Literal["dice", "ce", "dice_ce"]


def dice_loss(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """One minus the soft Dice of the softmax, averaged over all classes with the background, over the whole batch.

    In [0, 1]. A class that neither side holds scores a Dice of 1.

    Args:
        logits: (B, K, *S).
        labels: (B, *S) integers in [0, K).
        mask: (B, *S), true where a pixel counts; everywhere where absent.
    """
    dice = MemoryEfficientSoftDiceLoss(softmax_helper_dim1, batch_dice=True, do_bg=True, smooth=1e-5, ddp=False)
    with torch.autocast(logits.device.type, enabled=False):
        return 1 + dice(wide(logits), labels[:, None], None if mask is None else mask[:, None])


def label_loss(logits: Tensor, labels: Tensor, kind: PseudoLoss = "dice", mask: Tensor | None = None) -> Tensor:
    """Dice loss, cross-entropy or their sum against labels that another network or a registration made.

    Args:
        logits: (B, K, *S).
        labels: (B, *S) integers in [0, K); never carries a gradient.
        kind: which loss.
        mask: (B, *S), true where a pixel counts.

    Returns:
        A scalar; 0 with a zero gradient where the mask leaves nothing.
    """
    labels = labels.long()
    loss = logits.new_zeros((), dtype=torch.float32)
    if mask is not None and not mask.any():
        return loss + 0 * wide(logits).sum()
    if kind != "ce":
        loss = loss + dice_loss(logits, labels, mask)
    if kind != "dice":
        with torch.autocast(logits.device.type, enabled=False):
            loss = loss + F.cross_entropy(
                wide(logits), labels if mask is None else labels.masked_fill(~mask, -100), ignore_index=-100
            )
    return loss


def cross_pseudo_loss(logits_a: Tensor, logits_b: Tensor, kind: PseudoLoss = "dice") -> tuple[Tensor, Tensor]:
    """Each network learns from the other's hard labels (eqs. 4.1, 5.9 and 6.2); no gradient reaches a teacher.

    `ce` is Cross Pseudo Supervision as published (Chen et al., CVPR 2021), `dice` is Cross Teaching (Luo et al.,
    MIDL 2022).

    Args:
        logits_a: (B, K, *S) of the first network.
        logits_b: (B, K, *S) of the second.

    Returns:
        The first network's loss and the second's.
    """
    labels_a, labels_b = logits_a.detach().argmax(1), logits_b.detach().argmax(1)
    return label_loss(logits_a, labels_b, kind), label_loss(logits_b, labels_a, kind)


def consistency_loss(probabilities: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of two probability maps (Mean Teacher), over the pixels of a mask (UA-MT, eq. 3).

    Args:
        probabilities: (B, K, *S) of the student.
        target: (B, K, *S) of the teacher; never carries a gradient.
        mask: (B, *S), true where the teacher is trusted.

    Returns:
        The mean over trusted pixels and classes; 0 with a zero gradient where no pixel is trusted.
    """
    distance = (probabilities - target.detach()).square().mean(1)
    if mask is None:
        return distance.mean()
    return (distance * mask).sum() / mask.sum().clamp_min(1)


def trusted_mask(mean_probabilities: Tensor, share: float) -> Tensor:
    """UA-MT's mask (Yu et al., MICCAI 2019): where the entropy of the mean prediction is below a threshold.

    Args:
        mean_probabilities: (B, K, *S), the mean over several noisy passes of the teacher.
        share: the threshold as a part of the largest possible entropy, log K.

    Returns:
        (B, *S), true where the teacher is trusted.
    """
    return entropy(mean_probabilities, dim=1) < share * math.log(mean_probabilities.shape[1])
