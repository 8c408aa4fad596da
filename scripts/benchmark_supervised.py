"""The supervised table of BENCHMARKS.md: nnU-Net's own trainer, Swin-Unet and CS-Unet on ACDC at the CPU preset.

    python scripts/benchmark_supervised.py ACDC_FOLDER --root WORK_FOLDER

All training patients of `split.json` are labelled; `val` is only scored. Rows that are finished are kept in
`benchmarks/supervised/` and are not run again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tables import BENCHMARKS, fill_table, processor_seconds, scored

from nnunet_ext.evaluation.result import MEAN
from nnunet_ext.workspace import Workspace

DATASET = "Dataset027_ACDC"
TRAINERS = ("nnUNetTrainerBaseline", "nnUNetTrainerSwinUNet", "nnUNetTrainerCSUNet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("acdc", type=Path, help="folder with patientNNN folders and split.json")
    parser.add_argument("--root", type=Path, required=True, help="folder for nnU-Net's data; continued if it exists")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    space = Workspace(arguments.root)
    split = arguments.acdc / "split.json"
    space.once("dataset", "nnunet_ext", "dataset", "acdc", arguments.acdc, "-d", 27, "--split", split)
    space.once("plan", "nnUNetv2_plan_and_preprocess", "-d", 27, "-c", "2d", "-np", 2, "-npfp", 2)
    space.once("configure", "nnunet_ext", "configure", "-d", 27, "-c", "2d", "--preset", "cpu")
    rows: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        (trainer, partial(measure, space, trainer, arguments.device)) for trainer in TRAINERS
    ]
    print("| trainer | Dice | RV | MYO | LV | HD95 [mm] | ASSD [mm] | minutes | processor minutes |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in fill_table(BENCHMARKS / "supervised", rows):
        dice = [f"{100 * row['dice'][name]:.1f}" for name in (MEAN, "RV", "MYO", "LV")]
        distances = [f"{row['hd95'][MEAN]:.1f}", f"{row['assd'][MEAN]:.2f}"]
        times = [f"{row[name]:.0f}" for name in ("minutes", "processor_minutes")]
        print(f"| {' | '.join([row['name'], *dice, *distances, *times])} |")


def measure(space: Workspace, trainer: str, device: str) -> dict[str, Any]:
    """Train one trainer on fold 0 and score its validation predictions."""
    fold = space.root / "results" / DATASET / f"{trainer}__nnUNetPlans__2d" / "fold_0"
    resumed = any(fold.glob("checkpoint_*.pth"))
    start, processor = time.monotonic(), processor_seconds()
    space.run("nnUNetv2_train", 27, "2d", 0, "-tr", trainer, "-device", device, *(["--c"] if resumed else []))
    minutes, processor_minutes = (time.monotonic() - start) / 60, (processor_seconds() - processor) / 60
    truth, scores = space.root / "raw" / DATASET / "labelsTr", space.root / f"{trainer}.json"
    report = scores.with_suffix(".html")
    space.run(
        "nnunet_ext", "evaluate", fold / "validation", truth, "--partial", "--subject-pattern", "patient[0-9]+",
        "--json", scores, "--report", report,
    )  # fmt: skip
    return {**scored(scores), "seed": 0, "minutes": minutes, "processor_minutes": processor_minutes, "resumed": resumed}


if __name__ == "__main__":
    main()
