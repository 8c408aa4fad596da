"""What an evaluation measured, and the figures that are derived from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ext.evaluation.masks import Labels
from nnunet_ext.evaluation.metrics import BEST, METRICS, ClassMetrics
from nnunet_ext.evaluation.statistics import PairedTest, Summary, holm, paired_test, summarise

MEAN = "mean of the structures"


@dataclass(frozen=True)
class Comparison:
    """One row of the paired tests: `second` against `first` on one structure (or `MEAN`) by one metric."""

    first: str
    second: str
    structure: str
    metric: str
    test: PairedTest
    wilcoxon_p_holm: float


@dataclass
class Evaluation:
    """Everything that was measured.

    `scores[method][case][structure]`; methods and structures keep the order they were given in, cases are sorted.
    `subjects[case]` is whom a case is of. `notes` say what a reader must know of the run (cases left out and why).
    """

    truth: Path
    folders: dict[str, Path]
    labels: Labels
    scores: dict[str, dict[str, dict[str, ClassMetrics]]]
    subjects: dict[str, str]
    notes: list[str] = field(default_factory=list)
    seed: int = 0

    @property
    def methods(self) -> list[str]:
        return list(self.folders)

    @property
    def cases(self) -> list[str]:
        return list(self.subjects)

    @property
    def structures(self) -> list[str]:
        return list(self.labels.classes)

    @property
    def rows(self) -> list[str]:
        """What tables have a row for: the structures, and their mean where there are several."""
        return self.structures + ([MEAN] if len(self.structures) > 1 else [])

    def values(self, method: str, structure: str, metric: str) -> list[float]:
        """One value per case, NaN where it is not defined; `structure` may be `MEAN`."""
        if structure == MEAN:
            return [_mean([getattr(s, metric) for s in case.values()]) for case in self.scores[method].values()]
        return [getattr(case[structure], metric) for case in self.scores[method].values()]

    def outcomes(self, method: str, structure: str) -> dict[str, int]:
        """How often a structure (or all of them, `MEAN`) was found, missed, invented and absent."""
        wanted = self.structures if structure == MEAN else [structure]
        counts = dict.fromkeys(("found", "missed", "invented", "absent"), 0)
        for case in self.scores[method].values():
            for name in wanted:
                counts[case[name].outcome] += 1
        return counts

    def summary(self, method: str, structure: str, metric: str) -> Summary:
        """One metric of one structure (or `MEAN`) over the cases."""
        return summarise(self.values(method, structure, metric), list(self.subjects.values()), self.seed)

    def summary_where_found(self, method: str, structure: str, metric: str) -> Summary:
        """The same without the missed and the invented, to see what the penalty does to a mean."""
        values = [
            getattr(case[structure], metric) if case[structure].outcome == "found" else math.nan
            for case in self.scores[method].values()
        ]
        return summarise(values, list(self.subjects.values()), self.seed)

    def comparisons(self) -> list[Comparison]:
        """Every further method against the first, per metric and structure, p adjusted within the metric."""
        first, *others = self.methods
        rows: list[Comparison] = []
        for metric in METRICS:
            keys = [(other, structure) for structure in self.rows for other in others]
            tests = [self._paired(first, other, structure, metric) for other, structure in keys]
            adjusted = holm([test.wilcoxon_p for test in tests])
            for (other, structure), test, p in zip(keys, tests, adjusted, strict=True):
                rows.append(Comparison(first, other, structure, metric, test, p))
        return rows

    def _paired(self, first: str, second: str, structure: str, metric: str) -> PairedTest:
        one, two = self._pair_values(first, second, structure, metric)
        return paired_test(one, two, list(self.subjects.values()), self.seed)

    def _pair_values(self, first: str, second: str, structure: str, metric: str) -> tuple[list[float], list[float]]:
        """Both methods' values where at least one has a score: who rightly left a structure out is right."""
        if structure == MEAN:
            each = [self._pair_values(first, second, name, metric) for name in self.structures]
            return [_mean(v) for v in zip(*(a for a, _ in each), strict=True)], [
                _mean(v) for v in zip(*(b for _, b in each), strict=True)
            ]
        one, two = self.values(first, structure, metric), self.values(second, structure, metric)
        best = BEST[metric]
        return (
            [best if math.isnan(a) and not math.isnan(b) else a for a, b in zip(one, two, strict=True)],
            [best if math.isnan(b) and not math.isnan(a) else b for a, b in zip(one, two, strict=True)],
        )


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan
