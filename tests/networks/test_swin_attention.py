"""Window attention against loops over pixels, and what may and may not reach a token."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from nnunet_ext.networks.swin_attention import WindowAttention


def attention(extent_dims: int, window: tuple[int, ...], **options) -> WindowAttention:
    torch.manual_seed(1)
    defaults = {"shifted": True, "projection": "window", "output": "convolutional", "position_bias": True}
    module = WindowAttention(extent_dims, 4, 2, window, **{**defaults, **options}).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def cells(extent: int, window: int, shifted: bool) -> list[range]:
    """The pieces into which (shifted) windows cut one axis, as they lie on the map."""
    window = math.ceil(extent / math.ceil(extent / window))
    shift = window // 2 if shifted and extent > window else 0
    cuts = sorted({0, extent, *range(shift, extent, window)})
    return [range(a, b) for a, b in itertools.pairwise(cuts)]


def convolve(image: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Depth-wise 3x3 correlation of (H, W, C), zeros outside, one number at a time."""
    height, width, channels = image.shape
    result = np.zeros_like(image)
    for y, x, c in itertools.product(range(height), range(width), range(channels)):
        total = bias[c]
        for dy, dx in itertools.product((-1, 0, 1), repeat=2):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                total += weight[c, 0, dy + 1, dx + 1] * image[y + dy, x + dx, c]
        result[y, x, c] = total
    return result


def by_loops(module: WindowAttention, image: np.ndarray, window: int, shifted: bool) -> np.ndarray:
    """Eq. 3.5 for every piece of the map by itself, without cyclic shifts, masks or padding."""
    values = {name: p.detach().numpy() for name, p in module.named_parameters()}
    result = np.zeros_like(image)
    for rows, columns in itertools.product(
        cells(image.shape[0], window, shifted), cells(image.shape[1], window, shifted)
    ):
        piece = image[rows.start : rows.stop, columns.start : columns.stop]
        q, k, v = (
            convolve(piece, values[f"qkv_convs.{i}.conv.weight"], values[f"qkv_convs.{i}.conv.bias"]) for i in range(3)
        )
        places = list(itertools.product(range(len(rows)), range(len(columns))))
        attended = np.zeros_like(piece)
        for head, place in itertools.product(range(2), places):
            part = slice(2 * head, 2 * head + 2)
            scores = []
            for other in places:
                score = (q[place][part] * k[other][part]).sum() / math.sqrt(2)
                if module.bias_table is not None:
                    offset = (place[0] - other[0] + window - 1) * (2 * window - 1) + place[1] - other[1] + window - 1
                    score += values["bias_table"][offset, head]
                scores.append(math.exp(score))
            for weight, other in zip(scores, places, strict=True):
                attended[place][part] += weight / sum(scores) * v[other][part]
        out = convolve(attended, values["conv_output.conv.weight"], values["conv_output.conv.bias"])
        gelu = np.vectorize(lambda a: a * 0.5 * (1 + math.erf(a / math.sqrt(2))))(out)
        result[rows.start : rows.stop, columns.start : columns.stop] = gelu
    return result


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    ("extent", "window", "bias"), [((6, 6), 3, False), ((6, 6), 3, True), ((5, 7), 3, True), ((2, 5), 4, True)]
)
def test_equals_loops_over_pixels(extent: tuple[int, int], window: int, bias: bool, shifted: bool) -> None:
    module = attention(2, (window, window), shifted=shifted, position_bias=bias)
    tokens = torch.randn(1, *extent, 4, dtype=torch.double)
    expected = by_loops(module, tokens[0].numpy(), window, shifted)
    np.testing.assert_allclose(module(tokens)[0].detach().numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("extent", "window", "token"),
    [
        ((6, 6), (3, 3), (0, 5)),  # a corner, whose window the cyclic shift shares among all four
        ((6, 6), (3, 3), (2, 3)),
        ((5, 7), (3, 3), (4, 6)),  # beside padding
        ((3, 4, 5), (2, 2, 3), (0, 3, 4)),
    ],
)
def test_a_token_is_reached_by_its_shifted_window_and_nothing_else(extent, window, token) -> None:
    module = attention(len(extent), window)
    tokens = torch.randn(2, *extent, 4, dtype=torch.double, requires_grad=True)
    module(tokens)[(0, *token)].sum().backward()
    assert tokens.grad is not None
    reached = tokens.grad.abs().sum(-1) > 0
    expected = torch.zeros_like(reached)
    pieces = [next(c for c in cells(e, w, True) if t in c) for e, w, t in zip(extent, window, token, strict=True)]
    expected[(0, *(slice(p.start, p.stop) for p in pieces))] = True
    assert torch.equal(reached, expected)


@pytest.mark.parametrize("projection", ["linear", "window"])
def test_moving_the_image_by_whole_windows_moves_the_result(projection: str) -> None:
    module = attention(2, (3, 3), shifted=False, projection=projection, position_bias=False)
    tokens = torch.randn(1, 9, 6, 4, dtype=torch.double)
    moved = module(tokens.roll((3, 3), (1, 2)))
    torch.testing.assert_close(moved, module(tokens).roll((3, 3), (1, 2)))
    by_less = module(tokens.roll((1, 0), (1, 2)))
    assert not torch.allclose(by_less, module(tokens).roll((1, 0), (1, 2)))


def test_map_projection_crosses_windows_and_window_projection_does_not() -> None:
    """The border token of one window enters the next one's keys only when the whole map is convolved."""
    tokens = torch.randn(1, 1, 6, 4, dtype=torch.double, requires_grad=True)
    reach = {}
    for projection in ("map", "window"):
        module = attention(2, (1, 3), shifted=False, projection=projection, output="linear")
        (gradient,) = torch.autograd.grad(module(tokens)[0, 0, 0].sum(), tokens)
        reach[projection] = (gradient.abs().sum(-1) > 0).flatten().tolist()
    assert reach == {"map": [True] * 4 + [False] * 2, "window": [True] * 3 + [False] * 3}


def test_linear_attention_equals_pytorch_multi_head_attention_in_one_window() -> None:
    module = attention(2, (3, 4), projection="linear", output="linear", position_bias=False)
    assert module.qkv is not None
    assert module.linear_output is not None
    reference = torch.nn.MultiheadAttention(4, 2, batch_first=True).double()
    reference.in_proj_weight.data, reference.in_proj_bias.data = module.qkv.weight.data, module.qkv.bias.data
    reference.out_proj.load_state_dict(module.linear_output.state_dict())
    tokens = torch.randn(2, 3, 4, 4, dtype=torch.double)
    rows = tokens.flatten(1, 2)
    expected = reference(rows, rows, rows, need_weights=False)[0].view(tokens.shape)
    torch.testing.assert_close(module(tokens), expected)
