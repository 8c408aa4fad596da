"""The cross-modality table of BENCHMARKS.md: labelled cine (ACDC) to unlabelled LGE (MS-CMRSeg 2019), CPU preset.

    python scripts/benchmark_translation.py ACDC_FOLDER LGE_FOLDER --root WORK_FOLDER

Every row trains the same nnU-Net on another dataset: cine as it is, cine translated by each method, two views together,
and that with one and two rounds of self-training on the unlabelled LGE scans. Scored are the LGE scans of `val`, which
nothing is fitted to. May be interrupted: rows that are finished are kept in `benchmarks/translation/` and not run
again, and unfinished steps continue.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from matplotlib.figure import Figure
from tables import BENCHMARKS, HEAD, add_only, figures, fill_table, picked, scored, set_words

from nnunet_ext.files import atomic_path, read_json, write_json
from nnunet_ext.workspace import Workspace
from translation.registry import METHODS

SOURCE, TARGET = "Dataset027_ACDC", "Dataset045_MSCMR_LGE"
VIEWS = {method: (f"Dataset{50 + i:03d}_{method}", method) for i, method in enumerate(METHODS)} | {
    "multi-view": ("Dataset059_multiview", "cyclegan,tanq")
}
FIRST_ROUND, ROUNDS = 60, 2
TRAINER, FOLD = "nnUNetTrainerBaseline", "0"
TABLE = BENCHMARKS / "translation"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("acdc", type=Path, help="folder with patientNNN folders and split.json")
    parser.add_argument("lge", type=Path, help="folder with train/ and val/ of MS-CMRSeg 2019")
    parser.add_argument("--root", type=Path, required=True, help="folder for nnU-Net's data; continued if it exists")
    parser.add_argument("--device", default="cpu")
    add_only(parser)
    parser.add_argument("--set", nargs="*", default=[], help="nnU-Net's settings on top of the CPU preset")
    parser.add_argument("--fit", nargs="*", default=[], help="the translation's settings on top of the CPU preset")
    arguments = parser.parse_args()
    space = Workspace(arguments.root)
    prepare(space, arguments.acdc, arguments.lge)
    rows: list[tuple[str, Callable[[], dict[str, Any]]]] = [("source-only", partial(train, space, arguments, SOURCE))]
    rows += [(name, partial(translate, space, arguments, name)) for name in VIEWS]
    rows += [(f"self-training-{r + 1}", partial(selftrain, space, arguments, r)) for r in range(ROUNDS)]
    rows = [row for row in rows if picked(row[0], arguments.only)]
    print(f"| training data | {HEAD} | minutes |\n|---|---|---|---|---|")
    for row in fill_table(TABLE, rows, {"--set": arguments.set, "--fit": arguments.fit}):
        print(f"| {row['name']} | {figures(row)} | {sum(row['minutes'].values()):.0f} |")
    # Not among the rows: scans of these datasets must not get into the repository, not even as a picture.
    montage(space, space.root / "montage.png")


def prepare(space: Workspace, acdc: Path, lge: Path) -> None:
    """Both raw datasets, and the validation scans with their truth in folders of their own."""
    patients = space.root / "acdc_train"
    patients.mkdir(exist_ok=True)
    for patient in read_json(acdc / "split.json")["train"]:
        if not (patients / patient).exists():
            (patients / patient).symlink_to((acdc / patient).resolve())
    for part in ("images", "labels"):
        (space.root / "val" / part).mkdir(parents=True, exist_ok=True)
    for truth in sorted((lge / "val").glob("*_gt.nii.gz")):
        case = truth.name.removesuffix("_gt.nii.gz")
        shutil.copyfile(truth, space.root / "val" / "labels" / f"{case}.nii.gz")
        shutil.copyfile(lge / "val" / f"{case}.nii.gz", space.root / "val" / "images" / f"{case}.nii.gz")
    space.once("source", "nnunet_ext", "dataset", "acdc", patients, "-d", SOURCE)
    space.once("target", "nnunet_ext", "dataset", "mscmr", lge, "-d", TARGET)


def translate(space: Workspace, arguments: argparse.Namespace, row: str) -> dict[str, Any]:
    """Fit what the row's views need, write its dataset, train on it and score."""
    dataset, views = VIEWS[row]
    cohorts = ("-s", SOURCE, "-t", TARGET)
    device, fitting = arguments.device, 0.0
    for method in views.split(","):
        own = [] if method == "histogram" else set_words(arguments.fit)
        fitting += space.run("nnunet_ext", "translate", "fit", *cohorts, "-m", method, "--preset", "cpu",
                             "--device", device, *own)  # fmt: skip
    # A row shows what a method gives, also one whose output the gate would refuse: the row keeps who lost what.
    applying = space.run("nnunet_ext", "translate", "apply", *cohorts, "--views", views, "-d", dataset, "--force",
                         "--overwrite", "--device", device)  # fmt: skip
    scores = train(space, arguments, dataset)
    scores["minutes"] = {"fit": fitting / 60, "apply": applying / 60} | scores["minutes"]
    manifest = read_json(space.root / "raw" / dataset / "dataset.json")["nnunet_ext"]["translation"]
    found = manifest["views"].items()
    return scores | {
        "consistency": {view: v["consistency"] for view, v in found},
        "lost": {view: v["gate"]["lost"] for view, v in found},
    }


