from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_ext.losses.correlation import CorrelationLoss, correlation_coefficient, correlation_loss


def test_coefficient_equals_numpy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 1, 6, 5))
    expected = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a, b, strict=True)]
    got = correlation_coefficient(torch.from_numpy(a), torch.from_numpy(b))
    assert got.numpy() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("slope", "signed", "expected"), [(2, False, 0), (-2, False, 0), (2, True, 0), (-2, True, 2)])
def test_linear_maps(slope, signed, expected):
    image = torch.randn(2, 1, 8, 8)
    assert CorrelationLoss(signed)(image, slope * image + 3).item() == pytest.approx(expected, abs=1e-5)


def test_uncorrelated_and_constant_images_cost_one():
    a = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    b = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    assert correlation_loss(a, b).item() == pytest.approx(1)
    assert correlation_loss(a, torch.full_like(a, 7)).item() == pytest.approx(1)


def test_gradient_is_finite_on_a_constant_image():
    flat = torch.zeros(1, 1, 4, 4, requires_grad=True)
    correlation_loss(flat, torch.randn(1, 1, 4, 4)).backward()
    assert torch.isfinite(flat.grad).all()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("shape", [(2, 1, 4, 3), (1, 2, 3, 2, 3)])
def test_gradcheck(shape, signed):
    torch.manual_seed(0)
    a, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x, y: correlation_loss(x, y, signed), (a, b))
