"""The resident predictor against nnU-Net's own, on the same weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from made_models import made_scan, make_model

from nnunet_ext.errors import InputError
from nnunet_ext.inference import memory, predictor
from nnunet_ext.inference.images import read_scan, write_mask
from nnunet_ext.inference.memory import NoRoom, Room
from nnunet_ext.inference.package import load_model
from nnunet_ext.inference.predictor import Predictor

AGREEMENT = 0.9999


def reference(folders: list[Path], files: list[Path], mirror: bool = True) -> np.ndarray:
    """The mask of `nnUNetPredictor`, which averages probabilities of several model folders as nnU-Net's ensembling."""
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    image, properties = SimpleITKIO().read_images([str(f) for f in files])
    total: Any = 0
    for folder in folders:
        theirs = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=mirror, allow_tqdm=False)
        folds = sorted(int(p.name.removeprefix("fold_")) for p in folder.glob("fold_*"))
        theirs.initialize_from_trained_model_folder(str(folder), tuple(folds))
        found = theirs.predict_single_npy_array(image, dict(properties), None, None, len(folders) > 1)
        if len(folders) == 1:
            return found
        total = total + found[1]
    return theirs.label_manager.convert_probabilities_to_segmentation(total / len(folders))


def ours(folders: list[Path], files: list[Path], mirror: bool = True) -> np.ndarray:
    return Predictor(load_model(folders), "cpu", mirror=mirror).predict(read_scan(files)).mask


def written(image: sitk.Image, path: Path) -> Path:
    sitk.WriteImage(image, str(path))
    return path


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    assert len(np.unique(b)) > 1, "the reference says nothing"
    return float((a == b).mean())


@pytest.mark.parametrize("mirror", [True, False])
def test_2d_folds_agree_with_nnunet(model_2d: Path, tmp_path: Path, mirror: bool) -> None:
    files = [written(made_scan(1, (70, 55, 4)), tmp_path / "a.nii.gz")]
    assert agreement(ours([model_2d], files, mirror), reference([model_2d], files, mirror)) >= AGREEMENT


@pytest.mark.parametrize(
    ("size", "spacing"),
    [((50, 41, 17), (1.5, 1.5, 4.0)), ((33, 38, 9), (1.1, 1.9, 5.0)), ((40, 40, 3), (1.2, 1.2, 14.0))],
    ids=["no resampling", "all axes", "separate z"],
)
def test_3d_agrees_with_nnunet(model_3d: Path, tmp_path: Path, size: Any, spacing: Any) -> None:
    files = [written(made_scan(2, size, spacing), tmp_path / "a.nii.gz")]
    assert agreement(ours([model_3d], files), reference([model_3d], files)) >= AGREEMENT


def test_other_axis_order_and_a_scan_with_a_black_border_agree_with_nnunet(tmp_path: Path) -> None:
    folder = make_model(tmp_path, transpose=(2, 0, 1), spacing=(6.0, 1.5))
    scan = made_scan(3, (12, 44, 30))
    scan[:3, :, :] = 0
    scan[:, :, 26:] = 0
    files = [written(scan, tmp_path / "a.nii.gz")]
    assert agreement(ours([folder], files), reference([folder], files)) >= AGREEMENT


def test_channels_and_regions_agree_with_nnunet(tmp_path: Path) -> None:
    labels = {"background": 0, "heart": [1, 2, 3], "ventricles": [2, 3], "lv": 3}
    folder = make_model(tmp_path, channels=2, labels=labels)
    files = [written(made_scan(seed), tmp_path / f"{seed}.nii.gz") for seed in (4, 5)]
    assert agreement(ours([folder], files), reference([folder], files)) >= AGREEMENT


def test_an_ensemble_of_configurations_agrees_with_nnunet(model_2d: Path, model_3d: Path, tmp_path: Path) -> None:
    files = [written(made_scan(6), tmp_path / "a.nii.gz")]
    folders = [model_2d, model_3d]
    assert agreement(ours(folders, files), reference(folders, files)) >= AGREEMENT


