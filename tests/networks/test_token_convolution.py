"""Convolutions of channels-last tokens, and the depth-wise one's own gradient against PyTorch's."""

from __future__ import annotations

import pytest
import torch

from nnunet_ext.networks.token_convolution import DepthwiseConv, TokenConv


@pytest.mark.parametrize(("extent", "kernel"), [((5, 9), 7), ((4, 6), 3), ((2, 3), 5), ((3, 6, 5), 3), ((2, 9, 4), 7)])
def test_depthwise_equals_the_plain_convolution_and_its_gradients(extent: tuple[int, ...], kernel: int) -> None:
    torch.manual_seed(0)
    module = DepthwiseConv(len(extent), 3, kernel).double()
    tokens = torch.randn(2, *extent, 3, dtype=torch.double, requires_grad=True)
    gradient = torch.randn(2, *extent, 3, dtype=torch.double)
    inputs = [tokens, *module.parameters()]
    result = module(tokens)
    expected = module.conv(tokens.movedim(-1, 1)).movedim(1, -1)
    torch.testing.assert_close(result, expected)
    for ours, theirs in zip(
        torch.autograd.grad(result, inputs, gradient), torch.autograd.grad(expected, inputs, gradient), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_depthwise_gradient_by_finite_differences() -> None:
    module = DepthwiseConv(2, 2, 5).double()
    tokens = torch.randn(1, 3, 4, 2, dtype=torch.double, requires_grad=True)
    weight = module.conv.weight.detach().requires_grad_()

    def run(tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, {"conv.weight": weight}, tokens)

    assert torch.autograd.gradcheck(run, (tokens, weight))


def test_depthwise_under_cpu_autocast_trains_single_precision_weights() -> None:
    module = DepthwiseConv(2, 4, 7)
    tokens = torch.randn(1, 6, 5, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        result = module(tokens)
    assert result.dtype == torch.bfloat16
    result.float().square().sum().backward()
    assert module.conv.weight.grad is not None
    assert module.conv.weight.grad.dtype == torch.float32
    torch.testing.assert_close(result.float(), module(tokens), rtol=0.05, atol=0.05)


def test_strided_convolution_rounds_the_extent_up() -> None:
    assert TokenConv(2, 3, 5, 3, stride=(2, 1))(torch.randn(1, 7, 6, 3)).shape == (1, 4, 6, 5)
