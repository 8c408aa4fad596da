r"""Supervised contrastive losses over pixels, for any number of classes.

Both losses work on L2-normalised features in at least float32, whatever the autocast around them, and take a
label per pixel; labels below zero mark pixels that do not take part. Nothing here knows how many classes there are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_ext.losses.precision import wide


def normalised(features: Tensor) -> Tensor:
    """L2-normalise the last dimension, in float32 at least; a zero vector stays zero.

    The bound keeps the gradient of a feature that vanished finite.
    """
    return F.normalize(wide(features), dim=-1, eps=1e-6)


def balanced_contrastive_loss(
    features: Tensor, labels: Tensor, temperature: float = 0.1, weights: Tensor | None = None
) -> Tensor:
    r"""Balanced supervised local contrastive loss of one group of patches (MCSC, eq. 4.2).

    .. math::
        L = \frac{1}{|A|} \sum_{i \in A} \Big[ \log \sum_{j \in Y_A} \frac{1}{|A_j \setminus i|}
            \sum_{k \in A_j \setminus i} e^{a_i \cdot a_k / \tau}
            - \frac{1}{|A_y| - 1} \sum_{p \in A_y \setminus i} a_i \cdot a_p / \tau \Big]

    The printed denominator contains the anchor itself, which would reward an anchor for being alone; here the anchor
    is left out and its own class is averaged over the others. An anchor without a positive contributes 0.

    Args:
        features: (n, D), normalised here. Memory grows with n squared: sample first.
        labels: (n) integers; a pixel below 0 is neither anchor nor key.
        temperature: tau.
        weights: (n) how many pixels each sampled anchor stands for; 1 where absent.

    Returns:
        The mean over anchors; 0 with a zero gradient where there is none.
    """
    valid = labels >= 0
    with torch.autocast(features.device.type, enabled=False):
        a = normalised(features)
        similarity = a @ a.T / temperature
        same = (labels[:, None] == labels[None, :]) & valid
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        positive = same & ~itself
        n_positive = positive.sum(1)
        usable = valid & (n_positive > 0)
        # How many keys share key k's class, as anchor i sees it: the anchor does not count in its own class.
        class_size = same.sum(0, dtype=a.dtype) - same.to(a.dtype)
        spread = similarity - class_size.clamp_min(1).log()
        # An anchor without any key would give the logarithm of an empty sum: it keeps itself and is dropped below.
        spread = spread.masked_fill(~valid | itself & usable[:, None], -torch.inf)
        spread = torch.where(usable[:, None], spread, similarity)
        attraction = (similarity * positive).sum(1) / n_positive.clamp_min(1)
        per_anchor = torch.where(usable, spread.logsumexp(1) - attraction, 0)
        share = valid.to(a.dtype) if weights is None else weights.to(a.dtype) * valid
        return (per_anchor * share).sum() / share.sum().clamp_min(torch.finfo(a.dtype).tiny)


class BalancedContrastiveLoss(nn.Module):
    """`balanced_contrastive_loss` with its temperature kept."""

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, features: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        return balanced_contrastive_loss(features, labels, self.temperature, weights)


def keyed_contrastive_loss(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    negative_labels: Tensor,
    temperature: float = 0.1,
    balanced: bool = True,
) -> Tensor:
    r"""Contrast of one class's anchors with a positive key each and a set of negatives (eqs. 5.7 and 6.4).

    .. math::
        L_c = -\frac{1}{|an_c|} \sum_i \log \frac{e^{a_i \cdot a_p / \tau}}{e^{a_i \cdot a_p / \tau} + Z}, \quad
        Z = \sum_{j \neq c} w_j \sum_{k \in n_c^j} e^{a_i \cdot a_k / \tau}

    with :math:`w_j = 1 / |n_c^j|` for MCSCv2 (eq. 5.7) and :math:`w_j = 1` for CCT-R (eq. 6.4).

    Args:
        anchors: (n, D); normalised here.
        positives: (D) or (n, D) positive keys, used as they are: a mean of unit vectors is shorter than one.
        negatives: (m, D); normalised here.
        negative_labels: (m) the class of each negative; only read when `balanced`.
        temperature: tau.
        balanced: average the negatives within each class before summing over classes.

    Returns:
        The mean over anchors; 0 with a zero gradient for no anchor, and 0 for no negative.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        a = normalised(anchors)
        if a.shape[0] == 0:
            return a.sum()
        attraction = (a * positives.to(a.dtype)).sum(-1, keepdim=True) / temperature
        repulsion = a @ normalised(negatives).to(a.dtype).T / temperature
        if balanced and negatives.shape[0] > 0:
            size = (negative_labels[:, None] == negative_labels[None, :]).sum(-1)
            repulsion = repulsion - size.to(a.dtype).log()
        return (torch.cat((attraction, repulsion), dim=1).logsumexp(1) - attraction[:, 0]).mean()
