"""What the long tables share: finished rows kept as small JSON files, so that a run may be interrupted."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nnunet_ext.evaluation.result import MEAN
from nnunet_ext.files import read_json, write_json
from nnunet_ext.progress import duration

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
STRUCTURES = ("RV", "MYO", "LV")
HEAD = "Dice (RV / MYO / LV) | HD95 [mm] | ASSD [mm]"


def fill_table(
    folder: Path,
    rows: Iterable[tuple[str, Callable[[], dict[str, Any]]]],
    settings: Mapping[str, Sequence[str]] | None = None,
) -> list[dict[str, Any]]:
    """Run the rows that are not there yet and return all of them in order.

    Args:
        folder: where each finished row lies as `<name>.json`.
        rows: name and function; the function returns what is kept.
        settings: flags that change what is measured; kept in the row, and a row of others is used but named.
    """
    settings = {flag: list(words) for flag, words in (settings or {}).items()}
    table = []
    for name, measure in rows:
        file = folder / f"{name}.json"
        if not file.exists():
            print(f"== {name}", flush=True)
            start = time.monotonic()
            row = {"name": name, **measure(), "settings_given": settings, "machine": machine()}
            write_json(file, row)
            print(f"== {name}: {duration(time.monotonic() - start)}", flush=True)
        row = read_json(file)
        if row["settings_given"] != settings:
            print(f"== {file}: from a run with {row['settings_given']}; remove it to run the row again", flush=True)
        table.append(row)
    return table


def add_only(parser: argparse.ArgumentParser) -> None:
    """The flag that picks rows."""
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these rows; * stands for any text")


def picked(name: str, only: Sequence[str] | None) -> bool:
    """Whether `--only` names this row, or is not given."""
    return only is None or any(fnmatchcase(name, pattern) for pattern in only)


def figures(row: Mapping[str, Any]) -> str:
    """A row's three cells under `HEAD`: the mean over the structures of a heart, then each structure."""
    cells = []
    for metric, scale, digits in (("dice", 100, 1), ("hd95", 1, 0), ("assd", 1, 1)):
        values = row[metric]
        mean, *each = (f"{scale * values[name]:.{digits}f}" for name in (MEAN, *STRUCTURES))
        cells.append(f"{mean} ({' / '.join(each)})")
    return " | ".join(cells)


def scored(file: Path) -> dict[str, dict[str, float]]:
    """Metric -> structure -> mean, of the one method in what `nnunet_ext evaluate --json` wrote."""
    (method,) = read_json(file)["methods"].values()
    return {
        metric: {structure: of[metric]["mean"] for structure, of in method["summary"].items()}
        for metric in ("dice", "hd95", "assd")
    }


def last_terms(fold: Path) -> dict[str, str]:
    """The last epoch's row of a training's `terms.csv`."""
    names, *_, last = (line.split(",") for line in (fold / "terms.csv").read_text(encoding="utf-8").splitlines())
    return dict(zip(names, last, strict=True))


def set_words(assignments: Sequence[str]) -> list[str]:
    """What hands settings on to a command."""
    return ["--set", *assignments] if assignments else []


def processor_seconds() -> float:
    """Processor time of the commands so far: on a machine that does other work too, the figure to compare."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def machine() -> str:
    """Processor count and versions that a timing depends on."""
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return f"{device}, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
