"""The few-label table of BENCHMARKS.md: every method on Hippocampus and ACDC with a few labelled cases, CPU preset.

    python scripts/benchmark_fewlabel.py DATA_FOLDER --root WORK_FOLDER

DATA_FOLDER holds `Hippocampus/` and `ACDC/`, each with its `split.json` whose `labelled_N` name the labelled cases.
The other training cases are unlabelled, `val` is only scored, and all methods do the same number of updates.
Interrupted, it goes on where it was when started again: a training continues from its checkpoint, and rows that are
finished are kept in `benchmarks/fewlabel/`. `--only 'ACDC3-*' '*-CCTR-0'` runs the rows of these names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tables import BENCHMARKS, add_only, fill_table, last_terms, picked, processor_seconds, scored, set_words

from nnunet_ext.evaluation.result import MEAN
from nnunet_ext.files import read_json, write_json
from nnunet_ext.registration.settings import RegistrationSettings
from nnunet_ext.workspace import Workspace

METHODS = ("Baseline", "MeanTeacher", "UAMT", "CPS", "CTS", "MCSC", "MCSCv2", "CCTR")
FULL = "all labelled"
# The settings in which a variant differs from the method before the hyphen.
VARIANTS: dict[str, dict[str, Any]] = {
    # The labelled half of the batches with AdamW: what every method but Baseline adds something to.
    "MeanTeacher-alone": {"weight": 0, "inference": "student"},
    # CCT-R predicts with the mean of both students, the other pairs with the first.
    "CTS-mean": {"inference": "mean"},
    "MCSC-mean": {"inference": "mean"},
    "CCTR-first": {"inference": "first"},
    # Table 6.4 of the thesis.
    "CCTR-noRSL": {"rsl_weight": 0},
    "CCTR-noBRS": {"choice": "random"},
    "CCTR-noREPS": {"reps": False},
    "CCTR-noSCL": {"contrast_weight": 0},
}


@dataclass(frozen=True)
class Task:
    """One dataset with some of its training cases labelled."""

    source: str
    key: str | None
    number: int
    seeds: int
    arguments: tuple[str, ...]
    subjects: str | None = None
    scheme: str = "pairs"
    variants: tuple[str, ...] = ("MeanTeacher-alone",)

    @property
    def methods(self) -> tuple[str, ...]:
        return ("Baseline",) if self.key is None else METHODS + self.variants

    @property
    def name(self) -> str:
        return self.source + ("" if self.key is None else self.key.rpartition("_")[2])

    @property
    def dataset(self) -> str:
        return f"Dataset{self.number:03d}_{self.name}"


HIPPOCAMPUS = ("folder", "--label", "anterior=1", "--label", "posterior=2", "--channel", "T1")
TASKS = (
    # 7 labelled of 180 are 1,211 pairs, but 185 registrations through a template.
    Task("Hippocampus", "labelled_1", 41, 3, HIPPOCAMPUS, scheme="template"),
    Task("Hippocampus", "labelled_3", 43, 3, HIPPOCAMPUS, scheme="template", variants=tuple(VARIANTS)),
    Task("Hippocampus", "labelled_7", 47, 3, HIPPOCAMPUS, scheme="template"),
    Task(
        "ACDC",
        "labelled_3",
        53,
        1,
        ("acdc",),
        "patient[0-9]+",
        variants=("MeanTeacher-alone", "CTS-mean", "CCTR-first"),
    ),
    Task("Hippocampus", None, 40, 3, HIPPOCAMPUS),
    Task("ACDC", None, 50, 1, ("acdc",), "patient[0-9]+"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with Hippocampus and ACDC")
    parser.add_argument("--root", type=Path, required=True, help="folder for nnU-Net's data; continued if it exists")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=2, help="processes for registration")
    add_only(parser)
    parser.add_argument("--set", nargs="*", default=[], help="settings on top of the CPU preset, section.key=value")
    arguments = parser.parse_args()
    space = Workspace(arguments.root)
    rows = [
        (name, partial(measure, space, arguments, task, method, seed))
        for name, task, method, seed in planned()
        if picked(name, arguments.only)
    ]
    show(fill_table(BENCHMARKS / "fewlabel", rows, {"--set": arguments.set}))


def planned() -> Iterator[tuple[str, Task, str, int]]:
    """Name, task, method and seed of every row, seed by seed so that a first table is there early."""
    for seed in range(max(task.seeds for task in TASKS)):
        for task in TASKS:
            if seed < task.seeds:
                for method in task.methods:
                    yield f"{task.name}-{method}-{seed}", task, method, seed


def measure(space: Workspace, arguments: argparse.Namespace, task: Task, method: str, seed: int) -> dict[str, Any]:
    """Train one method or variant with one seed and score its predictions of the validation cases."""
    prepare(space, arguments, task)
    plans, registrations = own_plans(space, task, method, seed)
    registration = 0.0
    name = method.partition("-")[0]
    if name == "CCTR":
        start = time.monotonic()
        space.run("nnunet_ext", "register", "-d", task.number, "-f", 0, "--jobs", arguments.jobs,
                  *shlex.split(registrations.flags()))  # fmt: skip
        registration = (time.monotonic() - start) / 60
    trainer = f"nnUNetTrainer{name}"
    fold = space.root / "results" / task.dataset / f"{trainer}__{plans}__2d" / "fold_0"
    resumed = any(fold.glob("checkpoint_*.pth"))
    start, processor = time.monotonic(), processor_seconds()
    space.run(
        "nnUNetv2_train", task.number, "2d", 0, "-tr", trainer, "-p", plans, "-device", arguments.device,
        *(["--c"] if resumed else []),
    )  # fmt: skip
    minutes, processor_minutes = (time.monotonic() - start) / 60, (processor_seconds() - processor) / 60
    scores = space.root / f"{task.name}-{method}-{seed}.json"
    subjects = ("--subject-pattern", task.subjects) if task.subjects else ()
    truth = space.root / "raw" / task.dataset / "labelsTr"
    space.run("nnunet_ext", "evaluate", fold / "validation", truth, "--partial", *subjects, "--json", scores)
    return {
        **scored(scores),
        "task": task.name,
        "method": method if task.key is not None else FULL,
        "seed": seed,
        "minutes": minutes,
        "processor_minutes": processor_minutes,
        "registration_minutes": registration,
        "resumed": resumed,
        "terms": last_terms(fold),
    }


def prepare(space: Workspace, arguments: argparse.Namespace, task: Task) -> None:
    """Write, plan, preprocess and configure a task's dataset once."""
    kind, *labels = task.arguments
    source, split = arguments.data / task.source, arguments.data / task.source / "split.json"
    labelled = () if task.key is None else ("--labelled", f"{split}:{task.key}")
    dataset = ("nnunet_ext", "dataset", kind, source, "-d", task.dataset, *labels, *labelled, "--split", split)
    space.once(f"{task.name}-dataset", *dataset)
    space.once(f"{task.name}-plan", "nnUNetv2_plan_and_preprocess", "-d", task.number, "-c", "2d", "-np", 2, "-npfp", 2)
    space.once(
        f"{task.name}-configure", "nnunet_ext", "configure", "-d", task.number, "-c", "2d", "--preset", "cpu",
        *set_words(arguments.set),
    )  # fmt: skip


