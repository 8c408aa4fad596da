from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from nnunet_ext.losses.contrastive import BalancedContrastiveLoss, balanced_contrastive_loss, keyed_contrastive_loss

TAU = 0.1


def brute_force(features: torch.Tensor, labels: list[int], tau: float) -> float:
    """Eq. 4.2 without the anchor in the denominator, pixel by pixel in float64."""
    a = [[float(x) / math.sqrt(sum(float(y) ** 2 for y in row)) for x in row] for row in features.double().tolist()]
    pixels = [i for i, y in enumerate(labels) if y >= 0]
    total = 0.0
    for i in pixels:
        positives = [p for p in pixels if p != i and labels[p] == labels[i]]
        if not positives:
            continue
        dot = {k: sum(x * y for x, y in zip(a[i], a[k], strict=True)) / tau for k in pixels}
        denominator = 0.0
        for j in {labels[k] for k in pixels}:
            members = [k for k in pixels if labels[k] == j and k != i]
            if members:
                denominator += sum(math.exp(dot[k]) for k in members) / len(members)
        total += sum(-(dot[p] - math.log(denominator)) for p in positives) / len(positives)
    return total / len(pixels)


def one_hot_features(labels: torch.Tensor) -> torch.Tensor:
    return F.one_hot(labels, int(labels.max()) + 1).float()


def test_two_classes_by_hand():
    # Four pixels, all features alike: own class exp(1/tau) averaged plus the other class exp(1/tau), hence log 2.
    loss = balanced_contrastive_loss(torch.ones(4, 3), torch.tensor([0, 0, 1, 1]), TAU)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


def test_perfect_features_give_almost_zero():
    labels = torch.arange(4).repeat_interleave(50)
    loss = balanced_contrastive_loss(one_hot_features(labels), labels, TAU)
    assert loss.item() == pytest.approx(math.log(1 + 3 * math.exp(-10)), rel=1e-2)
    assert loss.item() == pytest.approx(1.4e-4, rel=0.05)


def test_scrambled_labels_cost_orders_of_magnitude_more():
    labels = torch.arange(4).repeat_interleave(50)
    features = one_hot_features(labels)
    wrong = labels.clone()
    wrong[::3] = (wrong[::3] + 1) % 4
    assert balanced_contrastive_loss(features, wrong, TAU) > 1


@pytest.mark.parametrize(
    "labels",
    [
        [0, 0, 1, 1, 2, 2, 2],
        [0, 1, 1, 1, 1, 1, 1],  # a class of one pixel
        [0, 0, 0, 0, 0, 0, 0],  # only background
        [0, -1, 2, 2, -1, 0, 5],  # pixels that do not take part, labels with gaps
        [0, 1, 2, 3, 4, 5, 6],  # nobody has a positive
    ],
)
def test_agrees_with_the_sum_written_out(labels):
    features = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = balanced_contrastive_loss(features, torch.tensor(labels), TAU)
    assert loss.item() == pytest.approx(brute_force(features.detach(), labels, TAU), abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, features)
    assert torch.isfinite(gradient).all()


def test_no_pixel_at_all_gives_zero_and_a_zero_gradient():
    features = torch.randn(6, 4, requires_grad=True)
    loss = balanced_contrastive_loss(features, torch.full((6,), -1), TAU)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_a_zero_feature_keeps_the_gradient_finite():
    features = torch.zeros(6, 4, requires_grad=True)
    balanced_contrastive_loss(features, torch.tensor([0, 0, 0, 1, 1, 1]), TAU).backward()
    assert torch.isfinite(features.grad).all()


def test_gradcheck_with_classes_of_one_and_left_out_pixels():
    features = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 1, -1, 2, 1, 1, 0])
    assert torch.autograd.gradcheck(lambda f: balanced_contrastive_loss(f, labels, 0.5), (features,))


def test_order_of_pixels_and_names_of_classes_do_not_matter():
    features, labels = torch.randn(30, 8, dtype=torch.float64), torch.randint(0, 4, (30,))
    order = torch.randperm(30)
    loss = balanced_contrastive_loss(features, labels, TAU)
    assert torch.allclose(loss, balanced_contrastive_loss(features[order], labels[order], TAU))
    assert torch.allclose(loss, balanced_contrastive_loss(features, 7 * (3 - labels), TAU))


def test_length_of_features_does_not_matter():
    features, labels = torch.randn(12, 8, dtype=torch.float64), torch.randint(0, 3, (12,))
    scaled = features * torch.rand(12, 1, dtype=torch.float64).add(0.5)
    assert torch.allclose(
        balanced_contrastive_loss(features, labels, TAU), balanced_contrastive_loss(scaled, labels, TAU)
    )


