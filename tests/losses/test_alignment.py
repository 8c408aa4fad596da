"""Contrast across domains by class (CBAL, eqs. 4 and 5)."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ext.losses.alignment import cross_domain_contrast, region_descriptors


def loop(source, source_labels, target, target_labels, temperature):
    """The equation, anchor by anchor and pair by pair."""

    def sim(a, b):
        return float(a @ b / (a.norm() * b.norm())) / temperature

    anchors = []
    for z, c in zip(source, source_labels.tolist(), strict=True):
        keys = [(k, d) for k, d in zip(target, target_labels.tolist(), strict=True) if d >= 0]
        positive, negative = [k for k, d in keys if d == c], [k for k, d in keys if d != c]
        if c < 0 or not positive or not negative:
            continue
        spread = sum(math.exp(sim(z, n)) for n in negative)
        pairs = [-math.log(math.exp(sim(z, p)) / (math.exp(sim(z, p)) + spread)) for p in positive]
        anchors.append(sum(pairs) / len(pairs))
    return sum(anchors) / len(anchors) if anchors else 0.0


def test_by_hand():
    source, target = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    loss = cross_domain_contrast(source, torch.tensor([1]), target, torch.tensor([1, 0]), 1.0)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_against_a_loop():
    torch.manual_seed(0)
    source, target = torch.randn(9, 5, dtype=torch.float64), torch.randn(11, 5, dtype=torch.float64)
    a, b = torch.randint(-1, 4, (9,)), torch.randint(-1, 3, (11,))
    got = cross_domain_contrast(source, a, target, b, 0.3)
    assert got.item() == pytest.approx(loop(source, a, target, b, 0.3))


def test_gradient():
    torch.manual_seed(1)
    source = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    target = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    a, b = torch.tensor([0, 1, 1, -1]), torch.tensor([0, 1, 2, 1, -1])
    torch.autograd.gradcheck(lambda x, y: cross_domain_contrast(x, a, y, b, 0.5), (source, target))


def test_perfectly_separated_classes_cost_next_to_nothing_whatever_the_place():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    features = torch.eye(3)[labels]
    mixed = torch.tensor([4, 0, 2, 5, 1, 3])
    assert cross_domain_contrast(features, labels, features[mixed], labels[mixed], 0.1) < 5e-4
    assert cross_domain_contrast(features, labels, features, labels[mixed], 0.1) > 3


@pytest.mark.parametrize(
    ("a", "b"),
    [([0, 0], [0, 0]), ([0, 1], [2, 3]), ([-1, -1], [0, 1]), ([0, 1], [-1, -1]), ([], [0, 1]), ([0, 1], []), ([], [])],
)
def test_without_a_pair_there_is_no_loss_and_no_gradient(a, b):
    source = torch.randn(len(a), 3, requires_grad=True)
    target = torch.randn(len(b), 3, requires_grad=True)
    loss = cross_domain_contrast(source, torch.tensor(a, dtype=torch.long), target, torch.tensor(b, dtype=torch.long))
    loss.backward()
    assert loss == 0
    assert (source.grad == 0).all()
    assert (target.grad == 0).all()


def test_zero_features_keep_the_gradient_finite():
    source = torch.zeros(2, 3, requires_grad=True)
    cross_domain_contrast(source, torch.tensor([0, 1]), torch.randn(2, 3), torch.tensor([0, 1])).backward()
    assert source.grad.isfinite().all()


@pytest.mark.parametrize("size", [(6, 5), (4, 3, 5)])
def test_region_descriptors_against_a_loop(size):
    torch.manual_seed(3)
    features = torch.randn(2, 4, *size, dtype=torch.float64)
    labels = torch.randint(-1, 3, (2, *size))
    got, names = region_descriptors(features, labels, 3, 2)
    expected = []
    starts = [range(0, n, 2) for n in size]
    for c in range(3):
        for b in range(2):
            for corner in torch.cartesian_prod(*(torch.tensor(list(s)) for s in starts)).tolist():
                box = tuple(slice(k, k + 2) for k in corner)
                inside = labels[(b, *box)] == c
                if inside.any():
                    expected.append((c, features[(b, slice(None), *box)][:, inside].mean(1)))
    assert names.tolist() == [c for c, _ in expected]
    torch.testing.assert_close(got, torch.stack([d for _, d in expected]))


def test_one_voxel_is_its_own_region_and_an_absent_class_has_none():
    features = torch.arange(2.0 * 9).reshape(1, 2, 3, 3).requires_grad_()
    labels = torch.full((1, 3, 3), -1)
    labels[0, 1, 2] = 1
    got, names = region_descriptors(features, labels, 3, 8)
    assert names.tolist() == [1]
    torch.testing.assert_close(got, features[:, :, 1, 2])
    got.sum().backward()
    assert features.grad.sum() == pytest.approx(2, rel=1e-5)
