from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from nnunet_ext.losses.consistency import consistency_loss, cross_pseudo_loss, dice_loss, label_loss, trusted_mask


def sure(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Logits that put all probability on `labels`."""
    return 100 * F.one_hot(labels, classes).movedim(-1, 1).float()


def test_dice_loss_is_zero_when_right_and_one_when_wrong():
    labels = torch.tensor([[[0, 1], [1, 0]]])
    assert dice_loss(sure(labels, 2), labels).item() == pytest.approx(0, abs=1e-5)
    assert dice_loss(sure(1 - labels, 2), labels).item() == pytest.approx(1, abs=1e-4)


def test_dice_loss_by_hand():
    # Background: 3 predicted, 2 true, 2 common: 4/5. Foreground: 1 predicted, 2 true, 1 common: 2/3.
    labels = torch.tensor([[[0, 0], [1, 1]]])
    predicted = torch.tensor([[[0, 0], [0, 1]]])
    assert dice_loss(sure(predicted, 2), labels).item() == pytest.approx(1 - (4 / 5 + 2 / 3) / 2, abs=1e-4)


def test_a_class_that_neither_side_holds_is_not_an_error():
    labels = torch.zeros((2, 4, 4, 4), dtype=torch.long)
    assert dice_loss(sure(labels, 5), labels).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("kind", ["dice", "ce", "dice_ce"])
def test_masked_pixels_count_for_nothing(kind):
    logits = torch.randn(1, 3, 4, 4)
    labels, mask = torch.randint(0, 3, (1, 4, 4)), torch.zeros((1, 4, 4), dtype=torch.bool)
    mask[:, :2] = True
    other = logits.clone()
    other[:, :, 2:] = torch.randn(1, 3, 2, 4)
    assert torch.allclose(label_loss(logits, labels, kind, mask), label_loss(other, labels, kind, mask))
    assert torch.allclose(label_loss(logits, labels, kind, mask), label_loss(logits[:, :, :2], labels[:, :2], kind))


@pytest.mark.parametrize("kind", ["dice", "ce", "dice_ce"])
def test_an_empty_mask_gives_zero_and_a_zero_gradient(kind):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = label_loss(logits, torch.zeros((1, 4, 4)), kind, torch.zeros((1, 4, 4), dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_cross_entropy_by_hand():
    assert label_loss(torch.zeros(1, 4, 3), torch.tensor([[0, 1, 3]]), "ce").item() == pytest.approx(math.log(4))


def test_networks_teach_each_other_and_no_gradient_reaches_the_teacher():
    a, b = torch.randn(2, 1, 3, 5, 5).unbind()
    a, b = a.requires_grad_(), b.requires_grad_()
    loss_a, loss_b = cross_pseudo_loss(a, b)
    assert torch.allclose(loss_a, dice_loss(a, b.argmax(1)))
    assert torch.allclose(loss_b, dice_loss(b, a.argmax(1)))
    loss_a.backward()
    assert b.grad is None
    assert a.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["dice", "ce", "dice_ce"])
def test_cross_pseudo_gradients_and_order(kind):
    """Right as far as nnU-Net's Dice tells, which adds up in float32; the same in any order of pixels and networks."""
    g = torch.Generator().manual_seed(5)
    a, b = torch.randn(2, 2, 3, 4, 3, dtype=torch.float64, generator=g).unbind()

    def total(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        first, second = cross_pseudo_loss(x, y, kind)
        return first + 2 * second

    # The labels that the networks give each other do not change within gradcheck's steps.
    inputs = a.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(total, inputs, eps=1e-3, atol=3e-4, rtol=0.02, nondet_tol=1e-6)
    order = torch.randperm(12, generator=g)
    mixed = [x.detach().flatten(2)[..., order] for x in (a, b)]
    assert cross_pseudo_loss(*mixed, kind)[0].item() == pytest.approx(cross_pseudo_loss(a, b, kind)[0].item())
    assert cross_pseudo_loss(b, a, kind)[1].item() == pytest.approx(cross_pseudo_loss(a, b, kind)[0].item())


def test_consistency_agrees_with_the_sum_written_out():
    g = torch.Generator().manual_seed(6)
    student, teacher = torch.randn(2, 2, 3, 4, 3, dtype=torch.float64, generator=g).softmax(2).unbind()
    mask = torch.rand(2, 4, 3, generator=g) > 0.5
    expected, count = 0.0, 0
    for n, y, x in mask.nonzero().tolist():
        expected += sum((student[n, c, y, x] - teacher[n, c, y, x]).item() ** 2 for c in range(3)) / 3
        count += 1
    assert consistency_loss(student, teacher, mask).item() == pytest.approx(expected / count)
    assert torch.autograd.gradcheck(lambda s: consistency_loss(s, teacher, mask), (student.requires_grad_(),))


def test_consistency_by_hand_and_over_a_mask():
    p, q = torch.tensor([[[1.0, 0.5], [0.0, 0.5]]]), torch.tensor([[[0.0, 0.5], [1.0, 0.5]]])
    assert consistency_loss(p, q).item() == pytest.approx(0.5)
    assert consistency_loss(p, q, torch.tensor([[True, False]])).item() == pytest.approx(1.0)
    assert consistency_loss(p, q, torch.tensor([[False, True]])).item() == 0


def test_consistency_without_a_trusted_pixel():
    p = torch.rand(1, 2, 4, requires_grad=True)
    loss = consistency_loss(p, torch.rand(1, 2, 4), torch.zeros((1, 4), dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(p.grad, torch.zeros_like(p))


def test_trusted_is_what_has_little_entropy():
    # Entropies of 0.97 and 0.60 of the maximum of two classes.
    p = torch.tensor([[[0.6, 0.146], [0.4, 0.854]]])
    assert trusted_mask(p, 0.75).tolist() == [[False, True]]
    assert trusted_mask(p, 1.0).tolist() == [[True, True]]
    assert not trusted_mask(torch.full((1, 3, 1), 1 / 3), 0.99).any()
