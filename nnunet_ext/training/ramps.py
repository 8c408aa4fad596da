"""How loss weights change over a training."""

from __future__ import annotations

import math


def gaussian_ramp(step: float, total: float) -> float:
    """exp(-5 (1 - t/T)^2): 0.0067 at the first update, 1 from `total` on (section 4.3.3; w_cps is 0.1 times this)."""
    done = min(max(step / total, 0.0), 1.0) if total > 0 else 1.0
    return math.exp(-5 * (1 - done) ** 2)


def linear_decay(step: float, total: float) -> float:
    """1 - t/T: 1 at the first update, 0 from `total` on (beta of section 5.3.2.2)."""
    return 1 - min(max(step / total, 0.0), 1.0) if total > 0 else 0.0
