from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_ext.networks.region_norm import PlainNorm, RegionNorm, region_normalise, region_statistics


def masks_of(*slices, shape=(8, 8)):
    masks = torch.zeros(1, len(slices), *shape)
    for channel, (rows, columns) in enumerate(slices):
        masks[0, channel, rows, columns] = 1
    return masks


TWO = masks_of((slice(0, 4), slice(0, 4)), (slice(4, 8), slice(4, 8)))


def with_others(masks):
    return torch.cat([masks, 1 - masks.sum(1, keepdim=True)], 1)


def reference(x, weights, restyled, eps):
    """TANQ eqs. 1-7 by boolean indexing in float64."""
    x, weights = x.double().numpy(), weights.numpy().astype(bool)
    out = np.empty_like(x)
    for b, c in np.ndindex(x.shape[:2]):
        others = x[b, c][weights[b, -1]]
        for k in range(weights.shape[1]):
            inside = x[b, c][weights[b, k]]
            value = (inside - inside.mean()) / np.sqrt(inside.var() + eps)
            if k in restyled:
                value = value * np.sqrt(others.var() + eps) + others.mean()
            out[b, c][weights[b, k]] = value
    return out


@pytest.mark.parametrize("restyled", [(), (1,), (0, 1)])
def test_equals_the_equations(restyled):
    torch.manual_seed(0)
    x = 5 + 3 * torch.randn(2, 3, 8, 8)
    weights = with_others(TWO).expand(2, -1, -1, -1)
    got = region_normalise(x, weights, restyled)
    assert got.numpy() == pytest.approx(reference(x, weights, restyled, 1e-5), abs=1e-4)


def test_statistics_are_of_each_instance():
    x = torch.cat([torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 9.0)])
    mean, std = region_statistics(x, with_others(TWO).expand(2, -1, -1, -1))
    assert mean[:, :, 0].tolist() == [[0, 0, 0], [9, 9, 9]]
    assert torch.allclose(std, torch.full_like(std, 1e-5**0.5))


@pytest.mark.parametrize("pixels", [0, 1, 15])
def test_few_or_no_pixels_share_the_statistics_of_the_map(pixels):
    torch.manual_seed(1)
    masks = torch.zeros(1, 1, 64)
    masks[..., :pixels] = 1
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    mean, std = region_statistics(x, with_others(masks.reshape(1, 1, 8, 8)))
    assert torch.allclose(mean[0, 0], x.mean((2, 3))[0], atol=1e-6)
    assert torch.allclose(std[0, 0], x.std((2, 3), unbiased=False)[0], atol=1e-4)
    out = region_normalise(x, with_others(masks.reshape(1, 1, 8, 8)), (0,))
    out.square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert out.abs().max() < 10


def test_without_masks_it_is_instance_normalisation():
    x = torch.randn(2, 4, 6, 6)
    assert torch.allclose(RegionNorm(4, [0, 1], [1])(x), PlainNorm(4)(x), atol=1e-5)
    assert torch.allclose(RegionNorm(4, [])(x, torch.ones(2, 1, 6, 6)), PlainNorm(4)(x), atol=1e-5)


def test_masks_are_averaged_down_to_the_features():
    torch.manual_seed(2)
    layer = RegionNorm(3, [0])
    x = torch.randn(1, 3, 8, 8)
    large = TWO.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.allclose(layer(x, large), layer(x, TWO), atol=1e-6)


def test_each_region_has_its_own_scale_and_shift():
    layer = RegionNorm(1, [0, 1])
    with torch.no_grad():
        layer.shift[:, 0] = torch.tensor([1.0, 2.0, 3.0])
    out = layer(torch.randn(1, 1, 8, 8), TWO)
    assert out[0, 0, :4, :4].mean().item() == pytest.approx(1, abs=1e-5)
    assert out[0, 0, 4:, 4:].mean().item() == pytest.approx(2, abs=1e-5)
    assert out[0, 0, :4, 4:].mean().item() + out[0, 0, 4:, :4].mean().item() == pytest.approx(6, abs=1e-4)


def test_gradcheck():
    torch.manual_seed(3)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    weights = with_others(masks_of((slice(0, 2), slice(0, 4)), shape=(4, 4)))
    # Statistics are float32, which bounds the precision of the numerical gradient.
    function = lambda x: region_normalise(x, weights, (0,), min_pixels=1)  # noqa: E731
    assert torch.autograd.gradcheck(function, x, eps=1e-2, atol=2e-2, rtol=2e-2)


def test_restyled_must_be_a_region():
    with pytest.raises(ValueError, match="restyled"):
        RegionNorm(2, [0], [1])


def test_mixed_precision_does_not_round_the_statistics():
    torch.manual_seed(4)
    x = 300 + torch.randn(1, 3, 8, 8)
    plain = region_normalise(x, with_others(TWO), (1,))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(region_normalise(x, with_others(TWO), (1,)), plain)
