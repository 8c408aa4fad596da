"""Blocks and changes of resolution by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_ext.networks.swin_blocks import Residual, dsf
from nnunet_ext.networks.swin_layers import (
    ConvolutionalEmbedding,
    Dropout,
    LinearEmbedding,
    PatchMerging,
    crop,
    depth_to_space,
    pad_to_multiple,
    space_to_depth,
)


def test_space_to_depth_concatenates_neighbours() -> None:
    tokens = torch.arange(8.0).view(1, 2, 4, 1)
    merged = space_to_depth(tokens, (2, 2))
    assert merged.shape == (1, 1, 2, 4)
    assert merged[0, 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


@pytest.mark.parametrize("strides", [(2, 2), (1, 4), (2, 1, 2), (1, 1, 1)])
def test_depth_to_space_undoes_space_to_depth(strides: tuple[int, ...]) -> None:
    tokens = torch.randn(2, *(4,) * len(strides), 3)
    assert torch.equal(depth_to_space(space_to_depth(tokens, strides), strides), tokens)


def test_padding_is_appended_and_cropped() -> None:
    tokens = torch.ones(1, 3, 5, 2)
    padded = pad_to_multiple(tokens, (2, 4))
    assert padded.shape == (1, 4, 8, 2)
    assert padded.sum() == tokens.sum()
    assert torch.equal(crop(padded, (3, 5)), tokens)


@pytest.mark.parametrize("embedding", [LinearEmbedding, ConvolutionalEmbedding])
@pytest.mark.parametrize(
    ("size", "strides", "extent"),
    [((9, 16), (4, 4), (3, 4)), ((5, 8, 7), (1, 4, 2), (5, 2, 4)), ((1, 1), (4, 4), (1, 1))],
)
def test_embeddings_round_the_extent_up(embedding, size, strides, extent) -> None:
    assert embedding(2, 8, strides)(torch.randn(1, 2, *size)).shape == (1, *extent, 8)


def test_merging_doubles_channels_and_rounds_up() -> None:
    assert PatchMerging(4, (1, 2, 2))(torch.randn(1, 3, 5, 4, 4)).shape == (1, 3, 3, 2, 8)


def test_dsf_is_depthwise_norm_pointwise_gelu_pointwise() -> None:
    """The thesis' order, with PyTorch's own layers in channels-second form."""
    torch.manual_seed(0)
    module = dsf(2, 4, 4.0).double()
    depthwise, norm, first, _, second = module
    tokens = torch.randn(1, 5, 6, 4, dtype=torch.double)
    image = nn.functional.conv2d(tokens.movedim(-1, 1), depthwise.conv.weight, depthwise.conv.bias, padding=3, groups=4)
    image = nn.functional.group_norm(image.permute(0, 2, 3, 1).reshape(-1, 4), 1, norm.weight, norm.bias)
    hidden = nn.functional.gelu(image @ first.weight.T + first.bias)
    expected = (hidden @ second.weight.T + second.bias).view(1, 5, 6, 4)
    torch.testing.assert_close(module(tokens), expected)


def test_residual_scales_drops_whole_samples_and_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    residual = Residual(3, layer_scale=0.5, drop_path=0.25)
    tokens, branch = torch.zeros(400, 2, 3), torch.ones(400, 2, 3)
    out = residual(tokens, branch)
    kept = out[:, 0, 0] > 0
    assert torch.equal(out, torch.where(kept[:, None, None], 0.5 / 0.75, 0.0).expand_as(out))
    assert 0.65 < kept.float().mean() < 0.85  # five standard deviations around 0.75
    assert torch.equal(residual.eval()(tokens, branch), torch.full_like(out, 0.5))


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_rate_scale_and_independence(rate: float) -> None:
    torch.manual_seed(0)
    tokens = torch.ones(50, 401, 5, requires_grad=True)  # a size that four does not divide
    out = Dropout(rate)(tokens)
    zero = out == 0
    n = zero.numel()
    assert abs(zero.float().mean().item() - rate) < 5 * (rate * (1 - rate) / n) ** 0.5
    torch.testing.assert_close(out[~zero], torch.full_like(out[~zero], 1 / (1 - rate)))
    # Numbers that share one random draw are as independent as any others.
    flat = zero.flatten()[: n // 4 * 4].view(-1, 4).float()
    correlation = torch.corrcoef(flat.T) - torch.eye(4)
    assert correlation.abs().max() < 5 / (n / 4) ** 0.5
    out.sum().backward()
    assert torch.equal(tokens.grad, out.detach())
    assert Dropout(rate).eval()(tokens) is tokens or torch.equal(Dropout(rate).eval()(tokens), tokens)
