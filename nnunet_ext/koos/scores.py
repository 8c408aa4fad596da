"""How well grades are predicted: macro-averaged errors and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.errors import InputError

RESAMPLES = 2000

DEFINITIONS: dict[str, str] = {
    "MA-MAE": "Macro-averaged mean absolute error, the challenge's official score: the mean of |predicted - true| over "
    "the cases of one true class, then over the classes. A class that no case truly has is left out of the average; "
    "predicting it still costs its distance.",
    "MA-MSE": "The same with the squared difference (the score of the paper by Han et al. 2022).",
    "Constant guess": "The score of giving every case the one class that scores best: what knowing nothing of the "
    "scans reaches.",
    "Interval": f"95 % bootstrap interval ({RESAMPLES:,} seeded resamples of the subjects, a subject's cases stay "
    "together); a class that a resample does not hold is left out of its average.",
}


@dataclass(frozen=True)
class Scores:
    """True and predicted grades of the same cases, and what follows from them.

    Attributes:
        classes: all that are declared, ascending.
        truth, predicted: (cases,) of classes.
        subjects: whom each case is of.
    """

    classes: tuple[int, ...]
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    subjects: tuple[str, ...]
    seed: int = 0

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """(true class, predicted class) -> cases, for all declared classes."""
        matrix = np.zeros((len(self.classes),) * 2, np.int64)
        places = (np.searchsorted(self.classes, values) for values in (self.truth, self.predicted))
        np.add.at(matrix, tuple(places), 1)
        return matrix

    @property
    def ma_mae(self) -> float:
        return macro_average(self.truth, np.abs(self.predicted - self.truth))

    @property
    def ma_mse(self) -> float:
        return macro_average(self.truth, (self.predicted - self.truth) ** 2)

    @property
    def accuracy(self) -> float:
        return float((self.predicted == self.truth).mean())

    def per_class(self) -> dict[int, tuple[int, float, float]]:
        """Class -> number of cases, mean absolute and mean squared error; NaN where nobody has the class."""
        rows = {}
        for c in self.classes:
            off = (self.predicted - self.truth)[self.truth == c]
            mae, mse = (float(v.mean()) if len(off) else math.nan for v in (np.abs(off), off**2))
            rows[c] = (len(off), mae, mse)
        return rows

    def constant(self) -> tuple[int, float]:
        """The best constant guess and its MA-MAE; of equally good ones the lowest."""
        scores = [(macro_average(self.truth, np.abs(c - self.truth)), c) for c in self.classes]
        error, best = min(scores)
        return best, error

    def interval(self) -> tuple[float, float]:
        """95 % interval of the MA-MAE; NaN, NaN below two subjects."""
        names, member = np.unique(np.asarray(self.subjects), return_inverse=True)
        if len(names) < 2:
            return math.nan, math.nan
        # How often each subject was drawn weighs its cases.
        drawn = np.random.default_rng(self.seed).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
        weight = drawn[:, member].astype(float)
        errors = np.abs(self.predicted - self.truth)
        classes = [self.truth == c for c in self.classes]
        counts = np.stack([weight[:, c].sum(1) for c in classes], 1)
        sums = np.stack([weight[:, c] @ errors[c] for c in classes], 1)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        low, high = np.quantile(np.nanmean(means, 1), [0.025, 0.975])
        return float(low), float(high)

    def as_json(self) -> dict[str, object]:
        """Everything, for a file; NaN as null."""
        best, constant = self.constant()
        low, high = self.interval()
        rows = {
            str(c): {"cases": n, "mae": _plain(mae), "mse": _plain(mse)}
            for c, (n, mae, mse) in self.per_class().items()
        }
        return {
            "cases": len(self.truth),
            "ma_mae": self.ma_mae,
            "ma_mae_interval": [_plain(low), _plain(high)],
            "ma_mse": self.ma_mse,
            "accuracy": self.accuracy,
            "constant_guess": {"class": best, "ma_mae": constant},
            "classes": rows,
            "confusion": {"rows": "true", "columns": "predicted", "counts": self.confusion.tolist()},
        }


def macro_average(truth: NDArray[np.int64], errors: NDArray) -> float:
    """Mean of `errors` over the cases of each class that occurs in `truth`, then over these classes."""
    return float(np.mean([errors[truth == c].mean() for c in np.unique(truth)]))


def score(
    predicted: Mapping[str, int],
    truth: Mapping[str, int],
    classes: Sequence[int],
    *,
    subjects: Mapping[str, str] | None = None,
    where: str = "predictions",
    seed: int = 0,
) -> Scores:
    """Compare predictions with the truth, case by case.

    Args:
        predicted: case -> grade; cases that have no true grade are left out.
        truth: case -> grade.
        classes: all grades there are.
        subjects: case -> subject, for cases that share one.
        where: the predictions' file, for messages.
        seed: of the bootstrap.

    Raises:
        InputError: when a true case has no prediction.
    """
    if missing := [case for case in truth if case not in predicted]:
        raise InputError(f"{where}: no prediction for {missing[0]} ({len(missing)} of {len(truth)} cases lack one)")
    cases = list(truth)
    return Scores(
        tuple(classes),
        np.array([truth[c] for c in cases]),
        np.array([predicted[c] for c in cases]),
        tuple((subjects or {}).get(c, c) for c in cases),
        seed,
    )


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def read_and_score(predictions: Path, truth: Path, classes: Sequence[int]) -> Scores:
    """Score two CSV files; see `score`."""
    from nnunet_ext.koos.grades import read_grades

    return score(read_grades(predictions, classes), read_grades(truth, classes), classes, where=str(predictions))
