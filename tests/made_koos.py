"""What the tests of grading share: settings that fit in seconds, small scans, grades."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from nnunet_ext.koos.encoder import low_level
from nnunet_ext.koos.model import FILE, KoosModel, save_model
from nnunet_ext.koos.network import KoosNet
from nnunet_ext.koos.settings import KoosSettings

#: everything as small as it gets
TINY = {
    "size": (3, 16, 16),
    "spacing": (2.0, 2.0, 2.0),
    "encoder_width": 2,
    "encoder_blocks": 1,
    "width": 2,
    "projection": 4,
    "iterations_per_epoch": 2,
    "pretrain_epochs": 2,
    "head_epochs": 2,
    "pretrain_learning_rate": 1e-3,
    "head_learning_rate": 1e-3,
}


def tiny(**changes: object) -> KoosSettings:
    return KoosSettings(**{**TINY, **changes})  # type: ignore[arg-type]


def make_koos(folder: Path, tumour: tuple[int, ...] = (1,), **changes: object) -> Path:
    """A folder with a model as `koos fit` leaves it, of random weights; returns the folder."""
    settings = tiny(**changes)
    low = low_level("none", settings)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = KoosNet(settings, low.spec)
    save_model(KoosModel(settings, low.spec, (2.0, 2.0, 2.0), tumour, network.eval()), folder / FILE)
    return folder


def write_grades(path: Path, grades: Mapping[str, object], columns: tuple[str, str] = ("case", "class")) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(grades.items())
    return path


def small_scan(seed: int, tumour: bool = True) -> tuple[sitk.Image, sitk.Image]:
    """16 x 18 x 5 voxels of 2 mm; the tumour's size goes with the seed."""
    rng = np.random.default_rng(seed)
    label = np.zeros((5, 18, 16), np.uint8)
    if tumour:
        label[1:4, 6 : 8 + seed % 4, 5 : 7 + seed % 4] = 1
    label[0, 0, 0] = 2
    values = rng.normal(100, 10, label.shape) + 80.0 * (label == 1)
    image, mask = sitk.GetImageFromArray(values.astype(np.float32)), sitk.GetImageFromArray(label)
    for volume in (image, mask):
        volume.SetSpacing((2.0, 2.0, 2.0))
    return image, mask
