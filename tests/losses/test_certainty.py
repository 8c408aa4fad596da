from __future__ import annotations

import math

import pytest
import torch

from nnunet_ext.losses.certainty import (
    anchor_mask,
    certain_mask,
    class_ranks,
    default_rank_high,
    entropy,
    negative_mask,
)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [([0.25] * 4, math.log(4)), ([1.0, 0, 0, 0], 0.0), ([0.5, 0.5, 0, 0], math.log(2))],
)
def test_entropy_by_hand(probabilities, expected):
    assert entropy(torch.tensor([probabilities])).item() == pytest.approx(expected)


def test_entropy_of_certainty_has_a_finite_gradient():
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    entropy(logits.softmax(1)).sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("beta", "kept"), [(0.0, 10), (0.2, 8), (0.25, 7), (1.0, 0)])
def test_the_top_share_of_entropies_is_uncertain(beta, kept):
    uncertainty = torch.randperm(10).float()
    certain = certain_mask(uncertainty, beta)
    assert certain.sum().item() == kept
    assert torch.equal(certain, uncertainty < kept)


def test_ties_are_certain():
    assert certain_mask(torch.zeros(7), 0.2).all()


def test_ranks():
    ranks = class_ranks(torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]]))
    assert ranks.tolist() == [[2, 0, 1], [0, 2, 1]]


def test_anchors_are_confident_and_usable():
    p = torch.tensor([[0.95, 0.05], [0.9, 0.1], [0.05, 0.95]])
    assert anchor_mask(p, torch.tensor([True, True, False]), 0.9).tolist() == [True, False, False]


# Classes 0..3, r_l = 1, r_h = 2. One row per rule of eqs. 5.5 and 5.6, for c = 0.
CASES = [
    # probabilities, label, labelled, certain, negative for class 0
    ([0.7, 0.1, 0.1, 0.1], 1, True, True, True),  # labelled otherwise but taken for c: hard negative
    ([0.1, 0.7, 0.1, 0.1], 1, True, True, False),  # labelled otherwise and not taken for c: easy
    ([0.7, 0.1, 0.1, 0.1], 0, True, True, False),  # of class c
    ([0.1, 0.7, 0.1, 0.1], 1, False, True, True),  # certain, likeliest class is another
    ([0.7, 0.1, 0.1, 0.1], 0, False, True, False),  # certain, likeliest class is c
    ([0.3, 0.4, 0.2, 0.1], 1, False, False, False),  # uncertain, c is second
    ([0.1, 0.4, 0.3, 0.2], 1, False, False, True),  # uncertain, c is last
    ([0.7, 0.1, 0.1, 0.1], -1, True, True, False),  # ignored
]


@pytest.mark.parametrize(("p", "label", "labelled", "certain", "expected"), CASES)
def test_negatives_by_rule(p, label, labelled, certain, expected):
    ranks = class_ranks(torch.tensor([p]))
    got = negative_mask(
        ranks, torch.tensor([label]), torch.tensor([labelled]), torch.tensor([certain]), 0, rank_low=1, rank_high=2
    )
    assert got.item() is expected


@pytest.mark.parametrize(("classes", "rank"), [(4, 2), (9, 7), (3, 2), (2, 1)])
def test_rank_high_follows_the_class_count(classes, rank):
    assert default_rank_high(classes) == rank
