from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from nnunet_ext.losses.mind import MINDLoss, mind_features


def reference(image, region, patch, neighbourhood, sigma, normalisation, eps=1e-5):
    """The formula, pixel by pixel and shift by shift, in float64."""
    shape = image.shape

    def at(index):
        return image[tuple(min(max(i, 0), n - 1) for i, n in zip(index, shape, strict=True))]

    def cube(size):
        return list(product(range(-(size // 2), size // 2 + 1), repeat=len(shape)))

    weights = {o: math.exp(-sum(i * i for i in o) / (2 * sigma**2)) for o in cube(patch)}
    total = sum(weights.values())

    def distance(x, shift):
        value = 0.0
        for offset, weight in weights.items():
            here = tuple(i + o for i, o in zip(x, offset, strict=True))
            there = tuple(i + s for i, s in zip(here, shift, strict=True))
            value += weight / total * (at(here) - at(there)) ** 2
        return value

    out = np.zeros((len(cube(region)), *shape))
    for x in np.ndindex(*shape):
        variance = np.mean([distance(x, s) for s in cube(neighbourhood)]) + eps
        features = np.array([math.exp(-distance(x, s) / variance) for s in cube(region)])
        out[(slice(None), *x)] = features / (features.sum() if normalisation == "sum" else features.max())
    return out


@pytest.mark.parametrize("normalisation", ["sum", "max"])
@pytest.mark.parametrize(("shape", "sizes"), [((6, 5), (5, 3, 3)), ((7, 6), (3, 5, 5)), ((3, 4, 3), (3, 3, 3))])
def test_equals_the_loops(shape, sizes, normalisation):
    image = np.random.default_rng(0).normal(size=shape)
    got = mind_features(
        torch.from_numpy(image)[None, None],
        region=sizes[0],
        patch=sizes[1],
        neighbourhood=sizes[2],
        sigma=1.5,
        normalisation=normalisation,
    )
    assert got[0].numpy() == pytest.approx(reference(image, *sizes, 1.5, normalisation), abs=1e-12)


def test_default_sizes_and_normalisation():
    features = mind_features(torch.rand(1, 1, 20, 22))
    assert features.shape == (1, 81, 20, 22)
    assert torch.allclose(features.sum(1), torch.ones(1, 20, 22), atol=1e-5)
    assert mind_features(torch.rand(1, 1, 8, 8), normalisation="max").amax(1).min() == 1


def test_does_not_change_with_contrast_or_inversion():
    torch.manual_seed(0)
    image = torch.randn(1, 1, 16, 16)
    loss = MINDLoss()
    assert loss(image, -3 * image + 5) < 1e-5
    assert loss(image, torch.randn(1, 1, 16, 16)) > 1e-3


def test_constant_image_is_finite_and_uniform():
    flat = torch.ones(1, 1, 8, 8, requires_grad=True)
    features = mind_features(flat)
    assert torch.allclose(features, torch.full_like(features, 1 / 81))
    features.square().sum().backward()
    assert torch.isfinite(flat.grad).all()


def test_even_size_is_refused():
    with pytest.raises(ValueError, match="odd"):
        mind_features(torch.zeros(1, 1, 8, 8), patch=4)


def test_mixed_precision_changes_nothing():
    image = torch.rand(1, 1, 12, 12)
    plain = mind_features(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mind_features(image), plain)


@pytest.mark.parametrize("normalisation", ["sum", "max"])
@pytest.mark.parametrize(("shape", "region"), [((5, 4), (5, 3)), ((3, 3, 4), 3)])
def test_gradcheck(shape, region, normalisation):
    torch.manual_seed(1)
    fixed, moving = (torch.randn(1, 2, *shape, dtype=torch.float64) for _ in range(2))
    loss = MINDLoss(region, 3, 3, 1.5, normalisation)
    assert torch.autograd.gradcheck(lambda image: loss(fixed, image), moving.requires_grad_())
