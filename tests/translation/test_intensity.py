from __future__ import annotations

import numpy as np
import pytest

from translation.volume.intensity import Curve, curve, percentile_grid, unscale


def test_robust_scaling_by_hand():
    scale = curve([10, 20], [-1, 1])
    assert scale(np.array([0.0, 10, 12.5, 20, 99])).tolist() == [-1, -1, -0.5, 1, 1]


def test_unscale_undoes_scaling_in_float():
    values = np.linspace(10, 20, 101, dtype=np.float32)
    back = unscale(curve([10, 20], [-1, 1])(values), 10, 20)
    assert back.dtype == np.float32
    assert back == pytest.approx(values, abs=1e-5)


def test_percentile_grid_has_the_outer_two():
    grid = percentile_grid((0.5, 99.5))
    assert grid[0] == 0.5
    assert grid[-1] == 99.5
    assert len(grid) == 101
    assert percentile_grid((0, 100)).tolist() == list(range(101))


def test_matching_histograms_gives_the_target_distribution():
    rng = np.random.default_rng(0)
    source, target = rng.exponential(2, 20000), rng.normal(100, 5, 20000)
    at = percentile_grid((0, 100))
    matched = curve(np.percentile(source, at).tolist(), np.percentile(target, at).tolist())(source)
    assert np.percentile(matched, [10, 50, 90]) == pytest.approx(np.percentile(target, [10, 50, 90]), rel=0.01)


def test_flat_background_stays_one_value_and_order_is_kept():
    own = [0, 0, 0, 0, 5, 10]
    match = curve(own, [0, 1, 2, 3, 6, 8])
    assert match(np.array([0.0])).item() == 1.5
    assert (np.diff(match(np.linspace(-5, 15, 200))) >= 0).all()


def test_constant_scan_is_no_error():
    assert curve([7, 7], [-1, 1])(np.full(3, 7.0)).tolist() == [-1, -1, -1]
    assert Curve((0.0, 1.0), (2.0, 3.0))(np.array([0.5])).dtype == np.float32
