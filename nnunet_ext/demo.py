"""`nnunet_ext demo`: the whole story on synthetic hearts, as the commands that a user would type."""

from __future__ import annotations

import time
from pathlib import Path

from nnunet_ext.data.phantoms import LABELS, Modality, write_hearts
from nnunet_ext.data.tumour_phantoms import LABELS as TUMOUR_LABELS
from nnunet_ext.data.tumour_phantoms import write_tumours
from nnunet_ext.evaluation.result import MEAN
from nnunet_ext.files import read_json
from nnunet_ext.koos.grades import write_csv
from nnunet_ext.progress import duration
from nnunet_ext.workspace import Workspace

CINE, LGE, TRANSLATED = "Dataset901_DemoCine", "Dataset902_DemoLGE", "Dataset903_DemoCineAsLGE"
TRAINING_HEARTS = 16
TEST_HEARTS = 6
TRAINER = "nnUNetTrainerCSUNet"
# A few minutes on two cores for each training.
LENGTH = ("epochs=6", "iterations_per_epoch=50", "val_iterations_per_epoch=5")
# Method -> settings. Histogram matching needs no time to learn; a learned method is a further entry.
VIEWS: dict[str, tuple[str, ...]] = {"histogram": ()}


TUMOURS = "Dataset904_DemoTumours"
TRAINING_PERSONS, TEST_PERSONS = 48, 24
# Every grade is as frequent as the others here: without pre-training the encoder learns fastest (BENCHMARKS.md).
GRADING: tuple[str, ...] = ("--no-pretraining", "--set", "head_epochs=40", "head_learning_rate=3e-3")


def run(root: Path, koos: bool = False) -> Path:
    """Labels in cine, scans in LGE: train on cine as it is and on cine translated to LGE, and compare both on LGE.

    Steps that an earlier, interrupted run finished are not repeated.

    Args:
        root: folder for everything the demo makes.

    Returns:
        The report.
    """
    start = time.monotonic()
    space = Workspace(root)
    print(f"Everything the demo makes lies in {space.root}, the output of its commands in log.txt there.")

    _title("1. Made short-axis hearts: labelled cine and LGE without labels to learn from, and others to test on")
    _hearts(space, "cine", TRAINING_HEARTS, "cine", seed=1)
    _hearts(space, "lge", TRAINING_HEARTS, "lge", seed=3, labelled=False)
    _hearts(space, "test_cine", TEST_HEARTS, "cine", seed=2)
    _hearts(space, "test_lge", TEST_HEARTS, "lge", seed=2)

    _title("2. Raw nnU-Net datasets")
    for folder, dataset in (("cine", CINE), ("lge", LGE)):
        space.once(
            f"dataset-{folder}", "nnunet_ext", "dataset", "folder", space.root / "scans" / folder, "-d", dataset,
            *_labels(), "--channel", folder, "--domain", folder, "--missing-labels",
        )  # fmt: skip

    _title(f"3. {TRAINER} on cine as it is: planned, preprocessed and trained by nnU-Net (minutes)")
    source_only = _train(space, CINE)

    _title("4. Cine translated to the look of LGE; a gate refuses what washed a labelled structure out")
    cohorts = ("-s", CINE, "-t", LGE)
    for method, settings in VIEWS.items():
        fit = ("nnunet_ext", "translate", "fit", *cohorts, "-m", method, "--preset", "cpu", "--device", "cpu")
        space.once(f"fit-{method}", *fit, *(("--set", *settings) if settings else ()))
    views = ("--views", ",".join(VIEWS), "-d", TRANSLATED, "--device", "cpu")
    space.once("apply", "nnunet_ext", "translate", "apply", *cohorts, *views)

    _title(f"5. {TRAINER} on the translated cine (minutes), packed for elsewhere")
    translated = _train(space, TRANSLATED)
    package = space.root / "model.tar.gz"
    space.once("package", "nnunet_ext", "package", translated, "-o", package, "--folds", 0)

    _title("6. Masks for folders of scans that neither network saw")
    on_cine = _predict(space, "test_cine", source_only, "source_only")
    on_lge = [_predict(space, "test_lge", *which) for which in ((package, "translated"), (source_only, "source_only"))]

    _title("7. Scores, and the page")
    _score(space, "test_cine", [on_cine], "report_cine.html")
    report = _score(space, "test_lge", on_lge, "report.html")
    if koos:
        _title("8. Koos grades of synthetic tumours")
        _grade(space)
    print(f"\nDone in {duration(time.monotonic() - start)}.\nReport: {report.as_uri()}")
    return report


