"""From logits on the network's grid to labels on the scan's grid, slab by slab.

nnU-Net resamples all classes to full resolution at once, which for many classes takes more memory than everything
else together. Here a slab of all classes is resampled, turned into labels and dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

SLAB_BYTES = 64 << 20

Interpolation = Literal["linear", "nearest"]


@dataclass(frozen=True)
class Resampling:
    """How the logits of one configuration reach a grid of `shape`: one interpolation per axis."""

    shape: tuple[int, int, int]
    axes: tuple[Interpolation, Interpolation, Interpolation]
    dtype: torch.dtype

    def slab(self, logits: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Logits (C, stop - start, y, x) at the planes [start, stop) of the first axis of the new grid.

        The new grid covers the old one's extent (corners not aligned) and values beyond the outer centres are those of
        the outer voxels, as with `skimage.transform.resize(mode="edge")`.

        Args:
            logits: (C, z, y, x) on the network's grid.
        """
        for axis, (new, how) in enumerate(zip(self.shape, self.axes, strict=True)):
            dim, old = axis + 1, logits.shape[axis + 1]
            wanted = slice(start, stop) if axis == 0 else slice(0, new)
            if old == new:
                logits = logits.narrow(dim, wanted.start, wanted.stop - wanted.start)
                continue
            place = old / new * (np.arange(new)[wanted] + 0.5) - 0.5
            if how == "nearest":
                index = torch.from_numpy(np.floor(place + 0.5).astype(np.int64).clip(0, old - 1))
                logits = logits.index_select(dim, index)
                continue
            place = place.clip(0, old - 1)
            low = np.floor(place).astype(np.int64)
            fraction = torch.from_numpy((place - low).astype(np.float32)).view(-1, *[1] * (2 - axis))
            low_values = logits.index_select(dim, torch.from_numpy(low)).float()
            high_values = logits.index_select(dim, torch.from_numpy((low + 1).clip(max=old - 1))).float()
            logits = low_values.lerp_(high_values, fraction)
        return logits.to(self.dtype)


def resampling(
    configuration: ConfigurationManager,
    shape: Sequence[int],
    current_spacing: Sequence[float],
    new_spacing: Sequence[float],
) -> Resampling | None:
    """nnU-Net's resampling of logits for a configuration, or None when it is one that only nnU-Net can compute.

    Args:
        shape: z, y, x of the new grid.
        current_spacing: spacing of the logits, mm.
        new_spacing: spacing of the new grid, mm.
    """
    name = configuration.configuration["resampling_fn_probabilities"]
    options: dict[str, Any] = dict(configuration.configuration["resampling_fn_probabilities_kwargs"])
    dtype, between = _interpolation(name, options)
    if dtype is None:
        return None
    threshold = {k: v for k, v in options.items() if k == "separate_z_anisotropy_threshold"}
    force = options.get("force_separate_z", False if name == "resample_data_or_seg_to_shape" else None)
    separate, low = determine_do_sep_z_and_axis(force, current_spacing, new_spacing, **threshold)
    axes: list[Interpolation] = ["linear"] * 3
    if separate:
        axes[int(low)] = between
    z, y, x = (int(n) for n in shape)
    return Resampling((z, y, x), (axes[0], axes[1], axes[2]), dtype)


def _interpolation(name: str, options: dict[str, Any]) -> tuple[torch.dtype | None, Interpolation]:
    """The result's type and what happens across anisotropic slices; no type for a function not known here."""
    known = {"is_seg", "force_separate_z", "separate_z_anisotropy_threshold"}
    if name == "resample_data_or_seg_to_shape" and not options.get("is_seg"):
        order_z = options.get("order_z", 0)
        if options.get("order") == 1 and order_z in (0, 1) and set(options) <= known | {"order", "order_z"}:
            # nnU-Net computes in float64 and rounds to the logits' own float16.
            return torch.half, "nearest" if order_z == 0 else "linear"
    if name == "resample_torch_fornnunet" and not options.get("is_seg"):
        modes = options.get("mode", "linear"), options.get("aniso_axis_mode", "nearest-exact")
        ignored = {"num_threads", "memefficient_seg_resampling", "mode", "aniso_axis_mode"}
        if modes == ("linear", "nearest-exact") and set(options) <= known | ignored:
            return torch.float, "nearest"
    return None, "linear"


def resample_by_class(
    logits: torch.Tensor, function: Callable[..., Any], shape: Sequence[int], spacings: tuple[Any, Any]
) -> torch.Tensor:
    """All classes on the new grid through nnU-Net's own function, one class at a time."""
    out = torch.empty((logits.shape[0], *(int(n) for n in shape)), dtype=logits.dtype)
    for i in range(logits.shape[0]):
        out[i] = torch.as_tensor(function(logits[i : i + 1], shape, *spacings))[0]
    return out


def slabs(shape: Sequence[int], classes: int, slab_bytes: int = SLAB_BYTES) -> Iterator[tuple[int, int]]:
    """Ranges of planes along the first axis so that a float32 slab of all classes takes about `slab_bytes`."""
    planes = max(1, slab_bytes // (4 * classes * int(shape[1]) * int(shape[2])))
    for start in range(0, int(shape[0]), planes):
        yield start, min(start + planes, int(shape[0]))
