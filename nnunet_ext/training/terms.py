"""The terms of a training's loss over the epochs: a table and a plot."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure

from nnunet_ext.files import atomic_path


class Terms:
    """Means per epoch of whatever a training reports, kept in `terms.csv` and drawn in `terms.png`.

    Args:
        folder: where the two files go; None keeps everything in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, tuple[torch.Tensor | float, int]] = {}

    def add(self, **values: float | torch.Tensor) -> None:
        """Report the terms of one step. Tensors of one element are read at the end of the epoch only."""
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + (value.detach() if isinstance(value, torch.Tensor) else float(value)), count + 1

    def means(self) -> dict[str, float]:
        """Means of what was reported since the last call."""
        means = {name: float(total) / count for name, (total, count) in self._sums.items()}
        self._sums.clear()
        return means

    def close_epoch(self, epoch: int, means: dict[str, float]) -> None:
        """Append the epoch's row and rewrite both files."""
        self.rows.append({"epoch": epoch, **means})
        if self.folder is not None:
            self._write_table(self.folder / "terms.csv")
            self._draw(self.folder / "terms.png")

    def resume(self, epoch: int) -> None:
        """Take over the rows before `epoch` from the folder; what came after is trained again."""
        self.rows = []
        table = self.folder / "terms.csv" if self.folder is not None else None
        if table is None or not table.is_file():
            return
        with table.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                if int(row["epoch"]) < epoch:
                    self.rows.append({k: int(v) if k == "epoch" else float(v) for k, v in row.items() if v != ""})

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row if name != "epoch"))

    def _write_table(self, target: Path) -> None:
        with atomic_path(target) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, ["epoch", *self._names()], restval="")
            writer.writeheader()
            writer.writerows(self.rows)

    def _draw(self, target: Path) -> None:
        names = self._names()
        columns = min(3, len(names)) or 1
        lines = math.ceil(len(names) / columns) or 1
        figure = Figure(figsize=(4 * columns, 2.5 * lines), layout="constrained")
        for axes, name in zip(figure.subplots(lines, columns, squeeze=False).flat, names, strict=False):
            epochs = [row["epoch"] for row in self.rows if name in row]
            axes.plot(epochs, [row[name] for row in self.rows if name in row], marker="." if len(epochs) < 3 else "")
            axes.set_title(name, fontsize="small")
            axes.tick_params(labelsize="x-small")
        with atomic_path(target) as partial:
            figure.savefig(partial, dpi=80)
