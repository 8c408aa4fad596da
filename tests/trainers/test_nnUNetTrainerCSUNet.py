"""CS-Unet through nnU-Net: training, validation, prediction, export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

NAME = "nnUNetTrainerCSUNet"
TINY = {"embed_dim": 8, "depths": [1, 1], "decoder_depths": [1], "num_heads": [1, 2], "window_size": 4}


def predictor(model: Path, checkpoint: str = "checkpoint_final.pth"):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    result = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    result.initialize_from_trained_model_folder(str(model), (0,), checkpoint)
    return result


def predicted(model: Path, image: Path) -> np.ndarray:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    array, properties = SimpleITKIO().read_images([str(image)])
    return predictor(model).predict_single_npy_array(array, properties)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_trained_model_validates_predicts_and_travels(
    train, tiny, tmp_path, change_settings, monkeypatch, threads_for_processes, configuration
):
    from nnunetv2.model_sharing.model_export import export_pretrained_model
    from nnunetv2.model_sharing.model_import import install_model_from_zip_file

    change_settings(configuration, CSUNet=TINY)
    trainer = train(NAME, configuration)
    trainer.perform_actual_validation(save_probabilities=True)
    validation = Path(trainer.output_folder, "validation")
    case = trainer.do_split()[1][0]
    assert json.loads((validation / "summary.json").read_text())["foreground_mean"]["Dice"] >= 0
    assert np.load(validation / f"{case}.npz")["probabilities"].shape[0] == 3  # no head for the ignore label
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(validation / f"{case}.nii.gz")))

    image = tiny / "raw" / "Dataset901_Tiny" / "imagesTr" / f"{case}_0000.nii.gz"
    model = Path(trainer.output_folder_base)
    ours = predicted(model, image)
    assert ours.shape == expected.shape
    assert (ours == expected).mean() > 0.999  # validation keeps the preprocessed scan in half the digits

    archive = tmp_path / "model.zip"
    export_pretrained_model("Dataset901_Tiny", str(archive), (configuration,), NAME, folds=(0,))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere"))
    install_model_from_zip_file(str(archive))
    elsewhere = tmp_path / "elsewhere" / "Dataset901_Tiny" / model.name
    assert elsewhere.is_dir()
    assert (predicted(elsewhere, image) == ours).all()


def test_deep_supervision(train, tiny, change_settings, threads_for_processes):
    change_settings(CSUNet={**TINY, "deep_supervision": True})
    trainer = train(NAME)
    trainer.perform_actual_validation()
    assert trainer.network.deep_supervision
    network = predictor(Path(trainer.output_folder_base)).network
    assert isinstance(network(torch.zeros(1, 1, 32, 32)), torch.Tensor)


def test_without_deep_supervision_validation_leaves_it_off(train, change_settings, threads_for_processes):
    change_settings(CSUNet=TINY)
    trainer = train(NAME)
    trainer.perform_actual_validation()
    assert not trainer.network.deep_supervision
    batch = next(trainer.get_dataloaders()[0])
    assert trainer.train_step(batch)["loss"] > 0


def test_optimiser_and_learning_rate_are_the_thesis(train, change_settings):
    change_settings(CSUNet=TINY, schedule={"epochs": 100, "iterations_per_epoch": 4})
    trainer = train(NAME, stop=True)
    trainer.initialize()
    group = trainer.optimizer.param_groups[0]
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert (trainer.lr_scheduler.highest, group["weight_decay"]) == ([1e-3], 5e-4)
    batch = next(trainer.get_dataloaders()[0])
    rates = []
    for _ in range(2):
        trainer.train_step(batch)
        rates.append(group["lr"])
    # 10 epochs of 4 updates warm up.
    assert rates == pytest.approx([1e-3 / 40, 2e-3 / 40 * (1 - 1 / 400) ** 0.9])


def test_pretrained_weights(train, change_settings, tiny):
    from nnunetv2.run.run_training import maybe_load_checkpoint

    change_settings(CSUNet=TINY)
    first = train(NAME)
    change_settings(schedule={"seed": 5})
    second = train(NAME, stop=True)
    maybe_load_checkpoint(second, False, False, str(Path(first.output_folder) / "checkpoint_final.pth"))
    for a, b in zip(first.network.state_dict().values(), second.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_nnunets_own_programs(tiny, tmp_path, change_settings):
    change_settings(CSUNet=TINY)
    change_settings("3d_fullres", CSUNet=TINY)
    images, output, archive = tiny / "raw" / "Dataset901_Tiny" / "imagesTr", tmp_path / "out", tmp_path / "model.zip"
    images_in = tmp_path / "in"
    images_in.mkdir()
    (images_in / "scan_0000.nii.gz").write_bytes((images / "scan0_0000.nii.gz").read_bytes())

    def run(command: str, **environment: str) -> None:
        name, *arguments = command.split()
        program = Path(sys.executable).with_name(name)
        subprocess.run([program, *arguments], check=True, timeout=1500, env={**os.environ, **environment})

    for fold in ("0", "all"):
        run(f"nnUNetv2_train 901 2d {fold} -tr {NAME} -device cpu --npz")
    run(f"nnUNetv2_train 901 2d 0 -tr {NAME} -device cpu --val")
    run(f"nnUNetv2_train 901 2d 0 -tr {NAME} -device cpu --c", nnUNet_n_proc_DA="2")
    run(f"nnUNetv2_predict -i {images_in} -o {output} -d 901 -c 2d -tr {NAME} -f 0 -device cpu")
    first = (output / "scan.nii.gz").read_bytes()
    run(f"nnUNetv2_export_model_to_zip -d 901 -o {archive} -c 2d -tr {NAME} -f 0")
    elsewhere = str(tmp_path / "elsewhere")
    run(f"nnUNetv2_install_pretrained_model_from_zip {archive}", nnUNet_results=elsewhere)
    (output / "scan.nii.gz").unlink()
    run(
        f"nnUNetv2_predict -i {images_in} -o {output} -d 901 -c 2d -tr {NAME} -f 0 -device cpu",
        nnUNet_results=elsewhere,
    )
    assert (output / "scan.nii.gz").read_bytes() == first
