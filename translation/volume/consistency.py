"""How smoothly a volume runs from slice to slice, in comparison with the scan it was made from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

#: a translation may be this much less consistent than its source
TOLERANCE = 1.1


def slice_jump(volume: NDArray[np.float32], smooth: float = 2.0) -> float:
    """Mean absolute difference between neighbouring slices over the volume's standard deviation.

    Slices are smoothed in their plane first, so that the figure tells jumps of brightness and contrast, which a 2D
    method makes, from noise, which modalities have in different measure. It does not change with the intensities'
    unit or offset.

    Args:
        volume: (slices, rows, columns).
        smooth: standard deviation of the Gaussian, in pixels.

    Returns:
        >= 0; 0 for fewer than two slices or a constant volume.
    """
    if volume.shape[0] < 2:
        return 0.0
    smoothed = gaussian_filter(np.asarray(volume, np.float64), (0, smooth, smooth))
    deviation = smoothed.std()
    return float(np.abs(np.diff(smoothed, axis=0)).mean() / deviation) if deviation > 0 else 0.0


def consistency(translated: NDArray[np.float32], source: NDArray[np.float32]) -> float:
    """`slice_jump` of the translation over that of its source: 1 is as smooth as the source, more is jumpier."""
    own = slice_jump(source)
    return slice_jump(translated) / own if own > 0 else 1.0