def test_slabs_of_any_thickness_give_the_same_mask(
    model_3d: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [written(made_scan(7, (36, 34, 19), (1.2, 1.3, 2.5)), tmp_path / "a.nii.gz")]
    whole = ours([model_3d], files)
    monkeypatch.setattr(predictor, "slabs", lambda shape, heads: [(i, i + 1) for i in range(shape[0])])
    assert np.array_equal(ours([model_3d], files), whole)


def test_the_number_of_threads_does_not_change_the_mask(model_2d: Path, tmp_path: Path) -> None:
    scan = written(made_scan(8), tmp_path / "a.nii.gz")
    before = torch.get_num_threads()
    masks = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            masks.append(ours([model_2d], [scan]))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*masks)


def test_probability_is_the_mean_over_the_class_s_own_voxels(model_2d: Path, tmp_path: Path) -> None:
    scan = read_scan([written(made_scan(9), tmp_path / "a.nii.gz")])
    found = Predictor(load_model([model_2d]), "cpu").predict(scan, probabilities=True)
    assert found.probability is not None
    assert list(found.probability) == ["rv", "myo", "lv"]
    for label, value in zip((1, 2, 3), found.probability.values(), strict=True):
        # The winner of four classes has at least a quarter; an absent class has none.
        assert (value is None) == (not (found.mask == label).any())
        assert value is None or 0.25 <= value <= 1


def test_a_scan_without_contrast_has_an_empty_mask(model_2d: Path, tmp_path: Path) -> None:
    image = made_scan() * 0 + 7
    found = Predictor(load_model([model_2d]), "cpu").predict(
        read_scan([written(image, tmp_path / "a.nii.gz")]), probabilities=True
    )
    assert found.mask.shape == image.GetSize()[::-1]
    assert not found.mask.any()
    assert found.probability == {"rv": None, "myo": None, "lv": None}


def test_a_wrong_number_of_channels_is_named(model_2d: Path, tmp_path: Path) -> None:
    scan = written(made_scan(), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"2 channels, the model's number is needed: 1"):
        Predictor(load_model([model_2d]), "cpu").predict(read_scan([scan, scan]))


def test_a_volume_that_cannot_fit_is_refused_in_one_line(
    model_2d: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = read_scan([written(made_scan(), tmp_path / "a.nii.gz")])
    monkeypatch.setattr(memory, "room", lambda: Room(1_000_000, "RLIMIT_DATA"))
    with pytest.raises(NoRoom, match=r"45 x 40 x 5 voxels need about .* 0.0 GB are left \(RLIMIT_DATA\)") as error:
        Predictor(load_model([model_2d]), "cpu").predict(scan)
    assert "\n" not in str(error.value)


def test_room_follows_the_tightest_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(memory, "_sizes", lambda file: {"VmData": 400, "VmSize": 500, "MemAvailable": 5000})
    limits = {resource.RLIMIT_DATA: 1000, resource.RLIMIT_AS: 1050}
    monkeypatch.setattr(memory.resource, "getrlimit", lambda which: (limits[which], limits[which]))
    assert memory.room() == Room(550, "RLIMIT_AS")


def test_an_unknown_device_is_named(model_2d: Path) -> None:
    with pytest.raises(InputError, match="--device abacus"):
        Predictor(load_model([model_2d]), "abacus")


def test_a_reorienting_model_returns_masks_in_the_scan_s_own_orientation(tmp_path: Path) -> None:
    plain = make_model(tmp_path / "plain")
    turning = make_model(tmp_path / "turning", reader="SimpleITKIOWithReorient")
    scan = sitk.DICOMOrient(made_scan(10), "RAS")
    turned = sitk.DICOMOrient(scan, "PLI")
    expected = ours([plain], [written(scan, tmp_path / "ras.mha")])
    loaded = Predictor(load_model([turning]), "cpu")
    given = read_scan([written(turned, tmp_path / "pli.mha")], reorient=loaded.model.reorient)
    write_mask(loaded.predict(given).mask, given, tmp_path / "mask.mha")
    mask = sitk.ReadImage(str(tmp_path / "mask.mha"))
    assert (mask.GetSize(), mask.GetDirection(), mask.GetOrigin()) == (
        turned.GetSize(),
        turned.GetDirection(),
        turned.GetOrigin(),
    )
    assert np.array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(mask, "RAS")), expected)


def test_a_trainer_s_own_network_is_found_without_nnunet_s_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    folder = make_model(tmp_path, trainer="nnUNetTrainerBaseline")
    assert load_model([folder]).first.network_of_plans
    assert os.environ.get("nnUNet_extTrainer") is None
