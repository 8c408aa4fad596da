"""Eqs. 5 and 6 against values by hand and loops written from the formulas."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ext.koos.losses import self_contrast, supervised_contrast


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1)


def loop(q1: torch.Tensor, q2: torch.Tensor, grades: list[int], tau: float) -> float:
    """Eq. 6, index by index."""
    n, total = len(q1), 0.0
    e = [[math.exp(float(q1[i] @ q2[j]) / tau) for j in range(n)] for i in range(n)]
    for i in range(n):
        positives = [p for p in range(n) if grades[p] == grades[i]]
        inner = 0.0
        for p in positives:
            forth = e[i][p] / sum(e[i][j] for j in range(n))
            back = e[p][i] / sum(e[j][i] for j in range(n))
            inner += math.log(forth * back)
        total -= inner / len(positives)
    return total


def test_self_contrast_of_two_orthogonal_cases_by_hand() -> None:
    z = torch.eye(2)
    # Every factor is e / (e + 1) at tau 1; two factors for each of two anchors.
    assert self_contrast(z, z, 1.0).item() == pytest.approx(4 * math.log1p(math.exp(-1)), rel=1e-6)
    # Swapped: the positive is the one that is orthogonal, 1 / (1 + e).
    assert self_contrast(z, z.flip(0), 1.0).item() == pytest.approx(4 * math.log1p(math.e), rel=1e-6)


def test_supervised_contrast_by_hand() -> None:
    # Two cases of one grade, orthogonal: half of each anchor's terms is e / (e + 1), half is 1 / (e + 1).
    z = torch.eye(2)
    expected = 2 * (math.log1p(math.exp(-1)) + math.log1p(math.e))
    assert supervised_contrast(z, z, torch.tensor([3, 3]), 1.0).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("grades", [[0, 0, 1, 2, 1], [0, 1, 2, 3, 4], [1, 1, 1, 1, 1]])
@pytest.mark.parametrize("tau", [0.1, 0.7])
def test_supervised_contrast_equals_the_loop(grades: list[int], tau: float) -> None:
    q1, q2 = unit(5, 3, seed=1), unit(5, 3, seed=2)
    found = supervised_contrast(q1, q2, torch.tensor(grades), tau).item()
    assert found == pytest.approx(loop(q1, q2, grades, tau), rel=1e-5)


def test_self_contrast_is_the_supervised_one_with_a_grade_of_its_own_for_each() -> None:
    q1, q2 = unit(4, 6, seed=3), unit(4, 6, seed=4)
    assert self_contrast(q1, q2, 0.2).item() == pytest.approx(loop(q1, q2, [0, 1, 2, 3], 0.2), rel=1e-5)


def test_order_of_cases_and_of_views_does_not_matter() -> None:
    q1, q2, grades = unit(6, 4, seed=5), unit(6, 4, seed=6), torch.tensor([0, 1, 1, 2, 0, 1])
    shuffled = torch.tensor([3, 1, 5, 0, 2, 4])
    value = supervised_contrast(q1, q2, grades, 0.3)
    torch.testing.assert_close(supervised_contrast(q1[shuffled], q2[shuffled], grades[shuffled], 0.3), value)
    torch.testing.assert_close(supervised_contrast(q2, q1, grades, 0.3), value)


def test_several_cases_of_a_grade_change_the_loss() -> None:
    """With one case per grade, as in the published code, eq. 6 is nothing but eq. 5."""
    q1, q2 = unit(4, 8, seed=7), unit(4, 8, seed=8)
    alone = supervised_contrast(q1, q2, torch.tensor([0, 1, 2, 3]), 0.1)
    torch.testing.assert_close(alone, self_contrast(q1, q2, 0.1))
    assert abs(supervised_contrast(q1, q2, torch.tensor([0, 0, 1, 1]), 0.1) - alone) > 0.1


def test_gradients_and_edge_cases() -> None:
    q1, q2 = unit(3, 4, seed=9).float().requires_grad_(), unit(3, 4, seed=10).float()
    supervised_contrast(q1, q2, torch.tensor([0, 0, 1]), 0.1).backward()
    assert q1.grad is not None
    assert torch.isfinite(q1.grad).all()
    assert q1.grad.abs().sum() > 0
    # By finite differences in double precision, through the float32 inside.
    x = unit(3, 4, seed=9)
    step = torch.zeros_like(x)
    step[1, 2] = 1e-2
    slope = (loop(x + step, q2.double(), [0, 0, 1], 0.1) - loop(x - step, q2.double(), [0, 0, 1], 0.1)) / 2e-2
    assert q1.grad[1, 2].item() == pytest.approx(slope, rel=1e-2)
    empty = torch.zeros(0, 4)
    assert supervised_contrast(empty, empty, torch.zeros(0, dtype=torch.long), 0.1).item() == 0
    assert self_contrast(q2[:1], q2[:1], 0.1).item() == pytest.approx(0, abs=1e-6)
