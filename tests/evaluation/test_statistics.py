"""Summaries, intervals and paired tests against values worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from nnunet_ext.evaluation.statistics import bootstrap_interval, holm, paired_test, summarise


def names(n: int) -> list[str]:
    return [f"s{i}" for i in range(n)]


def test_summary_by_hand_leaves_out_what_is_not_defined() -> None:
    s = summarise([1.0, math.nan, 2.0, 6.0], names(4))
    assert (s.n, s.mean, s.median) == (3, 3.0, 2.0)
    assert s.std == pytest.approx(math.sqrt((4 + 1 + 9) / 2))


def test_small_samples_have_no_spread() -> None:
    nothing, one = summarise([math.nan], ["a"]), summarise([0.5], ["a"])
    assert nothing.n == 0
    assert math.isnan(nothing.mean)
    assert (one.n, one.mean) == (1, 0.5)
    assert math.isnan(one.std)
    assert math.isnan(one.low)


def test_interval_of_two_subjects_is_exact() -> None:
    """Two subjects, values 0 and 1: the resampled mean is 0, 0.5 or 1 with a quarter, a half and a quarter."""
    assert bootstrap_interval(np.array([0.0, 1.0]), ["a", "b"]) == (0.0, 1.0)
    assert bootstrap_interval(np.array([0.0, 1.0]), ["a", "b"], level=0.3) == (0.5, 0.5)


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(150):
        low, high = bootstrap_interval(rng.normal(2.0, 1.0, 40), names(40))
        covered += low <= 2.0 <= high
    assert 0.87 <= covered / 150 <= 0.99


def test_cases_of_a_subject_are_resampled_together() -> None:
    """Copies of a case add no information: the interval must not shrink as it would if they were independent."""
    values = np.random.default_rng(0).normal(size=12)
    alone = bootstrap_interval(values, names(12))
    copied = bootstrap_interval(np.repeat(values, 4), np.repeat(names(12), 4).tolist())
    assert copied == pytest.approx(alone)
    independent = bootstrap_interval(np.repeat(values, 4), names(48))
    assert independent[1] - independent[0] < 0.7 * (copied[1] - copied[0])


def test_seed_decides() -> None:
    values = np.random.default_rng(0).normal(size=9)
    assert bootstrap_interval(values, names(9), seed=1) == bootstrap_interval(values, names(9), seed=1)
    assert bootstrap_interval(values, names(9), seed=1) != bootstrap_interval(values, names(9), seed=2)


def test_wilcoxon_by_counting_all_signs() -> None:
    """Exact two-sided p from the distribution of the rank sum over all sign patterns."""
    difference = [0.3, -0.1, 0.2, 0.5, 0.4, 0.6, -0.05]
    ranks = np.argsort(np.argsort(np.abs(difference))) + 1
    seen = ranks[np.array(difference) > 0].sum()
    sums = [sum(r for r, s in zip(ranks, signs, strict=True) if s) for signs in itertools.product((0, 1), repeat=7)]
    upper = sum(s >= seen for s in sums) / len(sums)
    result = paired_test([0.0] * 7, difference, names(7))
    assert result.wilcoxon_p == pytest.approx(min(1, 2 * upper))


def test_t_test_by_hand() -> None:
    """Differences 1, 2, 3: t = 2 / (1 / sqrt 3) with 2 degrees of freedom, whose tail has a closed form."""
    result = paired_test([0.0, 0.0, 0.0], [1.0, 2.0, 3.0], names(3))
    t = 2 * math.sqrt(3)
    assert result.t_p == pytest.approx(1 - t / math.sqrt(t * t + 2))
    assert (result.n, result.first, result.second, result.difference) == (3, 0.0, 2.0, 2.0)


def test_no_difference_at_all() -> None:
    result = paired_test([0.1, 0.7, 0.9], [0.1, 0.7, 0.9], names(3))
    assert (result.wilcoxon_p, result.t_p, result.difference) == (1.0, 1.0, 0.0)


def test_rounding_error_is_no_difference() -> None:
    result = paired_test([0.1 + 0.2, 0.5], [0.3, 0.5], names(2))
    assert (result.wilcoxon_p, result.t_p) == (1.0, 1.0)


def test_some_zero_differences_are_dropped_by_wilcoxon() -> None:
    """Four positive differences are left: p = 2 / 2^4."""
    assert paired_test([0.0] * 6, [0, 0, 1, 2, 3, 4], names(6)).wilcoxon_p == pytest.approx(2 / 16)


def test_equal_differences_leave_the_t_test_open() -> None:
    result = paired_test([0.0] * 5, [0.1] * 5, names(5))
    assert math.isnan(result.t_p)
    assert result.wilcoxon_p == pytest.approx(2 / 32)


def test_one_pair_is_not_a_test() -> None:
    result = paired_test([0.1, math.nan], [0.4, 0.2], names(2))
    assert result.n == 1
    assert math.isnan(result.wilcoxon_p)
    assert math.isnan(result.t_p)
    assert paired_test([math.nan], [0.0], ["a"]).n == 0


def test_a_subject_counts_once() -> None:
    frames = paired_test([0, 0, 0, 0, 0, 0], [1, 3, 1, 1, 4, 2], ["a", "a", "b", "b", "c", "c"])
    subjects = paired_test([0, 0, 0], [2, 1, 3], ["a", "b", "c"])
    assert frames == subjects


def test_holm_by_hand() -> None:
    """0.01 x 3, 0.02 x 2, and 0.03 x 1 lifted to the one before it; an open p is not counted."""
    assert holm([0.03, 0.01, math.nan, 0.02])[:2] == pytest.approx([0.04, 0.03])
    assert holm([0.03, 0.01, math.nan, 0.02])[3] == pytest.approx(0.04)
    assert math.isnan(holm([0.03, 0.01, math.nan, 0.02])[2])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
