"""Windows of a token map: which token lands where, and who may see whom."""

from __future__ import annotations

import pytest
import torch

from nnunet_ext.networks.swin_windows import cached_layout, relative_position_index, window_layout, window_shape

CPU = torch.device("cpu")
MAPS = [
    ((6, 6), (3, 3), False),
    ((6, 6), (3, 3), True),
    ((5, 7), (3, 4), True),
    ((2, 9), (7, 4), True),
    ((1, 1), (7, 7), True),
    ((3, 5, 4), (2, 2, 2), True),
    ((1, 6, 5), (4, 3, 3), True),
]


@pytest.mark.parametrize(
    ("extent", "window", "expected"),
    [
        ((56, 28), (7, 7), (7, 7)),  # the paper's: as asked for
        ((14, 7), (7, 7), (7, 7)),
        ((16, 8), (7, 7), (6, 4)),  # three windows of 6, two of 4: no more windows than 7 would need
        ((4, 1), (7, 7), (4, 1)),  # no larger than the map
        ((8, 32, 32), (7, 7, 7), (4, 7, 7)),
    ],
)
def test_window_shape(extent: tuple[int, ...], window: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert window_shape(extent, window) == expected


@pytest.mark.parametrize(("extent", "window", "shifted"), MAPS)
def test_every_arrangement_is_undone_by_its_inverse(extent, window, shifted) -> None:
    layout = window_layout(extent, window, shifted, CPU)
    tokens = torch.Size(extent).numel()
    rows = torch.randn(2, tokens, 3, dtype=torch.double)
    torch.testing.assert_close(layout.reverse(layout.partition(rows)), rows, rtol=0, atol=0)
    torch.testing.assert_close(layout.close(layout.space(rows)), rows, rtol=0, atol=0)
    windows = layout.partition(rows)
    torch.testing.assert_close(layout.partition_spaced(layout.space(rows)), windows, rtol=0, atol=0)
    torch.testing.assert_close(layout.reverse_spaced(windows), layout.space(rows), rtol=0, atol=0)
    # Nothing is lost or doubled on the way: what is not a token is zero.
    torch.testing.assert_close(windows.sum(1), rows.sum(1))
    torch.testing.assert_close(layout.space(rows).sum(1), rows.sum(1))


def test_unshifted_windows_are_blocks_of_the_map() -> None:
    layout = window_layout((4, 6), (2, 3), False, CPU)
    rows = torch.arange(24.0).view(1, 24, 1)
    windows = layout.partition(rows).view(layout.windows, 6)
    assert windows.tolist() == [
        [0, 1, 2, 6, 7, 8],
        [3, 4, 5, 9, 10, 11],
        [12, 13, 14, 18, 19, 20],
        [15, 16, 17, 21, 22, 23],
    ]
    assert layout.visible is None


def test_shifted_row_by_hand() -> None:
    """Five tokens, windows of 3 (6 places, one of padding) shifted by 1: [1 2 3] and [4 - | 0]."""
    layout = window_layout((1, 5), (1, 3), True, CPU)
    windows = layout.partition(torch.arange(1.0, 6.0).view(1, 5, 1)).view(2, 3)
    assert windows.tolist() == [[2, 3, 4], [5, 0, 1]]
    assert layout.visible is not None
    assert layout.visible[0, 0].all()
    assert layout.visible[1, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    # On the map the cuts lie after the first token and after the fourth.
    spaced = layout.space(torch.arange(1.0, 6.0).view(1, 5, 1)).flatten()
    assert spaced.tolist() == [1, 0, 2, 3, 4, 0, 5]
    assert layout.spaced_extent == (1, 7)


@pytest.mark.parametrize(("extent", "window", "shifted"), MAPS)
def test_visible_are_the_tokens_of_one_cell_of_the_map(extent, window, shifted) -> None:
    """Cut the map at s, s + w, s + 2w, ...: two tokens see each other exactly when no cut is between them."""
    layout = window_layout(extent, window, shifted, CPU)
    size = window_shape(extent, window)
    cells = []
    for e, w in zip(extent, size, strict=True):
        cuts = list(range(w // 2 if shifted and e > w else 0, e, w))
        cells.append(torch.tensor([sum(c <= i for c in cuts) for i in range(e)]))
    cell = torch.cartesian_prod(*cells)
    together = (cell[:, None] == cell[None]).all(-1)

    tokens = len(cell)
    numbered = layout.partition(torch.arange(1.0, tokens + 1).view(1, tokens, 1)).view(layout.windows, -1).long()
    seen = torch.zeros(tokens + 1, tokens + 1, dtype=torch.bool)
    for number, places in enumerate(numbered):
        allowed = torch.ones(len(places), len(places)).bool() if layout.visible is None else layout.visible[number, 0]
        for i, query in enumerate(places):
            seen[query, places[allowed[i]]] = True
    assert torch.equal(seen[1:, 1:], together)
    assert not seen[1:, 0].any(), "a token sees padding"


def test_gradient_of_a_move_is_the_inverse_move() -> None:
    layout = window_layout((3, 5), (2, 2), True, CPU)
    rows = torch.randn(1, 15, 2, dtype=torch.double, requires_grad=True)
    for arrange in (layout.partition, layout.space, lambda r: layout.reverse_spaced(layout.partition(r))):
        assert torch.autograd.gradcheck(arrange, (rows,))
        assert torch.autograd.gradgradcheck(arrange, (rows,))


def test_a_layout_made_in_inference_mode_serves_training_afterwards() -> None:
    with torch.inference_mode():
        cached_layout((5, 11), (2, 3), True, CPU)
    rows = torch.randn(1, 55, 2, requires_grad=True)
    cached_layout((5, 11), (2, 3), True, CPU).partition(rows).sum().backward()
    assert rows.grad is not None
    assert torch.equal(rows.grad, torch.ones_like(rows))


def test_relative_position_index_by_hand() -> None:
    """Table of windows of 3: row = offset + 2; a smaller window uses its middle."""
    assert relative_position_index((3,), (3,), CPU).tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    assert relative_position_index((2,), (3,), CPU).tolist() == [[2, 1], [3, 2]]
    # (1, 2) windows in a (2, 2) table of 3 x 3 rows: only the column offset differs.
    assert relative_position_index((1, 2), (2, 2), CPU).tolist() == [[4, 3], [5, 4]]
