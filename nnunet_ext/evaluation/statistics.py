"""Summaries with bootstrap intervals, and paired tests between two methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 10_000
DIGITS = 9  # differences equal to this many decimals are ties; beyond it is rounding error

DEFINITIONS: dict[str, str] = {
    "Mean of the structures": "For each case the mean over the structures that have a score in it, then as any "
    "structure.",
    "Interval": f"95 % bootstrap interval of the mean (percentiles of {RESAMPLES:,} seeded resamples of the subjects; "
    "a subject's cases stay together). It needs at least two subjects.",
    "Paired tests": "Two-sided Wilcoxon signed-rank test (zero differences dropped; exact where the sample is small) "
    "and paired t-test, both on one value per subject. p is 1 where all differences are zero and left open where fewer "
    "than two subjects are paired. Where only one method invented a structure, the pair counts the other as right "
    "(Dice 1, distance 0); where neither did, the pair is left out.",
    "p (Holm)": "Wilcoxon's p adjusted by Holm's method for all comparisons of the same metric on this page.",
}


@dataclass(frozen=True)
class Summary:
    """One metric of one structure over the cases where it is defined. Every figure is NaN where n is too small."""

    n: int
    mean: float
    std: float
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedTest:
    """Second method minus first, over subjects. `difference` is the mean with its 95 % interval `low` to `high`."""

    n: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    wilcoxon_p: float
    t_p: float


def summarise(values: Sequence[float], subjects: Sequence[str], seed: int = 0) -> Summary:
    """Mean, standard deviation (n - 1), median and the interval of the mean; NaN values are left out.

    Args:
        values: one per case.
        subjects: whom each case is of; cases of one subject are resampled together.
        seed: of the bootstrap.
    """
    array = np.asarray(values, dtype=np.float64)
    defined = ~np.isnan(array)
    array = array[defined]
    if not array.size:
        return Summary(0, *[math.nan] * 5)
    names = [name for name, keep in zip(subjects, defined, strict=True) if keep]
    low, high = bootstrap_interval(array, names, seed)
    std = float(array.std(ddof=1)) if array.size > 1 else math.nan
    return Summary(array.size, float(array.mean()), std, float(np.median(array)), low, high)


def bootstrap_interval(
    values: NDArray[np.float64], subjects: Sequence[str], seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean over cases under resampling of whole subjects (cluster bootstrap).

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. NaN, NaN below two subjects.
    """
    _, member = np.unique(np.asarray(subjects), return_inverse=True)
    count = np.bincount(member)
    if count.size < 2:
        return math.nan, math.nan
    total = np.bincount(member, weights=values)
    drawn = np.random.default_rng(seed).integers(count.size, size=(RESAMPLES, count.size))
    means = total[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_test(first: Sequence[float], second: Sequence[float], subjects: Sequence[str], seed: int = 0) -> PairedTest:
    """Compare two methods on the same cases; pairs with a NaN are left out, a subject counts once (mean of its pairs).

    Args:
        first: value per case.
        second: value per case, in the same order.
        subjects: whom each case is of.
        seed: of the bootstrap of the mean difference.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    paired = ~(np.isnan(one) | np.isnan(two))
    names = np.asarray(subjects)[paired]
    if not names.size:
        return PairedTest(0, *[math.nan] * 7)
    unique, member = np.unique(names, return_inverse=True)
    count = np.bincount(member)
    one = np.bincount(member, weights=one[paired]) / count
    two = np.bincount(member, weights=two[paired]) / count
    # Without rounding, differences that are equal on paper are ranked as different.
    difference = np.round(two - one, DIGITS)
    low, high = bootstrap_interval(difference, list(unique), seed)
    return PairedTest(
        n=len(unique),
        first=float(one.mean()),
        second=float(two.mean()),
        difference=float(difference.mean()),
        low=low,
        high=high,
        wilcoxon_p=_wilcoxon_p(difference),
        t_p=_t_p(difference),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values (Holm, Scand. J. Stat. 1979); NaN stays NaN and is not counted."""
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted


def _wilcoxon_p(difference: NDArray[np.float64]) -> float:
    if difference.size < 2:
        return math.nan
    moved = difference[difference != 0]
    return float(stats.wilcoxon(moved).pvalue) if moved.size else 1.0


def _t_p(difference: NDArray[np.float64]) -> float:
    if difference.size < 2:
        return math.nan
    if not difference.any():
        return 1.0
    if np.ptp(difference) == 0:  # no spread to measure the mean against
        return math.nan
    return float(stats.ttest_1samp(difference, 0.0).pvalue)
