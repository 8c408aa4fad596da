"""Tiled prediction of a preprocessed volume: nnU-Net's tiles, weights and arithmetic, computed in parallel threads."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from torch import nn

T = TypeVar("T")
R = TypeVar("R")
Tile = tuple[slice | int, ...]
Flip = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """How a volume is tiled: a patch of two (slice by slice) or three numbers, the spatial axes to mirror (None for
    no mirroring), and the distance between tiles as a part of the patch."""

    patch_size: tuple[int, ...]
    mirror_axes: tuple[int, ...] | None
    step: float


@dataclass(frozen=True)
class Lanes:
    """Where passes run: `workers` at once in `executor`, or one after the other here (a GPU) without it."""

    device: torch.device
    executor: ThreadPoolExecutor | None = None
    workers: int = 1


@torch.inference_mode()
def predict_logits(
    networks: Sequence[nn.Module], data: torch.Tensor, heads: int, window: Window, lanes: Lanes
) -> torch.Tensor:
    """Mean logits of the networks over a volume, as `nnUNetPredictor.predict_logits_from_preprocessed_data` gives them.

    Sums are in the same order and in float16 as there, so that the labels agree; what differs is that passes run
    in threads of one core each. Two threads with a core each are faster than one pass on
    two cores, and far faster when another process takes a share of them.

    Args:
        networks: one per fold.
        data: (C, z, y, x) float32, preprocessed.
        heads: number of output channels.

    Returns:
        (heads, z, y, x) float16 on the CPU.
    """
    padded, revert = pad_nd_image(data, window.patch_size, "constant", {"value": 0}, True, None)
    mean: torch.Tensor | None = None
    for network in networks:
        try:
            logits = _one_network(network, padded, heads, window, lanes, lanes.device)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            logits = _one_network(network, padded, heads, window, lanes, torch.device("cpu"))
        logits = logits[(slice(None), *revert[1:])]
        mean = logits if mean is None else mean.add_(logits)
    assert mean is not None
    return mean.div_(len(networks)) if len(networks) > 1 else mean


def _one_network(
    network: nn.Module, data: torch.Tensor, heads: int, window: Window, lanes: Lanes, sums_on: torch.device
) -> torch.Tensor:
    device, tiles = lanes.device, _tiles(data.shape[1:], window.patch_size, window.step)
    gaussian = compute_gaussian(window.patch_size, sigma_scale=1.0 / 8, value_scaling_factor=10, device=sums_on)
    groups = flip_groups(window)
    logits = torch.zeros((heads, *data.shape[1:]), dtype=torch.half, device=sums_on)
    weight = torch.zeros(data.shape[1:], dtype=torch.half, device=sums_on)

    @torch.inference_mode()
    def one_pass(job: tuple[Tile, list[Flip]]) -> torch.Tensor:
        tile, flips = job
        x = data[tile].to(device)
        batch = torch.stack([torch.flip(x, flip) for flip in flips])
        if batch.ndim == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            found = network(batch)
        total = torch.flip(found[0], flips[0])
        for one, flip in zip(found[1:], flips[1:], strict=True):
            total += torch.flip(one, flip)
        return total

    passes = _ordered(one_pass, itertools.product(tiles, groups), lanes)
    for tile in tiles:
        prediction = next(passes)
        for _ in groups[1:]:
            prediction += next(passes)
        if window.mirror_axes is not None:
            prediction /= sum(len(group) for group in groups)
        # float16 like nnU-Net's sums: float32 would be more exact and no longer give the same labels.
        prediction = prediction.to(sums_on)
        prediction *= gaussian
        logits[tile] += prediction
        weight[tile[1:]] += gaussian
    for head in logits:
        head /= weight
        if torch.isinf(head).any():
            raise RuntimeError("the network's output overflows float16: the model is not usable in half precision")
    return logits.cpu()


def flip_groups(window: Window) -> list[list[Flip]]:
    """The mirrored copies of a (C, ...) tile, in nnU-Net's order, by the pass that takes them.

    A 2D network takes all in one batch, which is a little faster; for a 3D one that would cost memory and no less time.
    """
    axes = [a + 1 for a in window.mirror_axes or ()]
    flips = [c for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]
    return [flips] if len(window.patch_size) == 2 else [[flip] for flip in flips]


def _tiles(shape: Sequence[int], patch_size: Sequence[int], step: float) -> list[Tile]:
    """Where tiles lie in a (C, z, y, x) volume; a 2D network takes slice after slice along z."""
    flat = len(patch_size) < len(shape)
    starts = compute_steps_for_sliding_window(tuple(shape[1:] if flat else shape), tuple(patch_size), step)
    spatial = [
        tuple(slice(s, s + size) for s, size in zip(start, patch_size, strict=True))
        for start in itertools.product(*starts)
    ]
    if flat:
        return [(slice(None), z, *tile) for z in range(shape[0]) for tile in spatial]
    return [(slice(None), *tile) for tile in spatial]


def _ordered(function: Callable[[T], R], jobs: Iterable[T], lanes: Lanes) -> Iterator[R]:
    """`map` in order, with no more than `workers` jobs ahead of the one that is waited for."""
    if lanes.executor is None:
        yield from map(function, jobs)
        return
    pending: deque[Future[R]] = deque()
    try:
        for job in jobs:
            pending.append(lanes.executor.submit(function, job))
            if len(pending) > lanes.workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
