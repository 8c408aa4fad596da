"""The precision that losses are computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """`x` in float32, or as it is in float64: half precision is too coarse for sums over pixels."""
    return x if x.dtype == torch.float64 else x.float()
