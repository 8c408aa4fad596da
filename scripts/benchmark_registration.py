"""Label propagation by registration alone: mean Dice and seconds per pair, as table rows.

    python scripts/benchmark_registration.py DATA --root DIR --score val --transform affine deformable

DATA is a folder as ACDC's (`patientNNN/patientNNN_frameFF.nii.gz`, `..._gt`) or one with `images/` and `labels/`, with
a `split.json` that names cases (or patients) in lists. The cases of the list `--labelled` propagate their labels to
those of `--score`, which enter the dataset as unlabelled: their labels are read for scoring only. `--score train:10-20`
takes a slice of a list, for tuning on cases that are neither labelled nor kept for validation. Can be interrupted: the
next run goes on.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.data.dataset import Case, write_dataset
from nnunet_ext.environment import FOLDERS
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, write_json
from nnunet_ext.progress import progress
from nnunet_ext.registration.command import settings_from
from nnunet_ext.registration.fusion import propagate
from nnunet_ext.registration.run import register_dataset, summary
from nnunet_ext.registration.store import RegistrationStore

SELECTIONS = ("similarity", "agreement", "cycle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--root", type=Path, required=True, help="folder for nnU-Net's datasets and the results")
    parser.add_argument("--labelled", default="labelled_3", help="list of split.json")
    parser.add_argument("--score", default="val", help="list of split.json, or LIST:FROM-TO")
    parser.add_argument("--transform", nargs="+", default=["affine", "deformable"], choices=["affine", "deformable"])
    parser.add_argument("--scheme", default="pairs", choices=["pairs", "template"])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    options.root = options.root.resolve()
    for variable, folder in FOLDERS.items():
        (options.root / folder).mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(options.root / folder)

    cases = read_cases(options.data)
    labelled = chosen(cases, options.data, options.labelled)
    scored = [case for case in chosen(cases, options.data, options.score) if case not in labelled]
    name = dataset(options.data.name, {c: cases[c] for c in sorted({*labelled, *scored})}, scored)
    for transform in options.transform:
        store = RegistrationStore.open(name, settings_from(transform, options.scheme, options.set))
        needed = [store.template()] if options.scheme == "template" else []
        start = time.monotonic()
        pairs = register_dataset(store, jobs=options.jobs, cases=[*needed, *scored])
        minutes = (time.monotonic() - start) / 60
        rows = score(store, {c: cases[c] for c in scored})
        report(options, transform, store, pairs, rows, minutes)


def read_cases(data: Path) -> dict[str, Case]:
    """Every case with its label file, by name; a frame's subject is its patient."""
    if (data / "images").is_dir():
        images = sorted((data / "images").glob("*.nii.gz"))
        return {_stem(i): Case(_stem(i), (i,), data / "labels" / i.name) for i in images}
    labels = sorted(data.glob("patient*/*_gt.nii.gz"))
    found = [(path.name.removesuffix("_gt.nii.gz"), path) for path in labels]
    return {n: Case(n, (p.with_name(f"{n}.nii.gz"),), p, subject=n.split("_")[0]) for n, p in found}


def chosen(cases: dict[str, Case], data: Path, what: str) -> list[str]:
    """The cases of a list of split.json, whose entries name cases or subjects; `LIST:FROM-TO` is a slice of it."""
    name, _, part = what.partition(":")
    split = read_json(data / "split.json")
    if name not in split:
        raise InputError(f"{what}: no such list in {data / 'split.json'}, one of {', '.join(split)} is needed")
    entries = split[name]
    if part:
        first, last = part.split("-")
        entries = entries[int(first) : int(last)]
    return [c for c in cases if c in entries or cases[c].group in entries]


def dataset(title: str, cases: dict[str, Case], unlabelled: list[str]) -> str:
    """Write the raw dataset; the scored cases are unlabelled in it. Its id comes from what is in it."""
    key = sum(ord(letter) * (k + 1) for k, letter in enumerate("".join([*cases, *unlabelled])))
    name = f"Dataset{500 + key % 499:03d}_{title}"
    write_dataset(name, cases.values(), ["MR"], _labels(title), unlabelled=unlabelled, file_ending=".nii.gz")
    return name


def score(store: RegistrationStore, cases: dict[str, Case]) -> list[dict[str, float]]:
    """Per case: mean Dice over the labels for every selection and fusion, and of the best pair in hindsight."""
    rows = []
    for name, case in progress(list(cases.items()), "scoring"):
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(case.label)))
        values = [v for v in np.unique(truth) if v]

        def mean_dice(image: sitk.Image | None, truth: np.ndarray = truth, values: Iterable[int] = values) -> float:
            mask = np.zeros_like(truth) if image is None else sitk.GetArrayFromImage(image)
            return float(np.mean([dice(mask == v, truth == v) for v in values]))

        row = {}
        for selection in SELECTIONS:
            other = RegistrationStore(
                store.root, store.cases, store.settings.model_copy(update={"selection": selection})
            )
            row[f"best by {selection}"] = mean_dice(other.propagated_label(name, fusion="best"))
            row[f"weighted by {selection}"] = mean_dice(other.propagated_label(name, fusion="weighted"))
        for fusion in ("majority", "staple"):
            row[fusion] = mean_dice(store.propagated_label(name, fusion=fusion))
        alone = [mean_dice(_single(store, name, q)) for q in store.cases.labelled if store.score(q, name) is not None]
        row |= {"mean pair": float(np.mean(alone or [0])), "best pair in hindsight": max(alone, default=0.0)}
        rows.append({"case": name, **row})
    return rows


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boolean masks, at least one of which is not empty."""
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def _single(store: RegistrationStore, case: str, labelled: str) -> sitk.Image:
    return propagate(store.cases.labels(labelled), store.cases.image(case), store.transform(labelled, case))


def report(
    options: argparse.Namespace,
    transform: str,
    store: RegistrationStore,
    pairs: list[dict],
    rows: list[dict],
    minutes: float,
) -> None:
    """Print a table and keep it as JSON."""
    names = [key for key in rows[0] if key != "case"]
    means = {key: float(np.mean([row[key] for row in rows])) for key in names}
    spread = {key: float(np.std([row[key] for row in rows])) for key in names}
    total = summary(pairs)
    what = f"{options.data.name}, {options.labelled} -> {options.score}, {transform}, {options.scheme}"
    print(f"\n{what}: {len(rows)} cases, {total['pairs']} pairs, {total['failures']} failed,", end=" ")
    print(f"{total['cpu_seconds_per_pair']} CPU s and {total['seconds_per_pair']} s per pair, {minutes:.1f} min\n")
    print("| labels from | mean Dice % | s.d. over cases |\n|---|---|---|")
    for key in names:
        print(f"| {key} | {100 * means[key]:.1f} | {100 * spread[key]:.1f} |")
    result = {"what": what, "settings": store.settings.model_dump(), "summary": total, "mean": means, "cases": rows}
    part = options.score.replace(":", "-")
    write_json(options.root / f"registration_{options.data.name}_{part}_{transform}_{options.scheme}.json", result)


def _labels(title: str) -> dict[str, int]:
    return {"anterior": 1, "posterior": 2} if title == "Hippocampus" else {"RV": 1, "MYO": 2, "LV": 3}


def _stem(path: Path) -> str:
    return path.name.removesuffix(".nii.gz")


if __name__ == "__main__":
    main()
