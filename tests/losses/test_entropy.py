"""Selective entropy and reliable pseudo-labels (CBAL, eq. 3)."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ext.losses.entropy import agreement_mask, reliable_labels, selective_entropy


def logits(*probabilities):
    """(1, K, n) log-probabilities from one tuple per voxel."""
    return torch.tensor(probabilities, dtype=torch.float64).log().T[None]


def test_by_hand():
    first = logits((0.9, 0.1), (0.8, 0.2), (0.5, 0.5))
    second = logits((0.85, 0.15), (0.3, 0.7), (0.55, 0.45))
    voxels = [-(0.9 * math.log(0.85) + 0.1 * math.log(0.15)), -(0.5 * math.log(0.55) + 0.5 * math.log(0.45))]
    assert selective_entropy(first, second, 0.1).item() == pytest.approx(sum(voxels) / 2)


def test_every_class_has_to_agree():
    first = torch.tensor([0.5, 0.4, 0.1]).reshape(1, 3, 1)
    second = torch.tensor([0.45, 0.25, 0.3]).reshape(1, 3, 1)
    assert agreement_mask(first, second, 0.21).all()
    assert not agreement_mask(first, second, 0.19).any()


@pytest.mark.parametrize("size", [(3, 4), (2, 3, 2)])
def test_against_a_loop(size):
    torch.manual_seed(1)
    first, second = (torch.randn(2, 3, *size, dtype=torch.float64) for _ in range(2))
    total, count = 0.0, 0
    p, q = first.softmax(1), second.softmax(1)
    for b in range(2):
        for place in torch.cartesian_prod(*(torch.arange(n) for n in size)).tolist():
            a, c = p[(b, slice(None), *place)], q[(b, slice(None), *place)]
            if max(abs(x - y) for x, y in zip(a.tolist(), c.tolist(), strict=True)) < 0.3:
                total -= sum(x * math.log(y) for x, y in zip(a.tolist(), c.tolist(), strict=True))
                count += 1
    assert 0 < count < p[:, 0].numel()
    assert selective_entropy(first, second, 0.3).item() == pytest.approx(total / count)


@pytest.mark.parametrize("size", [(2, 3), (2, 2, 2)])
def test_gradient(size):
    torch.manual_seed(2)
    first = torch.randn(1, 3, *size, dtype=torch.float64, requires_grad=True)
    second = (first.detach() + 0.05 * torch.randn_like(first)).requires_grad_()
    assert agreement_mask(first.softmax(1), second.softmax(1), 0.5).all()  # no voxel is near the threshold
    torch.autograd.gradcheck(lambda a, b: selective_entropy(a, b, 0.5), (first, second))


def test_nothing_agrees():
    first = torch.tensor([[50.0, -50.0]]).T[None].requires_grad_()
    loss = selective_entropy(first, -first.detach(), 0.1)
    loss.backward()
    assert loss == 0
    assert (first.grad == 0).all()


def test_certain_views_cost_nothing_and_stay_finite_in_half_precision():
    sure = torch.tensor([[60000.0, -60000.0]], dtype=torch.float16).T[None].requires_grad_()
    loss = selective_entropy(sure, sure.detach(), 0.1)
    loss.backward()
    assert loss == 0
    assert sure.grad.isfinite().all()


def test_reliable_labels_need_agreement_and_certainty():
    first = logits((0.99, 0.01), (0.02, 0.98), (0.6, 0.4), (0.999, 0.001))
    second = logits((0.99, 0.01), (0.01, 0.99), (0.6, 0.4), (0.85, 0.15))
    # Binary entropy of 0.99 is 0.08 bit, of 0.985 0.11 bit, of 0.6 0.97 bit; the last pair does not agree.
    assert reliable_labels(first, second, 0.1, 0.1).tolist() == [[0, -1, -1, -1]]
    assert reliable_labels(first, second, 0.1, 0.15).tolist() == [[0, 1, -1, -1]]
    assert reliable_labels(first, second, 0.2, 1.0).tolist() == [[0, 1, 0, 0]]
    assert not reliable_labels(first.requires_grad_(), second).requires_grad
