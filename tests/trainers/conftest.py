"""A tiny preprocessed dataset, made once for all trainers' tests."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.dummy
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_ext.environment import FOLDERS
from nnunet_ext.paths import trainer_folder

DATASET = "Dataset901_Tiny"
IGNORE = 3
LABELLED = [f"case{i}" for i in range(6)]
UNLABELLED = ["scan0", "scan1"]


@contextmanager
def nnunet_variables(root: Path, loaders: int = 0) -> Iterator[None]:
    """nnU-Net's variables set to folders under `root`."""
    values = {variable: str(root / folder) for variable, folder in FOLDERS.items()}
    values |= {"nnUNet_extTrainer": str(trainer_folder()), "nnUNet_n_proc_DA": str(loaders), "nnUNet_def_n_proc": "1"}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def use_threads(patch: pytest.MonkeyPatch) -> None:
    """Let nnU-Net's pools of spawned processes be pools of threads."""
    context = multiprocessing.get_context

    def threads(method: str | None = None) -> Any:
        return multiprocessing.dummy if method == "spawn" else context(method)

    patch.setattr(multiprocessing, "get_context", threads)


def write_case(folder: Path, name: str, number: int, labelled: bool) -> None:
    """A slab of 6 slices with a bright disc (label 1) that holds a dark core (label 2)."""
    rng = np.random.default_rng(number)
    _, y, x = np.mgrid[:6, :40, :36]
    radius = np.hypot(y - 18 - number % 4, x - 17 + number % 3)
    label = np.where(radius < 5, 2, np.where(radius < 11, 1, 0)).astype(np.uint8)
    image = np.array([0.0, 1.0, -1.0])[label] + 0.2 * rng.standard_normal(label.shape)
    for array, path in (
        (image.astype(np.float32), folder / "imagesTr" / f"{name}_0000.nii.gz"),
        (label if labelled else np.full_like(label, IGNORE), folder / "labelsTr" / f"{name}.nii.gz"),
    ):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing((1.5, 1.5, 8.0))
        sitk.WriteImage(volume, str(path))


@pytest.fixture(scope="session")
def tiny_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nnU-Net folders with a planned and preprocessed dataset of 6 labelled and 2 unlabelled cases."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    root = tmp_path_factory.mktemp("nnunet")
    raw = root / FOLDERS["nnUNet_raw"] / DATASET
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for number, name in enumerate(LABELLED + UNLABELLED):
        write_case(raw, name, number, name in LABELLED)
    labels = {"background": 0, "disc": 1, "core": 2, "ignore": IGNORE}
    dataset = {
        "channel_names": {"0": "MR"},
        "labels": labels,
        "numTraining": len(LABELLED + UNLABELLED),
        "file_ending": ".nii.gz",
        "nnunet_ext": {
            "unlabelled": UNLABELLED,
            "domain": dict.fromkeys(LABELLED, "near") | dict.fromkeys(UNLABELLED, "far"),
        },
    }
    (raw / "dataset.json").write_text(json.dumps(dataset))
    # nnU-Net plans and preprocesses in spawned processes that take longer to start than this dataset takes.
    with nnunet_variables(root, loaders=1), pytest.MonkeyPatch.context() as patch:
        use_threads(patch)
        extract_fingerprints([901], num_processes=1)
        plan_experiments([901])
        preprocess([901], configurations=("2d", "3d_fullres"), num_processes=(1, 1))
    for configuration, patch in (("2d", [32, 32]), ("3d_fullres", [4, 32, 32])):
        shrink(root, configuration, patch)
    return root


def plans_file(root: Path) -> Path:
    return root / FOLDERS["nnUNet_preprocessed"] / DATASET / "nnUNetPlans.json"


def shrink(root: Path, configuration: str, patch: list[int]) -> None:
    """A network of three small stages and a schedule of 2 epochs of 2 updates."""
    plans = json.loads(plans_file(root).read_text())
    planned = plans["configurations"][configuration]
    dim = len(patch)
    planned["patch_size"], planned["batch_size"] = patch, 2
    kwargs = planned["architecture"]["arch_kwargs"]
    stride = [1, 2, 2][-dim:]
    kwargs |= {
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "kernel_sizes": [[1, 3, 3][-dim:]] * 3,
        "strides": [[1] * dim, stride, stride],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
    }
    planned["nnunet_ext"] = {
        "schedule": {"epochs": 2, "iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "save_every": 1}
    }
    plans_file(root).write_text(json.dumps(plans))


@pytest.fixture
def tiny(tiny_template: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the tiny dataset's nnU-Net folders for one test, with nnU-Net's variables set to it."""
    root = tmp_path / "nnunet"
    shutil.copytree(tiny_template, root)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with nnunet_variables(root):
        yield root
    torch.set_num_threads(threads)


@pytest.fixture
def threads_for_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nnU-Net's validation write its results from threads."""
    use_threads(monkeypatch)


@pytest.fixture
def change_settings(tiny: Path) -> Callable[..., None]:
    """Write settings into the tiny dataset's plans: `change_settings("2d", schedule={"epochs": 3})`."""

    def change(configuration: str = "2d", **sections: dict[str, Any]) -> None:
        plans = json.loads(plans_file(tiny).read_text())
        settings = plans["configurations"][configuration].setdefault("nnunet_ext", {})
        for section, values in sections.items():
            settings.setdefault(section, {}).update(values)
        plans_file(tiny).write_text(json.dumps(plans))

    return change


@pytest.fixture
def train(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Train in this process as `nnUNetv2_train` does, without its final validation; returns the trainer."""
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
    from nnunetv2.training.logging.nnunet_logger import LocalLogger

    # Drawing nnU-Net's own figure takes longer than an epoch here.
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda self, folder: Path(folder, "progress.png").touch())

    def run(
        name: str, configuration: str = "2d", fold: int | str = 0, *, resume: bool = False, stop: bool = False
    ) -> Any:
        trainer = get_trainer_from_args("901", configuration, fold, name, "nnUNetPlans", resume, torch.device("cpu"))
        maybe_load_checkpoint(trainer, resume, False)
        if not stop:
            trainer.run_training()
        return trainer

    return run
