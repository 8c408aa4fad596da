"""What one update of each few-label or adaptation method costs, as a multiple of another's.

    python scripts/benchmark_steps.py -d 28 -c 2d
    python scripts/benchmark_steps.py -d 31 -c 2d --methods Baseline CBAL AccSeg --reference Baseline

The dataset must be planned, preprocessed and configured (`nnunet_ext configure --preset cpu` for the CPU figures), and
registered if CCT-R is to be among the methods. Updates of all methods take turns, so that whatever else the machine
does hits all of them alike; medians are compared. Loading of batches is not part of an update.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from typing import Any

import torch

METHODS = ("Baseline", "MeanTeacher", "UAMT", "CPS", "CTS", "MCSC", "MCSCv2", "CCTR")
ADAPTING = ("CBAL", "AccSeg")  # need a dataset of two domains


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="id or name of the dataset")
    parser.add_argument("-c", default="2d", help="configuration")
    parser.add_argument("-f", default="0", help="fold")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15, help="updates of each method that are measured")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS + ADAPTING)
    parser.add_argument("--reference", default="CTS", choices=METHODS + ADAPTING, help="if absent, the first method")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as results:
        os.environ |= {"nnUNet_results": results, "nnUNet_n_proc_DA": "0", "nnUNet_compile": "false"}
        seconds = measure(arguments)
    name = arguments.reference if arguments.reference in seconds else next(iter(seconds))
    reference = statistics.median(seconds[name])
    print(f"| method | ms | of {name} |\n|---|---|---|")
    for method, times in seconds.items():
        middle = statistics.median(times)
        print(f"| {method} | {1000 * middle:.0f} | {middle / reference:.2f} |")


def measure(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each measured update of each method."""
    device = torch.device(arguments.device)
    runs = [(method, *prepare(method, arguments, device)) for method in arguments.methods]
    seconds: dict[str, list[float]] = {method: [] for method, _, _ in runs}
    for number in range(arguments.rounds + 2):
        if number == 1:
            for _, trainer, _ in runs:
                fill_banks(trainer)
        for method, trainer, batches in runs:
            synchronise(device)
            start = time.perf_counter()
            trainer.train_step(dict(batches[number % len(batches)]))
            synchronise(device)
            if number >= 2:  # the first updates fill caches
                seconds[method].append(time.perf_counter() - start)
    return seconds


def prepare(method: str, arguments: argparse.Namespace, device: torch.device) -> tuple[Any, list[dict[str, Any]]]:
    """A trainer ready for its first update, and a few batches."""
    from nnunetv2.run.run_training import get_trainer_from_args

    fold = arguments.f if arguments.f == "all" else int(arguments.f)
    trainer: Any = get_trainer_from_args(
        arguments.d, arguments.c, fold, f"nnUNetTrainer{method}", "nnUNetPlans", False, device
    )
    trainer.initialize()
    training, validation = trainer.get_dataloaders()
    batches = [next(training) for _ in range(4)]
    training.close()
    validation.close()
    trainer.network.train()
    return trainer, batches


def fill_banks(trainer: Any) -> None:
    """Full, as they are but for the first updates of a training: a fuller bank takes longer to search."""
    banks = getattr(getattr(trainer, "contrast", None), "banks", [])
    for bank in (one for entry in banks for one in (entry if isinstance(entry, list) else [entry])):
        while 0 < bank.fill < 1:
            bank.push(**{name: rows.clone() for name, rows in bank.rows().items()})


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
