#!/usr/bin/env python3
"""`nnunet_ext predict` beside `nnUNetv2_predict` on the same scans: wall time, CPU time, peak memory, agreement.

    scripts/benchmark_inference.py MODEL --scans FOLDER --glob '*/*_frame??.nii.gz' --count 40

MODEL is a trained model folder. Both run with one preprocessing and one export worker at most, the same mirroring and
step size, on the same cores. The peak is the largest sum over the program and its workers of memory that is not shared
(PSS). With --labels, --fast is measured too: its Dice beside the full profile's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import SimpleITK as sitk

from nnunet_ext.paths import trainer_folder

SECONDS_BETWEEN_SAMPLES = 0.2


@dataclass
class Measured:
    """One run."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def measure(command: list[str], log: Path, cores: list[int]) -> Measured:
    """Run a command on some cores, sampling the memory of its process tree."""
    env = {**os.environ, "OMP_NUM_THREADS": str(len(cores)), "nnUNet_extTrainer": str(trainer_folder())}
    peak, stop = 0, threading.Event()

    def sample(root: psutil.Process) -> None:
        nonlocal peak
        while not stop.wait(SECONDS_BETWEEN_SAMPLES):
            total = 0
            try:
                for process in [root, *root.children(recursive=True)]:
                    total += process.memory_full_info().pss
            except psutil.Error:
                continue
            peak = max(peak, total)

    before = os.times()
    start = time.perf_counter()
    with log.open("w") as stream:
        running = subprocess.Popen(
            command, env=env, stdout=stream, stderr=stream, preexec_fn=lambda: os.sched_setaffinity(0, cores)
        )
        sampler = threading.Thread(target=sample, args=(psutil.Process(running.pid),))
        sampler.start()
        code = running.wait()
        wall = time.perf_counter() - start
        stop.set()
        sampler.join()
    if code:
        sys.exit(f"{command[0]} failed ({code}):\n{log.read_text()[-2000:]}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Measured(wall, cpu, peak / 1e6)


def agreement(a: Path, b: Path) -> tuple[float, float]:
    """Part of voxels with equal labels over all cases, and that of the worst case."""
    equal = voxels = 0
    worst = 1.0
    for file in sorted(a.glob("*.nii.gz")):
        x, y = (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / file.name))) for folder in (a, b))
        same = int((x == y).sum())
        equal, voxels, worst = equal + same, voxels + x.size, min(worst, same / x.size)
    return equal / voxels, worst


def mean_dice(predictions: Path, labels: dict[str, Path]) -> float:
    """Mean Dice over cases and the classes that the truth shows."""
    scores = []
    for file in sorted(predictions.glob("*.nii.gz")):
        x, y = (sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (file, labels[file.name]))
        scores += [2 * ((x == c) & (y == c)).sum() / ((x == c).sum() + (y == c).sum()) for c in np.unique(y[y > 0])]
    return float(np.mean(scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--scans", type=Path, required=True)
    parser.add_argument("--glob", default="*.nii.gz", help="which files under --scans; each is a case of one channel")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--fold", default="0")
    parser.add_argument("--checkpoint", default="checkpoint_final.pth")
    parser.add_argument("--labels", action="store_true", help="NAME_gt.nii.gz beside each scan: measure --fast as well")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    args = parser.parse_args()

    scans = [p for p in sorted(args.scans.glob(args.glob)) if not p.name.endswith("_gt.nii.gz")][: args.count]
    if not scans:
        sys.exit(f"--scans {args.scans}: no file matches {args.glob}")
    cores = sorted(os.sched_getaffinity(0))[: args.cores]
    binary = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "in").mkdir()
        names = {p: p.name.removesuffix(".nii.gz") for p in scans}
        for path, name in names.items():
            (root / "in" / f"{name}_0000.nii.gz").symlink_to(path.resolve())
        common = ["-i", str(root / "in"), "-m", str(args.model), "-f", args.fold]
        ours = [str(binary / "nnunet_ext"), "predict", *common, "--checkpoint", args.checkpoint, "--device", "cpu"]
        theirs = [str(binary / "nnUNetv2_predict_from_modelfolder"), *common, "-chk", args.checkpoint]
        theirs += ["-device", "cpu", "-npp", "1", "-nps", "1", "--disable_progress_bar"]
        runs = {
            "nnunet_ext": [*ours, "-o", str(root / "ours")],
            "nnUNetv2_predict": [*theirs, "-o", str(root / "theirs")],
        }
        if args.labels:
            runs["nnunet_ext --fast"] = [*ours, "--fast", "-o", str(root / "fast")]
        figures: dict[str, object] = {"scans": len(scans), "cores": len(cores)}
        print(f"{len(scans)} scans, {len(cores)} cores\n\n| program | wall s | CPU s | peak MB |\n|---|---|---|---|")
        for name, command in runs.items():
            found = measure(command, root / "log", cores)
            figures[name] = asdict(found)
            print(f"| {name} | {found.wall_s:.1f} | {found.cpu_s:.1f} | {found.peak_mb:.0f} |", flush=True)
        figures["agreement"], figures["agreement_worst_case"] = agreement(root / "ours", root / "theirs")
        print(f"\nequal labels: {figures['agreement']:.6%}, worst case {figures['agreement_worst_case']:.6%}")
        if args.labels:
            truth = {f"{name}.nii.gz": path.with_name(f"{name}_gt.nii.gz") for path, name in names.items()}
            for key, folder in (("dice", "ours"), ("dice_fast", "fast")):
                figures[key] = mean_dice(root / folder, truth)
            print(f"mean Dice: {figures['dice']:.4f}, --fast {figures['dice_fast']:.4f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
