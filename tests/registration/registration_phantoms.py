"""Small stacks with an organ that has no symmetry, for all registration tests."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk


def blob_stack(
    shift: tuple[float, float] = (0, 0), angle: float = 0, scale: float = 1, size=(64, 60, 6), seed: int = 0
) -> tuple[sitk.Image, sitk.Image]:
    """A bright "ventricle" in a dark wall beside a dimmer one, amid noise; labels 1 (wall), 2 and 3 (pools).

    `shift` is in mm (x, y) from the grid's centre, `angle` in degrees, both of the organ. Spacing 2 x 2 x 8 mm.
    """
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.arange(n) for n in size[::-1]), indexing="ij")
    px, py = (2.0 * (v - (n - 1) / 2) - s for v, n, s in zip((x, y), size[:2], shift, strict=True))
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    u, v = (c * px + s * py) / scale, (-s * px + c * py) / scale
    taper = 1 - 0.06 * np.abs(z - (size[2] - 1) / 2)
    main = np.hypot(u, v) / taper
    side = np.hypot((u + 22) / 0.6, (v - 8) / 1.4) / taper
    label = np.zeros(main.shape, np.uint8)
    label[side < 14] = 3
    label[main < 16] = 1
    label[main < 9] = 2
    value = np.array([60.0, 20.0, 200.0, 150.0])[label] + 10 * np.sin(0.15 * px) + rng.normal(0, 6, main.shape)
    image, labels = sitk.GetImageFromArray(value.astype(np.float32)), sitk.GetImageFromArray(label)
    for one in (image, labels):
        one.SetSpacing((2.0, 2.0, 8.0))
    return image, labels


def dice(a: sitk.Image, b: sitk.Image) -> float:
    """Mean Dice over labels 1 to 3."""
    x, y = sitk.GetArrayFromImage(a), sitk.GetArrayFromImage(b)
    return float(np.mean([2 * ((x == k) & (y == k)).sum() / ((x == k).sum() + (y == k).sum()) for k in (1, 2, 3)]))
