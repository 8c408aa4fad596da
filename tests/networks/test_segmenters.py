"""DuSEUNet, AttentionUNet and DeepLab: shapes in 2D and 3D, gates by hand, gradients everywhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_ext.networks.attention_unet import AttentionGate, AttentionUNet
from nnunet_ext.networks.deeplab import DeepLab, DilatedBlock
from nnunet_ext.networks.duse_unet import DualSqueezeExcitation, DuSEUNet


def unet(kind, dims, **options):
    return kind(
        2,
        3,
        [4, 6, 8],
        {2: nn.Conv2d, 3: nn.Conv3d}[dims],
        [[1, 3, 3][-dims:]] * 3,
        [[1, 1, 1][-dims:], [1, 2, 2][-dims:], [2, 2, 2][-dims:]],
        1,
        5,
        1,
        norm_op={2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims],
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={},
        **options,
    )


def all_reached(network, loss):
    loss.backward()
    return [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize(("dims", "size"), [(2, (12, 16)), (3, (4, 8, 12))])
@pytest.mark.parametrize("kind", [DuSEUNet, AttentionUNet])
def test_unets_in_2d_and_3d(kind, dims, size):
    network = unet(kind, dims)
    logits = network(torch.randn(2, 2, *size))
    assert logits.shape == (2, 5, *size)
    missed = all_reached(network, logits.square().mean())
    assert all("seg_layers.0" in name for name in missed)  # of the lower resolution, used by deep supervision only


def test_duse_unet_supports_deep_supervision():
    full, half = unet(DuSEUNet, 2, deep_supervision=True)(torch.randn(1, 2, 8, 8))
    assert full.shape[2:] == (8, 8)
    assert half.shape[2:] == (4, 4)


@pytest.mark.parametrize("size", [(3, 5), (2, 3, 4)])
def test_squeeze_and_excitation_by_hand(size):
    block = DualSqueezeExcitation(2, len(size), reduction=1)
    x = torch.randn(1, 2, *size)
    with torch.no_grad():
        first, _, second = block.channel
        for layer in (first, second):
            layer.weight.copy_(torch.eye(2))
            layer.bias.zero_()
        block.spatial.weight.copy_(torch.tensor([1.0, -2.0]).reshape(1, 2, *[1] * len(size)))
        block.spatial.bias.fill_(0.5)
        expected = torch.empty_like(x)
        where = torch.sigmoid(x[:, 0] - 2 * x[:, 1] + 0.5)
        for c in range(2):
            channel = torch.sigmoid(torch.relu(x[0, c].mean()))
            expected[:, c] = x[:, c] * channel + x[:, c] * where
    torch.testing.assert_close(block(x), expected)


def test_attention_gate_by_hand():
    gate = AttentionGate(2, 2)
    with torch.no_grad():
        gate.skip.weight.copy_(torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1))
        gate.gate.weight.copy_(torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1))
        gate.gate.bias.fill_(0.25)
        gate.psi.weight.fill_(3.0)
        gate.psi.bias.fill_(-1.0)
    skip, below = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    alpha = torch.sigmoid(3 * torch.relu(skip[:, :1] + below[:, 1:] + 0.25) - 1)
    torch.testing.assert_close(gate(skip, below), skip * alpha)


def test_gates_matter():
    network = unet(AttentionUNet, 2)
    x = torch.randn(1, 2, 8, 8)
    before = network(x)
    with torch.no_grad():
        for gate in network.gates:
            gate.psi.bias.fill_(-30.0)  # closes every skip connection
    assert not torch.allclose(network(x), before)


@pytest.mark.parametrize(("dims", "size"), [(2, (37, 50)), (3, (5, 33, 32))])
def test_deeplab_in_2d_and_3d(dims, size):
    kernels = [[1, 3, 3][-dims:]] * 2 + [[3] * dims] * 3
    strides = [[1] * dims, *[[1, 2, 2][-dims:]] * 2, *[[2] * dims] * 2]
    network = DeepLab(1, 3, [2, 4, 4, 6, 8], kernels, strides, rates=(1, 2))
    logits, features = network.forward_features(torch.randn(2, 1, *size))
    assert logits.shape == (2, 3, *size)
    assert [f.shape[1] for f in features] == list(network.feature_channels) == [8, 8]
    shrunk = tuple(-(-n // int(1 / s)) for n, s in zip(size, network.feature_scales[0], strict=True))
    assert features[1].shape[2:] == shrunk
    assert max(1 / s for s in network.feature_scales[0]) == 8
    assert all_reached(network, logits.square().mean()) == []


def test_dilation_reaches_as_far_as_it_says_and_not_across_thick_slices():
    block = DilatedBlock(1, 1, (1, 3, 3), 4)
    x = torch.zeros(1, 1, 3, 17, 17)
    x[0, 0, 1, 8, 8] = 1
    out = block.conv1(x) - block.conv1(torch.zeros_like(x))
    places = set(map(tuple, (out[0, 0].abs() > 1e-7).nonzero().tolist()))
    assert places == {(1, 8 + a, 8 + b) for a in (-4, 0, 4) for b in (-4, 0, 4)}
