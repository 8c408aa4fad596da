"""Adversarial losses of a discriminator that scores patches, least-squares or hinge."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

AdversarialKind = Literal["lsgan", "hinge"]


def discriminator_loss(real: Tensor, fake: Tensor, kind: AdversarialKind = "lsgan") -> Tensor:
    """What the discriminator minimises.

    lsgan: 1/2 [mean (D(real) - 1)^2 + mean D(fake)^2], the target-coded form of CycleGAN (Zhu et al. 2017) and
    MSF-Net eq. 2. hinge: 1/2 [mean max(0, 1 - D(real)) + mean max(0, 1 + D(fake))] (Lim and Ye 2017).

    Args:
        real, fake: scores, not probabilities, of any shape; the two may differ in shape.
        kind: `lsgan` or `hinge`.

    Returns:
        a scalar >= 0.
    """
    if kind == "lsgan":
        return 0.5 * ((real - 1).square().mean() + fake.square().mean())
    if kind == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    raise ValueError(f"kind is {kind!r}, 'lsgan' or 'hinge' is needed")


def generator_loss(fake: Tensor, kind: AdversarialKind = "lsgan") -> Tensor:
    """What the generator minimises: mean (D(fake) - 1)^2 for lsgan, -mean D(fake) for hinge.

    Args:
        fake: the discriminator's scores of generated images, of any shape.
        kind: `lsgan` or `hinge`.
    """
    if kind == "lsgan":
        return (fake - 1).square().mean()
    if kind == "hinge":
        return -fake.mean()
    raise ValueError(f"kind is {kind!r}, 'lsgan' or 'hinge' is needed")


class AdversarialLoss(torch.nn.Module):
    """Both sides of one adversarial game, of one `kind`."""

    def __init__(self, kind: AdversarialKind = "lsgan") -> None:
        super().__init__()
        self.kind: AdversarialKind = kind

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """See `discriminator_loss`."""
        return discriminator_loss(real, fake, self.kind)

    def forward(self, fake: Tensor) -> Tensor:
        """See `generator_loss`."""
        return generator_loss(fake, self.kind)
