from __future__ import annotations

import pytest
import torch
from torch import nn

from translation.optimise import Optimisers, linear_decay
from translation.settings import TranslationSettings


@pytest.mark.parametrize(("epoch", "expected"), [(0, 1), (5, 1), (6, 0.8), (9, 0.2), (10, 0)])
def test_decay_by_hand(epoch, expected):
    assert linear_decay(epoch, 10, 0.5) == pytest.approx(expected)


def test_constant_throughout():
    assert linear_decay(9, 10, 1.0) == 1


def networks():
    torch.manual_seed(0)
    return nn.Linear(2, 2), nn.Linear(2, 1)


def test_a_group_is_updated_through_the_other_which_stays():
    generator, judge = networks()
    optimisers = Optimisers({"g": [generator], "d": [judge]}, TranslationSettings(), torch.device("cpu"))
    before = [p.clone() for p in (*generator.parameters(), *judge.parameters())]
    with optimisers.only("g"):
        optimisers.minimise("g", judge(generator(torch.randn(4, 2))).mean())
    optimisers.end_step()
    after = [*generator.parameters(), *judge.parameters()]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [False, False, True, True]
    assert all(p.grad is None for p in judge.parameters())
    assert all(p.requires_grad for p in judge.parameters())


def test_rate_and_betas_are_the_papers():
    optimisers = Optimisers({"g": [nn.Linear(1, 1)]}, TranslationSettings(), torch.device("cpu"))
    optimisers.set_rate(0.5)
    (group,) = optimisers.optimisers["g"].param_groups
    assert group["lr"] == pytest.approx(1e-4)
    assert group["betas"] == (0.5, 0.999)
