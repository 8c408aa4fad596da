"""`nnunet_ext demo`: the whole story on made hearts, as the commands that a user would type."""

from __future__ import annotations

import time
from pathlib import Path

from nnunet_ext.data.phantoms import LABELS, write_hearts
from nnunet_ext.evaluation.result import MEAN
from nnunet_ext.files import read_json
from nnunet_ext.progress import duration
from nnunet_ext.workspace import Workspace

DATASET = "Dataset901_DemoHearts"
TRAINING_HEARTS = 16
TEST_HEARTS = 5
TRAINER = "nnUNetTrainerCSUNet"
# A few minutes on two cores; enough for a Dice of about 0.8 on hearts like those it learned from.
LENGTH = ("epochs=10", "iterations_per_epoch=50")


def run(root: Path) -> Path:
    """Make hearts, train CS-Unet on cine, predict cine and LGE hearts it never saw, and write the report.

    Steps that an earlier, interrupted run finished are not repeated.

    Args:
        root: folder for everything the demo makes.

    Returns:
        The report.
    """
    start = time.monotonic()
    space = Workspace(root)
    model = space.root / "results" / DATASET / f"{TRAINER}__nnUNetPlans__2d"
    report = space.root / "report.html"
    print(f"Everything the demo makes lies in {space.root}, the output of its commands in log.txt there.")

    _title("1. Made short-axis hearts: cine to learn from, cine and LGE to test on")
    for name, n, modality, seed in (
        ("train", TRAINING_HEARTS, "cine", 1),
        ("test_cine", TEST_HEARTS, "cine", 2),
        ("test_lge", TEST_HEARTS, "lge", 2),
    ):
        folder = space.root / "scans" / name
        if not (folder / "labels" / f"{modality}_{n - 1:03d}.nii.gz").exists():  # the last file written
            write_hearts(folder, n, modality, seed)  # type: ignore[arg-type]
        print(f"{n} {modality} hearts in {folder}")

    _title("2. A raw nnU-Net dataset, planned and preprocessed by nnU-Net")
    labels = [word for name, value in LABELS.items() for word in ("--label", f"{name}={value}")]
    scans = space.root / "scans"
    space.once(
        "dataset", "nnunet_ext", "dataset", "folder", scans / "train", "-d", DATASET, *labels, "--channel", "cine"
    )
    space.once("plan", "nnUNetv2_plan_and_preprocess", "-d", 901, "-c", "2d", "-np", 2, "-npfp", 2)
    space.once("configure", "nnunet_ext", "configure", "-d", 901, "-c", "2d", "--preset", "cpu", "--set", *LENGTH)

    _title(f"3. Training {TRAINER} by nnU-Net (the long step)")
    began = any(model.glob("fold_0/checkpoint_*.pth"))
    train = ("nnUNetv2_train", 901, "2d", 0, "-tr", TRAINER, "-device", "cpu")
    space.once("train", *train, resume=["--c"] if began else [])

    _title("4. Masks for folders of scans it never saw")
    space.once("package", "nnunet_ext", "package", model, "-o", space.root / "model.tar.gz", "--folds", 0)
    for test in ("test_cine", "test_lge"):
        found, masks = scans / test / "images", space.root / "predictions" / test
        space.once(test, "nnunet_ext", "predict", "-i", found, "-o", masks, "-m", space.root / "model.tar.gz")

    _title("5. Scores, and the page")
    for test in ("test_cine", "test_lge"):
        page = report if test == "test_cine" else space.root / "report_lge.html"
        scores = page.with_suffix(".json")
        masks, truth = space.root / "predictions" / test, scans / test / "labels"
        space.run(
            "nnunet_ext", "evaluate", masks, truth, *labels, "--images", scans / test / "images",
            "--json", scores, "--report", page,
        )  # fmt: skip
        print(f"{test}: mean Dice {_mean_dice(scores):.3f}")
    print("A network that learned cine does worse on LGE: that is what the adaptation stages are for.")
    print(f"\nDone in {duration(time.monotonic() - start)}.\nReport: {report.as_uri()}")
    return report


def _title(text: str) -> None:
    print(f"\n{text}")


def _mean_dice(scores: Path) -> float:
    (method,) = read_json(scores)["methods"].values()
    return method["summary"][MEAN]["dice"]["mean"]
