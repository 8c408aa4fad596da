"""The form in which a CPU computes a network is the same function."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from nnunet_ext.inference.network import fast_on_cpu


@pytest.mark.parametrize("edge", [4, 31, 32, 48])  # on both sides of the size where the kernel changes
def test_2d(edge):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 12, 3, padding=1), nn.InstanceNorm2d(12, affine=True), nn.LeakyReLU(), nn.Conv2d(12, 3, 1)
    ).requires_grad_(False)
    nn.init.normal_(network[1].weight)
    nn.init.normal_(network[1].bias)
    x = torch.randn(3, 2, edge, edge)
    torch.testing.assert_close(fast_on_cpu(deepcopy(network), 2)(x), network(x), rtol=1e-4, atol=1e-5)


def test_3d():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4)).requires_grad_(False)
    x = torch.randn(2, 1, 5, 6, 7)
    torch.testing.assert_close(fast_on_cpu(deepcopy(network), 3)(x), network(x), rtol=1e-4, atol=1e-5)
