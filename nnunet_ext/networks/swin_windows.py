"""Windows of a token map: where each token goes, and which tokens may see each other.

A token map of any extent is cut into windows, from the corner for W-(C)MSA and half a window further for SW-(C)MSA.
As in Swin Transformer (Liu et al. 2021) the pieces that a shift cuts off at the low and the high border share a
window, and a mask keeps them apart. All of it is index arithmetic on the shape alone, so it is worked out once per
shape and moving tokens is one copy of rows, forwards and backwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor


class RowMap(NamedTuple):
    """A partial one-to-one map between the rows of a source and of a target.

    Attributes:
        source: (T,) the source row of each target row; any valid row where there is none.
        blank: (b,) target rows without a source, which are filled with zeros.
    """

    source: Tensor
    blank: Tensor


def _take(rows: Tensor, source: Tensor, blank: Tensor) -> Tensor:
    moved = rows.index_select(1, source)
    return moved.index_fill_(1, blank, 0) if blank.numel() else moved


class _Move(torch.autograd.Function):
    """The gradient of a one-to-one move is the inverse move: a copy of rows where autograd would scatter and add."""

    @staticmethod
    def forward(ctx, rows: Tensor, source: Tensor, blank: Tensor, back_source: Tensor, back_blank: Tensor) -> Tensor:
        ctx.save_for_backward(back_source, back_blank)
        return _take(rows, source, blank)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        return _take(gradient, *ctx.saved_tensors), None, None, None, None


def move(rows: Tensor, there: RowMap, back: RowMap) -> Tensor:
    """Rearrange rows (B, S, C) -> (B, T, C), zeros where the target has no source; `back` is the inverse of `there`."""
    return _Move.apply(rows, *there, *back)


def window_shape(extent: Sequence[int], window: Sequence[int]) -> tuple[int, ...]:
    """The windows actually used on a map: no larger than asked for nor than the map, and equal along each axis.

    An extent of 16 with windows of 7 needs three windows either way; windows of 6 then waste 2 tokens instead of 5.
    Extents that the window divides, as in the paper (56, 28, 14 and 7 with windows of 7), are left as they are.
    """
    return tuple(-(-e // -(-e // w)) for e, w in zip(extent, window, strict=True))


class WindowLayout(NamedTuple):
    """The three arrangements of one token map, as rows of C numbers, and the moves between them.

    - map: (B, prod(extent), C), in scan order;
    - windows: (B, windows * prod(window), C), window after window, padded with zeros at the map's end;
    - spaced: (B, prod(spaced_extent), C), in scan order with a line of zeros between neighbouring windows. One padded
      3x3 convolution of this arrangement equals one of each (shifted, possibly cut) window by itself.

    Attributes:
        window: tokens per window and axis.
        windows: windows per map.
        visible: (windows, 1, N, N) bool, True where a query (row) may see a key (column); None where all may.
            Keys that are padding or from the other side of the map are not visible.
    """

    extent: tuple[int, ...]
    window: tuple[int, ...]
    windows: int
    spaced_extent: tuple[int, ...]
    visible: Tensor | None
    map_to_windows: RowMap
    windows_to_map: RowMap
    map_to_spaced: RowMap
    spaced_to_map: RowMap
    spaced_to_windows: RowMap
    windows_to_spaced: RowMap

    def partition(self, rows: Tensor) -> Tensor:
        """map -> windows."""
        return move(rows, self.map_to_windows, self.windows_to_map)

    def reverse(self, rows: Tensor) -> Tensor:
        """windows -> map."""
        return move(rows, self.windows_to_map, self.map_to_windows)

    def space(self, rows: Tensor) -> Tensor:
        """map -> spaced."""
        return move(rows, self.map_to_spaced, self.spaced_to_map)

    def close(self, rows: Tensor) -> Tensor:
        """spaced -> map."""
        return move(rows, self.spaced_to_map, self.map_to_spaced)

    def partition_spaced(self, rows: Tensor) -> Tensor:
        """spaced -> windows."""
        return move(rows, self.spaced_to_windows, self.windows_to_spaced)

    def reverse_spaced(self, rows: Tensor) -> Tensor:
        """windows -> spaced."""
        return move(rows, self.windows_to_spaced, self.spaced_to_windows)


def window_layout(
    extent: tuple[int, ...], window: tuple[int, ...], shifted: bool, device: torch.device
) -> WindowLayout:
    """Work out the layout of a map; `window` is the largest allowed, axes that one window covers are not shifted."""
    window = window_shape(extent, window)
    counts = [-(-e // w) for e, w in zip(extent, window, strict=True)]
    shift = [w // 2 if shifted and n > 1 else 0 for w, n in zip(window, counts, strict=True)]

    # Coordinate on the map of every token of every window; beyond the extent it is padding.
    positions = [
        (torch.arange(n * w) + s).remainder(n * w).view(n, w) for n, w, s in zip(counts, window, shift, strict=True)
    ]
    count, tokens = prod(counts), prod(window)

    def over_windows(per_axis: Tensor, axis: int) -> Tensor:
        """(n, w) of one axis -> (count, tokens), by broadcasting over the other axes."""
        dims = len(extent)
        shape = [counts[i] if i == axis else 1 for i in range(dims)]
        shape += [window[i] if i == axis else 1 for i in range(dims)]
        return per_axis.reshape(shape).expand(*counts, *window).reshape(count, tokens)

    place = torch.zeros(count, tokens, dtype=torch.long)
    spaced_place = torch.zeros_like(place)
    piece = torch.zeros_like(place)
    padding = torch.zeros_like(place, dtype=torch.bool)
    spaced_extent = []
    for axis, (e, w, s) in enumerate(zip(extent, window, shift, strict=True)):
        position = over_windows(positions[axis], axis)
        # The number of the window as the eye sees it on the map: a shift cuts the first one short.
        cell = (position - s).div(w, rounding_mode="floor") + (1 if s else 0)
        length = e + (e - 1 - s) // w + (1 if s else 0)
        spaced_extent.append(length)
        place = place * e + position
        spaced_place = spaced_place * length + position + cell
        piece = piece * 2 + (position < s)
        padding |= position >= e
    piece.masked_fill_(padding, -1)
    visible = piece[:, None, :, None] == piece[:, None, None, :]

    in_windows = torch.arange(count * tokens).view(count, tokens)[~padding]
    in_map, in_spaced = place[~padding], spaced_place[~padding]
    n_windows, n_map, n_spaced = count * tokens, prod(extent), prod(spaced_extent)

    def row_map(source: Tensor, target: Tensor, n_target: int) -> RowMap:
        index = torch.full((n_target,), -1)
        index[target] = source
        return RowMap(index.clamp(min=0).to(device), (index < 0).nonzero().flatten().to(device))

    return WindowLayout(
        extent=extent,
        window=window,
        windows=count,
        spaced_extent=tuple(spaced_extent),
        visible=None if bool(visible.all()) else visible.to(device),
        map_to_windows=row_map(in_map, in_windows, n_windows),
        windows_to_map=row_map(in_windows, in_map, n_map),
        map_to_spaced=row_map(in_map, in_spaced, n_spaced),
        spaced_to_map=row_map(in_spaced, in_map, n_map),
        spaced_to_windows=row_map(in_spaced, in_windows, n_windows),
        windows_to_spaced=row_map(in_windows, in_spaced, n_spaced),
    )


def relative_position_index(window: tuple[int, ...], largest: tuple[int, ...], device: torch.device) -> Tensor:
    """Row of the bias table for each query and key, (N, N), N = prod(window).

    Args:
        window: tokens per axis of the window at hand.
        largest: tokens per axis of the largest window, whose table has prod(2 * largest - 1) rows.
    """
    places = torch.tensor(list(product(*(range(w) for w in window))))
    difference = places[:, None] - places[None]
    index = torch.zeros(len(places), len(places), dtype=torch.long)
    for axis, w in enumerate(largest):
        index = index * (2 * w - 1) + difference[..., axis] + w - 1
    return index.to(device)


# Shapes repeat from step to step, and to torch.compile a layout is a constant of the shape. The caches belong to no
# module, so nothing of them is in a state_dict. Tensors made in inference mode could not take part in later training.


@lru_cache(maxsize=64)
def _layout(extent: tuple[int, ...], window: tuple[int, ...], shifted: bool, device: torch.device) -> WindowLayout:
    with torch.inference_mode(False):
        return window_layout(extent, window, shifted, device)


@lru_cache(maxsize=64)
def _position_index(window: tuple[int, ...], largest: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return relative_position_index(window, largest, device)


@torch.compiler.assume_constant_result
def cached_layout(
    extent: tuple[int, ...], window: tuple[int, ...], shifted: bool, device: torch.device
) -> WindowLayout:
    """`window_layout`, worked out once."""
    return _layout(extent, window, shifted, device)


@torch.compiler.assume_constant_result
def cached_position_index(window: tuple[int, ...], largest: tuple[int, ...], device: torch.device) -> Tensor:
    """`relative_position_index`, worked out once."""
    return _position_index(window, largest, device)
