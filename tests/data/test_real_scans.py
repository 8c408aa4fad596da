"""The public scans beside the checkout, converted in their own layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.data.dataset import domains, unlabelled_cases

Run = Callable[..., Path]


def description(folder: Path) -> dict:
    return json.loads((folder / "dataset.json").read_text())


def test_acdc_few_label_protocol(shared_data: Path, dataset: Run, nnunet_root: Path) -> None:
    source = shared_data / "ACDC"
    flags = ("--split", source / "split.json", "--labelled", f"{source / 'split.json'}:labelled_7")
    content = description(folder := dataset("acdc", source, "-d", 27, *flags))
    assert content["numTraining"] == 160
    # 70 training patients with two frames each; ten more validate.
    assert len(unlabelled_cases(content)) == 2 * (70 - 7)
    fold = json.loads((nnunet_root / "preprocessed" / folder.name / "splits_final.json").read_text())[0]
    assert (len(fold["train"]), len(fold["val"])) == (140, 20)
    assert not set(fold["val"]) & unlabelled_cases(content)


def test_oblique_lge_scans_keep_their_geometry(shared_data: Path, dataset: Run) -> None:
    source = shared_data / "MSCMR_LGE"
    folder = dataset("mscmr", source, "-d", 30)
    content = description(folder)
    assert len(domains(content)) == 30
    assert len(unlabelled_cases(content)) == 25
    for name in ("train/subject13_DE", "val/subject1_DE"):
        original = sitk.ReadImage(str(source / f"{name}.nii.gz"))
        case = name.split("/")[1]
        assert np.abs(np.reshape(original.GetDirection(), (3, 3))).max() < 0.99
        for written in (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz"):
            image = sitk.ReadImage(str(folder / written))
            for part in ("GetSpacing", "GetOrigin", "GetDirection"):
                np.testing.assert_allclose(getattr(image, part)(), getattr(original, part)(), rtol=0, atol=1e-6)
