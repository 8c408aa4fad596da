from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from nnunet_ext.losses.patchnce import (
    attention_entropy,
    flatten_positions,
    patch_contrast,
    patch_nce,
    select_attention,
)


def reference_nce(query, key, temperature):
    """AccSeg-Net eq. 5, one position at a time."""
    total = 0.0
    for b in range(query.shape[0]):
        for s in range(query.shape[1]):
            positive = math.exp(float(query[b, s] @ key[b, s]) / temperature)
            negatives = [math.exp(float(query[b, s] @ key[b, n]) / temperature) for n in range(key.shape[1]) if n != s]
            total -= math.log(positive / (positive + sum(negatives)))
    return total / (query.shape[0] * query.shape[1])


def test_equals_the_equation():
    torch.manual_seed(0)
    query, key = (F.normalize(torch.randn(2, 5, 4, dtype=torch.float64), dim=-1) for _ in range(2))
    assert patch_nce(query, key, 0.07).item() == pytest.approx(reference_nce(query, key, 0.07), rel=1e-12)


def test_orthogonal_patches_by_hand():
    eye = torch.eye(3)[None]
    # One positive with similarity 1 and two negatives with similarity 0, at temperature 1.
    assert patch_nce(eye, eye, 1.0).item() == pytest.approx(math.log(1 + 2 / math.e))


def test_only_the_query_gets_a_gradient():
    query, key = torch.randn(1, 4, 3, requires_grad=True), torch.randn(1, 4, 3, requires_grad=True)
    patch_nce(query, key).backward()
    assert query.grad is not None
    assert query.grad.abs().sum() > 0
    assert key.grad is None


def test_gradcheck():
    torch.manual_seed(1)
    query = F.normalize(torch.randn(1, 3, 4, dtype=torch.float64), dim=-1).requires_grad_()
    key = F.normalize(torch.randn(1, 3, 4, dtype=torch.float64), dim=-1)
    assert torch.autograd.gradcheck(lambda q: patch_nce(q, key, 1.0), query)


def test_other_images_are_no_negatives():
    torch.manual_seed(2)
    query, key = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    both = patch_nce(query, key)
    each = (patch_nce(query[:1], key[:1]) + patch_nce(query[1:], key[1:])) / 2
    assert torch.allclose(both, each)


def test_shapes_must_match():
    with pytest.raises(ValueError, match="share one shape"):
        patch_nce(torch.zeros(1, 4, 3), torch.zeros(1, 5, 3))


def test_entropy_of_uniform_and_of_sharp_attention():
    uniform = torch.zeros(1, 8, 3)
    assert torch.allclose(attention_entropy(uniform), torch.full((1, 8), math.log(8)))
    sharp = 100 * torch.eye(4)[None]
    assert torch.allclose(attention_entropy(sharp), torch.zeros(1, 4), atol=1e-6)


def test_entropy_equals_the_equation_whatever_the_chunk():
    torch.manual_seed(3)
    features = torch.randn(2, 7, 5)
    attention = (features.double() @ features.double().transpose(1, 2)).softmax(-1)
    expected = -(attention * attention.log()).sum(-1)
    for chunk in (1, 3, 100):
        assert torch.allclose(attention_entropy(features, chunk).double(), expected, atol=1e-5)


def test_smallest_entropies_are_kept_in_order():
    torch.manual_seed(4)
    features = torch.randn(2, 9, 3)
    full = (features @ features.transpose(1, 2)).softmax(-1)
    rows = select_attention(features, 4)
    for b in range(2):
        order = sorted(range(9), key=lambda i: float(attention_entropy(features)[b, i]))
        assert torch.allclose(rows[b], full[b, order[:4]], atol=1e-6)
    assert select_attention(features, 100).shape == (2, 9, 9)


class Identity:
    def __call__(self, features):
        return [F.normalize(f, dim=-1) for f in features]


def test_contrast_is_small_for_the_same_image_and_large_for_a_shuffled_one():
    torch.manual_seed(5)
    features = [torch.randn(1, 16, 6, 6)]
    shuffled = [features[0].flatten(2)[..., torch.randperm(36)].reshape(1, 16, 6, 6)]
    same = patch_contrast(features, features, Identity())
    assert same < 0.1
    assert patch_contrast(features, shuffled, Identity()) > same + 1


def test_attention_layers_route_both_images_by_the_rows_of_the_input():
    torch.manual_seed(6)
    source, output = torch.randn(1, 5, 4, 4), torch.randn(1, 5, 4, 4)
    rows = select_attention(flatten_positions(source), 6)
    key = F.normalize(rows @ flatten_positions(source), dim=-1)
    query = F.normalize(rows @ flatten_positions(output), dim=-1)
    got = patch_contrast([source], [output], Identity(), patches=6, attention_layers=[0])
    assert got.item() == pytest.approx(reference_nce(query.double(), key.double(), 0.07), rel=1e-4)


def test_contrast_averages_layers_and_reaches_the_output():
    torch.manual_seed(7)
    source = [torch.randn(2, 4, 5, 5), torch.randn(2, 6, 3, 3)]
    output = [torch.randn_like(f).requires_grad_() for f in source]
    patch_contrast(source, output, Identity(), patches=100, attention_layers=[1]).backward()
    assert all(f.grad.abs().sum() > 0 for f in output)


def test_mixed_precision_changes_nothing():
    torch.manual_seed(8)
    source, output = [torch.randn(1, 6, 5, 5)], [torch.randn(1, 6, 5, 5)]
    plain = patch_contrast(source, output, Identity(), patches=9, attention_layers=[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(patch_contrast(source, output, Identity(), patches=9, attention_layers=[0]), plain)
