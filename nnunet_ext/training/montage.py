"""A picture of what a training makes of its images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from nnunet_ext.files import atomic_path


def write_montage(target: Path, rows: Mapping[str, Tensor]) -> None:
    """Draw images in rows, in grey from the darkest to the brightest of their row.

    Args:
        target: PNG file.
        rows: title -> (B, C, *S); of every image the first channel is shown, in 3D its middle slice.
    """
    columns = max(len(images) for images in rows.values())
    figure = Figure(figsize=(2 * columns, 2.2 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        pictures = images.detach().float().cpu()[:, 0]
        if pictures.ndim == 4:
            pictures = pictures[:, pictures.shape[1] // 2]
        low, high = float(pictures.min()), float(pictures.max())
        line[0].set_title(title, loc="left", fontsize=9)
        for axis in line:
            axis.axis("off")
        for axis, picture in zip(line, pictures, strict=False):
            axis.imshow(picture.numpy(), cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
    with atomic_path(target) as partial:
        figure.savefig(partial, dpi=80)
