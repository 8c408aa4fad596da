"""The contrast between two modalities: eqs. 5 and 6 of MSF-Koos-Net (Han et al. 2022).

Both are sums over the anchors. The second denominator of eq. 5 is printed with one index twice, which would make its
factor constant; as in eq. 6 it runs over the first view.
"""

from __future__ import annotations

import torch
from torch import Tensor


def self_contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    r"""Eq. 5: only the other view of the same case is positive.

    .. math:: -\sum_i \log \frac{e^{z_1^i \cdot z_2^i / \tau}}{\sum_j e^{z_1^i \cdot z_2^j / \tau}} \cdot
              \frac{e^{z_1^i \cdot z_2^i / \tau}}{\sum_j e^{z_1^j \cdot z_2^i / \tau}}

    Args:
        first, second: (B, C) of unit length; row i of both is case i.
        temperature: tau.

    Returns:
        a scalar; 0 for a batch of one, which has no negatives.
    """
    return supervised_contrast(first, second, torch.arange(len(first), device=first.device), temperature)


def supervised_contrast(first: Tensor, second: Tensor, grades: Tensor, temperature: float) -> Tensor:
    r"""Eq. 6: the other views of all cases of the same grade are positive, the case's own among them.

    .. math:: -\sum_i \frac{1}{|P(i)|} \sum_{p \in P(i)} \log
              \frac{e^{q_1^i \cdot q_2^p / \tau}}{\sum_j e^{q_1^i \cdot q_2^j / \tau}} \cdot
              \frac{e^{q_1^p \cdot q_2^i / \tau}}{\sum_j e^{q_1^j \cdot q_2^i / \tau}}

    Args:
        first, second: (B, C) of unit length; row i of both is case i.
        grades: (B,) of integers.
        temperature: tau.

    Returns:
        a scalar; 0 for an empty batch.
    """
    similarity = first.float() @ second.float().T / temperature
    across = similarity.log_softmax(1) + similarity.log_softmax(0).T
    positive = grades[:, None] == grades[None, :]
    return -((across * positive).sum(1) / positive.sum(1)).sum()
