"""Warm-up and polynomial decay."""

from __future__ import annotations

import pytest
import torch

from nnunet_ext.training.lr import WarmupPoly


def schedule(epochs: int, iterations: int, warmup: float) -> WarmupPoly:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": 0.5}, {"params": [torch.zeros(1)], "lr": 0.25}])
    return WarmupPoly(optimizer, epochs, iterations, warmup)


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        (0, 1 / 20 * 1.0),
        (9, 10 / 20 * (1 - 9 / 1000) ** 0.9),
        (19, (1 - 19 / 1000) ** 0.9),
        (500, 0.5**0.9),
        (1000, 0.0),
    ],
)
def test_factor(update, expected):
    assert schedule(100, 10, 2).factor(update) == pytest.approx(expected, rel=1e-12)


def test_short_runs_warm_up_for_a_tenth():
    short = schedule(20, 100, 10)
    assert short.factor(199) == pytest.approx((1 - 199 / 2000) ** 0.9)
    assert short.factor(198) == pytest.approx(199 / 200 * (1 - 198 / 2000) ** 0.9)


def test_groups_keep_their_ratio_and_no_warm_up_is_possible():
    poly = schedule(10, 1, 0)
    poly.step(5)
    assert [g["lr"] for g in poly.optimizer.param_groups] == pytest.approx([0.5 * 0.5**0.9, 0.25 * 0.5**0.9])
    assert schedule(10, 1, 0).factor(0) == 1.0


def test_the_rate_depends_on_the_position_alone():
    walked, jumped = schedule(4, 3, 1), schedule(4, 3, 1)
    for update in range(8):
        walked.step(update / 3)
    jumped.step(7 / 3)
    assert [g["lr"] for g in walked.optimizer.param_groups] == [g["lr"] for g in jumped.optimizer.param_groups]