def own_plans(space: Workspace, task: Task, method: str, seed: int) -> tuple[str, RegistrationSettings]:
    """A row's plans, under a name of their own, and the registrations that CCT-R needs with them.

    The name stands for the settings, so that all rows' results stay side by side and a training is only continued with
    the settings that it began with.
    """
    folder = space.root / "preprocessed" / task.dataset
    plans = read_json(folder / "nnUNetPlans.json")
    settings = plans["configurations"]["2d"]["nnunet_ext"]
    settings["schedule"]["seed"] = seed
    settings.setdefault(method.partition("-")[0], {}).update(VARIANTS.get(method, {}))
    registration = settings["CCTR"].setdefault("registration", {})
    registration["scheme"] = task.scheme
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    name = plans["plans_name"] = f"nnUNetPlansSeed{seed}x{digest}"
    write_json(folder / f"{name}.json", plans)
    return name, RegistrationSettings(**registration)


def show(rows: list[dict[str, Any]]) -> None:
    """Mean and spread over seeds, a line for each task and method."""
    print("| data | method | Dice | HD95 [mm] | minutes | seeds |\n|---|---|---|---|---|---|")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["method"]), []).append(row)
    for (task, method), group in groups.items():
        dice = spread([100 * row["dice"][MEAN] for row in group])
        hd95 = spread([row["hd95"][MEAN] for row in group])
        minutes = statistics.mean(row["minutes"] for row in group)
        print(f"| {task} | {method} | {dice} | {hd95} | {minutes:.0f} | {len(group)} |")


def spread(values: list[float]) -> str:
    """`68.1 ± 0.7`: mean and standard deviation."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    main()
