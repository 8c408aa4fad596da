"""The grading table of BENCHMARKS.md: MSF-Koos-Net, its ablations and two baselines on synthetic tumours.

    python scripts/benchmark_koos.py --root WORK_FOLDER [--seeds 0 1 2] [--msfnet]

96 persons to learn from and 48 to test on, in two modalities, grades evenly spread. With `--msfnet` the second view is
a translation and the low-level encoder that of the translation, as in the paper; without it the second view is the
person's real second scan and the encoder is random. Finished rows are kept in `benchmarks/koos/`.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tables import BENCHMARKS, fill_table, processor_seconds

from nnunet_ext.data.dataset import Case, write_dataset
from nnunet_ext.data.tumour_phantoms import GRADES, LABELS, write_tumours
from nnunet_ext.koos.grades import read_grades, write_csv
from nnunet_ext.koos.scores import Scores, score
from nnunet_ext.workspace import Workspace

PERSONS = {"train": 96, "test": 48}
PAIRS, SOURCE, TARGET, TRANSLATED = 701, 702, 703, 704
#: variant -> flags; the ablations train as many epochs in all as the full method
VARIANTS: dict[str, list[str]] = {
    "full": [],
    "no-pretraining": ["--no-pretraining", "--set", "head_epochs=60", "head_learning_rate=3e-3"],
    "not-frozen": ["--no-frozen", "--set", "head_learning_rate=1e-3"],
    "gate": ["--set", "join=gate"],
    "3d": ["--set", "mode=3d"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder for everything; continued if it exists")
    parser.add_argument("--msfnet", action="store_true", help="fit MSF-Net first and take its encoder and translations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of every variant")
    parser.add_argument("--rows", type=Path, default=BENCHMARKS / "koos", help="where finished rows are kept")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    space = Workspace(arguments.root)
    for seed, (part, persons) in enumerate(PERSONS.items()):
        target = space.root / f"{part}.csv"
        if not target.exists():
            write_csv(write_tumours(space.root / part, persons, seed=seed), target)
    labels = [word for name, value in LABELS.items() for word in ("--label", f"{name}={value}")]
    dataset, encoder = prepare(space, labels, arguments.msfnet, arguments.device)
    rows: list[tuple[str, Callable[[], dict[str, Any]]]] = [("volume-only", partial(volume_only, space.root))]
    for seed in arguments.seeds:
        for variant in arguments.variants:
            name = f"{'msfnet-' if arguments.msfnet else ''}{variant}-seed{seed}"
            # The command line takes a repeated --set for more of the same.
            flags = [*VARIANTS[variant], "--set", f"seed={seed}", *arguments.set]
            rows.append((name, partial(measure, space, name, dataset, encoder, flags, arguments.device)))
    print("| row | MA-MAE | 95 % | MA-MSE | accuracy | best constant guess | minutes | processor minutes |")
    print("|---|---|---|---|---|---|---|---|")
    for row in fill_table(arguments.rows, rows, {"--set": arguments.set}):
        low, high = row["ma_mae_interval"]
        print(
            f"| {row['name']} | {row['ma_mae']:.3f} | {low:.2f} to {high:.2f} | {row['ma_mse']:.3f} |"
            f" {row['accuracy']:.3f} | {row['constant_guess']['ma_mae']:.3f} | {row['minutes']:.1f} |"
            f" {row['processor_minutes']:.1f} |",
            flush=True,
        )


def prepare(space: Workspace, labels: list[str], msfnet: bool, device: str) -> tuple[int, str]:
    """The dataset to fit on and the encoder to start from."""
    if not msfnet:
        pairs = space.root / "raw" / f"Dataset{PAIRS}_Pairs"
        if not pairs.exists():
            write_pairs(space, pairs.name)
        return PAIRS, "none"
    half = PERSONS["train"] // 2
    # Unpaired, as in the challenge: the target's persons are not the source's.
    for number, modality, persons in (
        (SOURCE, "ceT1", range(half)),
        (TARGET, "hrT2", range(half, PERSONS["train"])),
    ):
        folder = space.root / "domains" / f"unpaired_{modality}"
        link(space.root / "train", folder, modality, persons)
        name = f"Dataset{number}_{modality}"
        space.once(
            modality, "nnunet_ext", "dataset", "folder", folder, "-d", name, *labels, "--channel", modality,
            "--domain", modality,
        )  # fmt: skip
    model = space.root / "msfnet"
    space.once(
        "msfnet", "nnunet_ext", "translate", "fit", "-s", SOURCE, "-t", TARGET, "-m", "msfnet", "-o", model,
        "--preset", "cpu", "--set", "crop=[64,64]", "--device", device,
    )  # fmt: skip
    space.once(
        "translated", "nnunet_ext", "translate", "apply", "-s", SOURCE, "--views", model, "-d", TRANSLATED,
        "--keep-source", "--force", "--device", device,
    )  # fmt: skip
    return TRANSLATED, str(model)


def link(source: Path, target: Path, modality: str, persons: range) -> None:
    """The scans and labels of some persons in a folder that `dataset folder` reads."""
    for part in ("images", "labels"):
        (target / part).mkdir(parents=True, exist_ok=True)
        for i in persons:
            file = target / part / f"{modality}_{i:03d}.nii.gz"
            if not file.exists():
                file.symlink_to(source / part / file.name)


def write_pairs(space: Workspace, name: str) -> None:
    """Both modalities of every person in one dataset."""
    os.environ.update(space.variables)
    train = space.root / "train"
    cases = [
        Case(c, (train / "images" / f"{c}.nii.gz",), train / "labels" / f"{c}.nii.gz", f"person{c[-3:]}", c[:4])
        for c in read_grades(space.root / "train.csv", GRADES)
    ]
    write_dataset(name, cases, ["MRI"], LABELS)


def volume_only(root: Path) -> dict[str, Any]:
    """Logistic regression on the logarithm of the tumour's volume."""
    start, processor = time.monotonic(), time.process_time()
    data = {part: volumes(root, part) for part in PERSONS}
    x, y, _ = data["train"]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
    x, y, cases = data["test"]
    predicted = dict(zip(cases, model.predict(x).tolist(), strict=True))
    scores = score_persons(predicted, dict(zip(cases, y, strict=True)))
    minutes, processor_minutes = (time.monotonic() - start) / 60, (time.process_time() - processor) / 60
    return {**scores.as_json(), "minutes": minutes, "processor_minutes": processor_minutes}


