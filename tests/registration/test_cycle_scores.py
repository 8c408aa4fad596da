"""MI, RMSE and the composite score against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.registration.scores import composite_score, cycle_scores, mutual_information, root_mean_square_error


def test_rmse_by_hand():
    # (0, 0, 2, 4): mean square (0 + 0 + 4 + 16) / 4 = 5
    assert root_mean_square_error([1, 2, 3, 4], [1, 2, 1, 0]) == pytest.approx(np.sqrt(5))


def test_mutual_information_by_hand():
    # Two fair coins that agree in 3 of 4 throws: joint (3/8, 1/8; 1/8, 3/8), marginals 1/2.
    a, b = [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 0]
    expected = 2 * (3 / 8) * np.log(1.5) + 2 * (1 / 8) * np.log(0.5)
    assert mutual_information(a, b, bins=2) == pytest.approx(expected)
    assert mutual_information(a, a, bins=2) == pytest.approx(np.log(2))
    assert mutual_information([0, 0, 1, 1], [0, 1, 0, 1], bins=2) == pytest.approx(0)
    assert mutual_information(np.ones(8), b) == 0


def test_mutual_information_does_not_mind_the_contrast():
    rng = np.random.default_rng(0)
    a = rng.random(500)
    assert mutual_information(a, 3 - 2 * a) == pytest.approx(mutual_information(a, a), abs=1e-9)


def test_the_composite_score_falls_with_a_better_cycle():
    """Smaller is better: less error and more information must both lower it (the printed sign of MI would not)."""
    assert composite_score(0.2, 1.5, 1, 1) == pytest.approx(-1.3)
    assert composite_score(0.1, 1.5, 1, 1) < composite_score(0.2, 1.5, 1, 1)
    assert composite_score(0.2, 1.6, 1, 1) < composite_score(0.2, 1.5, 1, 1)
    assert composite_score(0.5, 2.0, 4, 0.5) == pytest.approx(1.0)


def test_a_worse_cycle_scores_worse():
    """Identity, then a way back that is off by 1, 2 and 4 voxels: RMSE rises and MI falls each time."""
    rng = np.random.default_rng(1)
    smooth = sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(rng.random((5, 30, 30)).astype(np.float32)), 1.5)
    inside = np.zeros((5, 30, 30), bool)
    inside[:, 6:24, 6:24] = True
    out = sitk.TranslationTransform(3, (3.0, -2.0, 0.0))
    found = [
        cycle_scores(smooth, smooth, out, sitk.TranslationTransform(3, (-3.0 + off, 2.0, 0.0)), inside)
        for off in (0.0, 1.0, 2.0, 4.0)
    ]
    assert found[0][0] == pytest.approx(0, abs=1e-6)
    rmse, mi = zip(*found, strict=True)
    assert list(rmse) == sorted(rmse)
    assert list(mi) == sorted(mi, reverse=True)