def test_many_background_pixels_change_little_for_the_others():
    """Balance: copying the background ten times leaves a foreground anchor's loss as it was."""
    features = torch.randn(8, 6, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    more = torch.cat((features[:4].repeat(10, 1), features[4:]))
    more_labels = torch.cat((labels[:4].repeat(10), labels[4:]))
    foreground = torch.tensor([0.0] * 4 + [1.0] * 4)
    few = balanced_contrastive_loss(features, labels, TAU, foreground)
    many = balanced_contrastive_loss(more, more_labels, TAU, torch.cat((torch.zeros(40), torch.ones(4))))
    assert torch.allclose(few, many)


def test_small_temperature_stays_finite():
    features = torch.randn(20, 4, requires_grad=True)
    loss = balanced_contrastive_loss(features, torch.randint(0, 3, (20,)), 0.005)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(features.grad).all()


def test_half_precision_features_are_compared_in_float32():
    labels = torch.arange(3).repeat_interleave(20)
    features = torch.randn(60, 16)
    half = BalancedContrastiveLoss(TAU)(features.bfloat16(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(half, balanced_contrastive_loss(features.bfloat16(), labels, TAU))
    assert half.dtype == torch.float32


def keyed_brute_force(anchors, positives, negatives, labels, tau, balanced) -> float:
    def dot(x, y):
        return sum(float(p) * float(q) for p, q in zip(x, y, strict=True)) / tau

    anchors, negatives = F.normalize(anchors, dim=1), F.normalize(negatives, dim=1)
    total = 0.0
    for i, a in enumerate(anchors):
        top = math.exp(dot(a, positives if positives.ndim == 1 else positives[i]))
        z = 0.0
        for j in set(labels.tolist()):
            members = [math.exp(dot(a, n)) for n, y in zip(negatives, labels.tolist(), strict=True) if y == j]
            z += sum(members) / (len(members) if balanced else 1)
        total -= math.log(top / (top + z))
    return total / len(anchors)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("own_positive", [True, False])
def test_keyed_agrees_with_the_sum_written_out(balanced, own_positive):
    g = torch.Generator().manual_seed(3)
    anchors, negatives = (torch.randn(n, 4, dtype=torch.float64, generator=g) for n in (5, 7))
    positives = torch.randn(*((5, 4) if own_positive else (4,)), dtype=torch.float64, generator=g) / 3
    labels = torch.tensor([1, 1, 1, 1, 2, 2, 5])
    loss = keyed_contrastive_loss(anchors, positives, negatives, labels, 0.3, balanced)
    expected = keyed_brute_force(anchors, positives, negatives, labels, 0.3, balanced)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_keyed_perfect_features():
    anchors = torch.tensor([[1.0, 0, 0, 0]]).repeat(10, 1)
    labels = torch.tensor([1] * 100 + [2] * 5 + [3])
    negatives = F.one_hot(labels, 4).float()
    balanced = keyed_contrastive_loss(anchors, anchors[0], negatives, labels, TAU)
    assert balanced.item() == pytest.approx(math.log(1 + 3 * math.exp(-10)), rel=1e-2)
    summed = keyed_contrastive_loss(anchors, anchors[0], negatives, labels, TAU, balanced=False)
    assert summed.item() == pytest.approx(math.log(1 + 106 * math.exp(-10)), rel=1e-2)


def test_keyed_without_anchor_or_negative_is_zero():
    anchors = torch.randn(0, 4, requires_grad=True)
    loss = keyed_contrastive_loss(anchors, torch.randn(4), torch.randn(3, 4), torch.tensor([1, 1, 2]))
    loss.backward()
    assert loss.item() == 0
    anchors = torch.randn(3, 4, requires_grad=True)
    loss = keyed_contrastive_loss(anchors, torch.randn(4), torch.randn(0, 4), torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.allclose(anchors.grad, torch.zeros(3, 4), atol=1e-6)


def test_keyed_gradcheck():
    anchors = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    positive = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    negatives = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, 1, 2, 3, 3])
    assert torch.autograd.gradcheck(
        lambda a, p, n: keyed_contrastive_loss(a, p, n, labels, 0.5), (anchors, positive, negatives)
    )


@pytest.mark.parametrize("balanced", [True, False])
def test_keyed_order_does_not_matter(balanced):
    g = torch.Generator().manual_seed(4)
    anchors, positives, negatives = (torch.randn(n, 4, dtype=torch.float64, generator=g) for n in (5, 5, 9))
    labels = torch.tensor([1, 1, 1, 2, 2, 5, 5, 5, 5])
    loss = keyed_contrastive_loss(anchors, positives, negatives, labels, 0.3, balanced)
    a, n = torch.randperm(5, generator=g), torch.randperm(9, generator=g)
    mixed = keyed_contrastive_loss(anchors[a], positives[a], negatives[n], labels[n], 0.3, balanced)
    assert mixed.item() == pytest.approx(loss.item())
