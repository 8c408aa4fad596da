"""Small volumes for the tests of this folder."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

# A rotation about an oblique axis, a flipped one, and numbers that no binary fraction holds exactly.
OBLIQUE = (0.36, 0.48, -0.8, -0.8, 0.6, 0.0, 0.48, 0.64, 0.6)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
SPACING = (0.7290666, 0.7290666, 9.9)
ORIGIN = (-147.8034, 33.1, 0.7)


def volume(
    path: Path,
    values: Sequence[int] | None = None,
    *,
    size: tuple[int, ...] = (6, 5, 4),
    spacing: Sequence[float] = SPACING,
    origin: Sequence[float] = ORIGIN,
    direction: Sequence[float] = OBLIQUE,
    dtype: type = np.int16,
) -> Path:
    """Write an image of noise that depends on the file's name, or a label map that holds `values` in turn."""
    if values is None:
        array = np.random.default_rng(zlib.crc32(path.name.encode())).integers(0, 900, size[::-1]).astype(dtype)
    else:
        array = np.resize(np.array(values), size[::-1]).astype(np.uint16 if dtype is np.int16 else dtype)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(list(spacing)[: len(size)])
    image.SetOrigin(list(origin)[: len(size)])
    if len(size) == 3:
        image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), True)
    return path


def values_in(path: Path) -> set[int]:
    return set(np.unique(array_of(path)).tolist())


def array_of(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below `folder` with its modification time and content."""
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes())
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