def _title(text: str) -> None:
    print(f"\n{text}")


def _labels() -> list[str]:
    return [word for name, value in LABELS.items() for word in ("--label", f"{name}={value}")]


def _hearts(space: Workspace, name: str, n: int, modality: Modality, seed: int, labelled: bool = True) -> None:
    folder = space.root / "scans" / name
    last = folder / ("labels" if labelled else "images") / f"{modality}_{n - 1:03d}.nii.gz"
    if not last.exists():
        write_hearts(folder, n, modality, seed, labelled=labelled)
    print(f"{n} {modality} hearts in {folder}")


def _train(space: Workspace, dataset: str) -> Path:
    """Plan, preprocess and train on a raw dataset; returns the model folder."""
    number = int(dataset[7:10])
    space.once(f"plan-{number}", "nnUNetv2_plan_and_preprocess", "-d", number, "-c", "2d", "-np", 2, "-npfp", 2)
    configure = ("nnunet_ext", "configure", "-d", number, "-c", "2d", "--preset", "cpu", "--set", *LENGTH)
    space.once(f"configure-{number}", *configure)
    model = space.root / "results" / dataset / f"{TRAINER}__nnUNetPlans__2d"
    began = any(model.glob("fold_0/checkpoint_*.pth"))
    train = ("nnUNetv2_train", number, "2d", 0, "-tr", TRAINER, "-device", "cpu")
    space.once(f"train-{number}", *train, resume=["--c"] if began else [])
    return model


def _predict(space: Workspace, test: str, model: Path, method: str) -> Path:
    """Masks of a folder of test scans; returns their folder, which bears the method's name."""
    scans, masks = space.root / "scans" / test / "images", space.root / "predictions" / test / method
    space.once(f"{test}, {method}", "nnunet_ext", "predict", "-i", scans, "-o", masks, "-m", model, "--device", "cpu")
    return masks


def _score(space: Workspace, test: str, methods: list[Path], page: str) -> Path:
    """Score folders of masks of the same scans, print each one's mean Dice and return the page."""
    report, truth = space.root / page, space.root / "scans" / test
    scores = report.with_suffix(".json")
    against = [word for folder in methods[1:] for word in ("--against", folder)]
    space.run(
        "nnunet_ext", "evaluate", methods[0], truth / "labels", *against, *_labels(), "--images", truth / "images",
        "--json", scores, "--report", report,
    )  # fmt: skip
    for name, dice in _mean_dice(scores).items():
        print(f"{test}, {name}: mean Dice {dice:.3f}")
    return report


def _grade(space: Workspace) -> None:
    """Fit MSF-Koos-Net on some persons, grade others and score the grades."""
    folder, model = space.root / "tumours", space.root / "koos"
    for part, persons in (("train", TRAINING_PERSONS), ("test", TEST_PERSONS)):
        if not (folder / f"{part}.csv").exists():
            grades = write_tumours(folder / part, persons, ("hrT2",), seed=("train", "test").index(part))
            write_csv(grades, folder / f"{part}.csv")
    labels = [word for name, value in TUMOUR_LABELS.items() for word in ("--label", f"{name}={value}")]
    space.once(
        "dataset-tumours", "nnunet_ext", "dataset", "folder", folder / "train", "-d", TUMOURS, *labels,
        "--channel", "hrT2",
    )  # fmt: skip
    space.once(
        "koos-fit", "nnunet_ext", "koos", "fit", "-d", TUMOURS, "-g", folder / "train.csv", "-o", model,
        "--encoder", "none", "--tumour", "VS", "--preset", "cpu", "--device", "cpu", *GRADING,
    )  # fmt: skip
    test, found = folder / "test", space.root / "koos.csv"
    space.once(
        "koos-predict", "nnunet_ext", "koos", "predict", "-i", test / "images", "--masks", test / "labels",
        "-m", model, "-o", found, "--device", "cpu",
    )  # fmt: skip
    report, scores = space.root / "report_koos.html", space.root / "report_koos.json"
    space.run("nnunet_ext", "koos", "score", found, folder / "test.csv", "--report", report, "--json", scores)
    result = read_json(scores)
    print(f"MA-MAE {result['ma_mae']:.2f}, the best constant guess {result['constant_guess']['ma_mae']:.2f}; {report}")


def _mean_dice(scores: Path) -> dict[str, float]:
    """Method -> mean Dice over structures and cases."""
    methods = read_json(scores)["methods"]
    return {name: method["summary"][MEAN]["dice"]["mean"] for name, method in methods.items()}
