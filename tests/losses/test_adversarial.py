from __future__ import annotations

import pytest
import torch

from nnunet_ext.losses.adversarial import AdversarialLoss, discriminator_loss, generator_loss

REAL, FAKE = torch.tensor([1.0, 0.0]), torch.tensor([0.5, -2.0, 0.0])


@pytest.mark.parametrize(
    ("kind", "discriminator", "generator"),
    [
        # 1/2 [(0 + 1) / 2 + (0.25 + 4 + 0) / 3]; (0.25 + 9 + 1) / 3
        ("lsgan", 0.5 * (0.5 + 4.25 / 3), 10.25 / 3),
        # 1/2 [(0 + 1) / 2 + (1.5 + 0 + 1) / 3]; -(0.5 - 2) / 3
        ("hinge", 0.5 * (0.5 + 2.5 / 3), 0.5),
    ],
)
def test_values_by_hand(kind, discriminator, generator):
    loss = AdversarialLoss(kind)
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(discriminator)
    assert loss(FAKE).item() == pytest.approx(generator)


def test_perfect_discriminator_costs_nothing():
    assert discriminator_loss(torch.ones(3), torch.zeros(3), "lsgan") == 0
    assert discriminator_loss(torch.full((3,), 1.5), torch.full((3,), -1.5), "hinge") == 0


@pytest.mark.parametrize("kind", ["lsgan", "hinge"])
def test_gradient_pushes_fake_scores_up_for_the_generator_and_down_for_the_discriminator(kind):
    fake = torch.zeros(4, requires_grad=True)
    (up,) = torch.autograd.grad(generator_loss(fake, kind), fake)
    assert (up < 0).all()
    fake = torch.full((4,), 0.5, requires_grad=True)
    (down,) = torch.autograd.grad(discriminator_loss(torch.ones(2), fake, kind), fake)
    assert (down > 0).all()


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="wgan"):
        generator_loss(FAKE, "wgan")
    with pytest.raises(ValueError, match="wgan"):
        discriminator_loss(REAL, FAKE, "wgan")
