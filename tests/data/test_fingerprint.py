"""Plain nnU-Net plans a dataset with unlabelled cases from its labelled cases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volumes import array_of, volume

from nnunet_ext.data.phantoms import write_hearts

Run = Callable[..., Path]


def study(root: Path) -> Path:
    """Two labelled cases `a`, `b`, and `c` of another spacing whose intensities are far off."""
    for name in "ab":
        volume(root / "images" / f"{name}.mha")
        volume(root / "labels" / f"{name}.mha", [0, 0, 0, 1])
    far = sitk.ReadImage(str(volume(root / "images" / "c.mha", spacing=(3, 3, 3)))) + 20000
    sitk.WriteImage(far, str(root / "images" / "c.mha"))
    volume(root / "labels" / "c.mha", [0, 1], spacing=(3, 3, 3))
    return root


def test_statistics_are_those_of_labelled_voxels(tmp_path: Path, dataset: Run, nnunet_root: Path) -> None:
    root = study(tmp_path / "study")
    (tmp_path / "names.txt").write_text("a\nb\n")
    folder = dataset("folder", root, "-d", 7, "--label", "x=1", "--labelled", tmp_path / "names.txt")
    found = json.loads((nnunet_root / "preprocessed" / folder.name / "dataset_fingerprint.json").read_text())
    voxels = [array_of(root / "images" / f"{n}.mha")[array_of(root / "labels" / f"{n}.mha") == 1] for n in "ab"]
    statistics = found["foreground_intensity_properties_per_channel"]["0"]
    # Sampled with replacement from both cases alike: extremes exact, the mean within its sampling error.
    assert statistics["min"] == min(v.min() for v in voxels)
    assert statistics["max"] == max(v.max() for v in voxels)
    assert statistics["mean"] == pytest.approx(np.mean([v.mean() for v in voxels]), abs=2)
    assert len(found["spacings"]) == 2
    assert found["spacings"][0] == pytest.approx([9.9, 0.7290666, 0.7290666])
    assert found["shapes_after_crop"] == [[4, 5, 6], [4, 5, 6]]


def test_a_fully_labelled_dataset_is_left_to_nnunet_and_a_stale_fingerprint_goes(
    tmp_path: Path, dataset: Run, nnunet_root: Path
) -> None:
    root = study(tmp_path / "study")
    (tmp_path / "names.txt").write_text("a\nb\n")
    folder = dataset("folder", root, "-d", 7, "--label", "x=1", "--labelled", tmp_path / "names.txt")
    file = nnunet_root / "preprocessed" / folder.name / "dataset_fingerprint.json"
    assert file.exists()
    dataset("folder", root, "-d", 7, "--label", "x=1", "--overwrite")
    assert not file.exists()


def test_plain_nnunet_plans_and_preprocesses_hearts_with_few_labels(
    tmp_path: Path, dataset: Run, nnunet_root: Path
) -> None:
    names = write_hearts(tmp_path / "hearts", 3, "cine")
    (tmp_path / "names.json").write_text(json.dumps({"train": names[:2], "val": names[2:], "few": names[:1]}))
    flags = [word for name, value in (("RV", 1), ("MYO", 2), ("LV", 3)) for word in ("--label", f"{name}={value}")]
    split = tmp_path / "names.json"
    folder = dataset("folder", tmp_path / "hearts", "-d", 7, *flags, "--split", split, "--labelled", f"{split}:few")
    file = nnunet_root / "preprocessed" / folder.name / "dataset_fingerprint.json"
    before = file.read_bytes()
    command = (
        "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry as p; p()"
    )
    arguments = ["-d", "7", "-c", "2d", "--verify_dataset_integrity", "-np", "1", "-npfp", "1"]
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "your dataset is most likely OK" in done.stdout
    assert file.read_bytes() == before
    preprocessed = sorted(p.name for p in (file.parent / "nnUNetPlans_2d").glob("*.b2nd"))
    assert preprocessed == sorted(f"{name}{part}.b2nd" for name in names for part in ("", "_seg"))