def train(space: Workspace, arguments: argparse.Namespace, dataset: str) -> dict[str, Any]:
    """Train nnU-Net at the CPU preset on a dataset and score it on the validation scans."""
    number = int(dataset[7:10])
    space.once(f"plan-{number}", "nnUNetv2_plan_and_preprocess", "-d", number, "-c", "2d", "-np", 2, "-npfp", 2)
    space.once(f"configure-{number}", "nnunet_ext", "configure", "-d", number, "-c", "2d", "--preset", "cpu",
               *set_words(arguments.set))  # fmt: skip
    hold_out_one_patient(space, dataset)
    fold = model_folder(space, dataset) / f"fold_{FOLD}"
    resumed = any(fold.glob("checkpoint_*.pth"))
    minutes = space.run("nnUNetv2_train", number, "2d", FOLD, "-tr", TRAINER, "-device", arguments.device,
                        *(["--c"] if resumed else [])) / 60  # fmt: skip
    return score(space, dataset, arguments.device) | {"minutes": {"train": minutes}, "resumed": resumed}


def hold_out_one_patient(space: Workspace, dataset: str) -> None:
    """Train on all patients but the first: nnU-Net wants to validate on some, and nothing here is chosen by that."""
    folder = space.root / "preprocessed" / dataset
    cases = sorted(p.stem for p in (folder / "nnUNetPlans_2d").glob("*.pkl"))
    held = [case for case in cases if case.split("_")[0] == cases[0].split("_")[0]]
    split = {"train": [case for case in cases if case not in held], "val": held}
    write_json(folder / "splits_final.json", [split])


def selftrain(space: Workspace, arguments: argparse.Namespace, number: int) -> dict[str, Any]:
    """Rounds up to `number` (from 0) of self-training on the multi-view dataset, and its score."""
    start, (dataset, _) = time.monotonic(), VIEWS["multi-view"]
    space.run(
        "nnunet_ext", "selftrain", "-d", dataset, "-t", TARGET, "--into", FIRST_ROUND, "--rounds", number + 1,
        "-tr", TRAINER, "--fold", FOLD, "--preset", "cpu", *set_words(arguments.set), "--components",
        "--device", arguments.device,
    )  # fmt: skip
    minutes = (time.monotonic() - start) / 60
    folder = space.root / "results" / "translation" / "selftrain"
    report = read_json(next(folder.glob(f"Dataset{FIRST_ROUND:03d}_*/selftrain.json")))
    (row,) = (r for r in report["rounds"] if r["round"] == number + 1)
    return score(space, row["dataset"], arguments.device) | {"minutes": {"self-training": minutes}, "round": row}


def score(space: Workspace, dataset: str, device: str) -> dict[str, Any]:
    """Means of Dice, HD95 and ASSD over the validation scans, per structure."""
    masks, scores = space.root / "predictions" / dataset, space.root / "scores" / f"{dataset}.json"
    scores.parent.mkdir(exist_ok=True)
    space.run("nnunet_ext", "predict", "-i", space.root / "val" / "images", "-o", masks, "-m",
              model_folder(space, dataset), "-f", FOLD, "--device", device)  # fmt: skip
    labels = [word for name, value in (("RV", 1), ("MYO", 2), ("LV", 3)) for word in ("--label", f"{name}={value}")]
    space.run("nnunet_ext", "evaluate", masks, space.root / "val" / "labels", *labels, "--json", scores)
    return scored(scores)


def model_folder(space: Workspace, dataset: str) -> Path:
    return space.root / "results" / dataset / f"{TRAINER}__nnUNetPlans__2d"


def montage(space: Workspace, target: Path, columns: int = 5) -> None:
    """One slice of some cine scans, its translation by each method that was applied here, real LGE slices below."""
    names = sorted(p.name.removesuffix("_0000.nii.gz") for p in (space.root / "raw" / SOURCE / "imagesTr").iterdir())
    cases = names[:: len(names) // columns][:columns]
    rows = [("cine", SOURCE, cases)] + [
        (method, dataset, [f"{case}_{method}" for case in cases])
        for method, (dataset, views) in VIEWS.items()
        if "," not in views and (space.root / "raw" / dataset).is_dir()
    ]
    real = sorted(p.name.removesuffix(".nii.gz") for p in (space.root / "val" / "images").iterdir())[:columns]
    figure = Figure(figsize=(2 * columns, 2 * (len(rows) + 1)), layout="constrained")
    axes = figure.subplots(len(rows) + 1, columns, squeeze=False)
    for line, (title, dataset, row) in enumerate(rows):
        for column, case in enumerate(row):
            show(axes[line, column], space.root / "raw" / dataset / "imagesTr" / f"{case}_0000.nii.gz")
        axes[line, 0].set_title(title, loc="left", fontsize="small")
    for column, case in enumerate(real):
        show(axes[-1, column], space.root / "val" / "images" / f"{case}.nii.gz")
    axes[-1, 0].set_title("real LGE", loc="left", fontsize="small")
    with atomic_path(target) as partial:
        figure.savefig(partial, dpi=80)


def show(axes: Any, path: Path) -> None:
    """The middle slice, between its own 1st and 99th percentile."""
    volume = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    picture = volume[len(volume) // 2]
    low, high = np.percentile(picture, (1, 99))
    axes.imshow(picture, cmap="gray", vmin=low, vmax=high)
    axes.set_axis_off()


if __name__ == "__main__":
    main()
