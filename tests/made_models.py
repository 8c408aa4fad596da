"""Trained model folders made by hand: small networks with known or random weights, as nnU-Net would leave them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter

RESAMPLE = "resample_data_or_seg_to_shape"


def configuration(
    patch: Sequence[int], spacing: Sequence[float], features: Sequence[int], channels: int, order_z: int = 0
) -> dict[str, Any]:
    """A configuration of the plans with a PlainConvUNet of these features."""
    dim, stages = len(patch), len(features)
    options = {"order_z": order_z, "force_separate_z": None}
    return {
        "data_identifier": "made",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "median_image_size_in_voxels": list(patch),
        "spacing": list(spacing),
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        "resampling_fn_data": RESAMPLE,
        "resampling_fn_seg": RESAMPLE,
        "resampling_fn_probabilities": RESAMPLE,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **options},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **options},
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **options},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": list(features),
                "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
                "kernel_sizes": [[3] * dim] * stages,
                "strides": [[1] * dim] + [[2] * dim] * (stages - 1),
                "n_conv_per_stage": [1] * stages,
                "n_conv_per_stage_decoder": [1] * (stages - 1),
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True,
    }


def make_model(
    root: Path,
    *,
    dim: int = 2,
    channels: int = 1,
    labels: dict[str, Any] | None = None,
    folds: Sequence[str] = ("0",),
    patch: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    transpose: Sequence[int] = (0, 1, 2),
    trainer: str = "nnUNetTrainer",
    order_z: int = 0,
    reader: str = "SimpleITKIO",
    features: Sequence[int] = (8, 16),
) -> Path:
    """Write `TRAINER__nnUNetPlans__CONFIGURATION` under `root`, random weights by fold; returns its path."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    name = "2d" if dim == 2 else "3d_fullres"
    conf = configuration(
        patch or ((32, 32) if dim == 2 else (8, 32, 32)),
        spacing or ((1.5, 1.5) if dim == 2 else (4.0, 1.5, 1.5)),
        features,
        channels,
        order_z,
    )
    intensities = dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0)
    plans = {
        "dataset_name": "Dataset900_Made",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [8.0, 1.5, 1.5],
        "original_median_shape_after_transp": [6, 64, 64],
        "image_reader_writer": reader,
        "transpose_forward": list(transpose),
        "transpose_backward": [int(i) for i in np.argsort(transpose)],
        "configurations": {name: conf},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): intensities for i in range(channels)},
    }
    dataset = {
        "channel_names": {str(i): f"channel{i}" for i in range(channels)},
        "labels": labels or {"background": 0, "rv": 1, "myo": 2, "lv": 3},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    if any(isinstance(label, list) for label in dataset["labels"].values()):
        dataset["regions_class_order"] = list(range(1, len(dataset["labels"])))
    folder = root / f"{trainer}__nnUNetPlans__{name}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    heads = PlansManager(plans).get_label_manager(dataset).num_segmentation_heads
    arch = conf["architecture"]
    for fold in folds:
        torch.manual_seed(1 + (99 if fold == "all" else int(fold)))
        network = get_network_from_plans(
            arch["network_class_name"],
            arch["arch_kwargs"],
            arch["_kw_requires_import"],
            channels,
            heads,
            deep_supervision=False,
        )
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        checkpoint = {
            "network_weights": network.state_dict(),
            "trainer_name": trainer,
            "init_args": {"configuration": name, "fold": fold},
            "inference_allowed_mirroring_axes": tuple(range(dim)),
        }
        (folder / f"fold_{fold}").mkdir(exist_ok=True)
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def made_scan(
    seed: int = 0, size: Sequence[int] = (45, 40, 5), spacing: Sequence[float] = (1.4, 1.3, 8.0)
) -> sitk.Image:
    """A smooth int16 scan of some contrast; `size` and `spacing` in x, y, z order."""
    noise = np.random.default_rng(seed).normal(size=tuple(size)[::-1])
    smooth = gaussian_filter(noise, (0.5, 4, 4))
    image = sitk.GetImageFromArray(np.round(smooth / smooth.std() * 300 + 500).astype(np.int16))
    image.SetSpacing([float(s) for s in spacing])
    image.SetOrigin((-12.5, 33.25, 7.0))
    return image