def volumes(root: Path, part: str) -> tuple[np.ndarray, list[int], list[str]]:
    """log mm^3 (cases, 1), grades and names."""
    grades = read_grades(root / f"{part}.csv", GRADES)
    sizes = []
    for case in grades:
        label = sitk.ReadImage(str(root / part / "labels" / f"{case}.nii.gz"))
        voxels = int((sitk.GetArrayViewFromImage(label) == LABELS["VS"]).sum())
        sizes.append([np.log(voxels * np.prod(label.GetSpacing()))])
    return np.array(sizes), list(grades.values()), list(grades)


def measure(space: Workspace, name: str, dataset: int, encoder: str, flags: list[str], device: str) -> dict[str, Any]:
    """Fit one variant and score it on the test persons."""
    model, grades = space.root / "models" / name, space.root / f"{name}.csv"
    names = {p.name.removesuffix("_0000.nii.gz") for p in (space.root / "raw").glob(f"Dataset{dataset}_*/imagesTr/*")}
    known = {c: g for c, g in read_grades(space.root / "train.csv", GRADES).items() if c in names}
    write_csv(known, grades)
    start, processor = time.monotonic(), processor_seconds()
    space.run(
        "nnunet_ext", "koos", "fit", "-d", dataset, "-g", grades, "-o", model, "--encoder", encoder, "--tumour", "VS",
        "--preset", "cpu", "--device", device, *flags,
    )  # fmt: skip
    # On a machine that does other work too, the processor's time is the figure to compare.
    minutes, processor_minutes = (time.monotonic() - start) / 60, (processor_seconds() - processor) / 60
    test, predictions = space.root / "test", model / "test.csv"
    space.run(
        "nnunet_ext", "koos", "predict", "-i", test / "images", "--masks", test / "labels", "-m", model, "-o",
        predictions, "--device", device,
    )  # fmt: skip
    scores = score_persons(read_grades(predictions, GRADES), read_grades(space.root / "test.csv", GRADES))
    return {**scores.as_json(), "flags": flags, "minutes": minutes, "processor_minutes": processor_minutes}


def score_persons(predicted: dict[str, int], truth: dict[str, int]) -> Scores:
    """Scores whose interval resamples persons: both scans of one are `<modality>_<person>`."""
    return score(predicted, truth, GRADES, subjects={case: case.split("_")[1] for case in truth})


if __name__ == "__main__":
    main()
