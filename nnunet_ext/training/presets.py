"""Ready-made sizes for a configuration of the plans."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from math import prod
from typing import Any

FEATURES = (16, 32, 64, 128, 128)
BATCH_SIZE = {2: 8, 3: 2}
PATCH_SIZE = {2: 128, 3: 64}
# The papers' weights are for tens of thousands of updates and are reached when the learning rate is zero. In 2,000 they
# never act: weighted by the learning rate w_cps has a mean of 0.02; then its gradient is 0.5 % of the labels', the
# contrast's 0.07 % (BENCHMARKS.md).
UNLABELLED: dict[str, Any] = {"ramp": 0.5}
# From scratch a Transformer hardly learns at the thesis' 1e-4, and Swin-Unet stays 30 points of Dice behind CS-Unet
# (BENCHMARKS.md), too far to teach the network of the plans.
PAIR: dict[str, Any] = {**UNLABELLED, "lr_transformer": 1e-3, "student": "CSUNet", "pseudo_weight": 1.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "schedule": {"epochs": 20, "iterations_per_epoch": 100, "val_iterations_per_epoch": 10, "save_every": 1},
    "CSUNet": {"embed_dim": 48},
    "SwinUNet": {"embed_dim": 48},
    "MeanTeacher": {**UNLABELLED, "weight": 2.0},
    "UAMT": {**UNLABELLED, "weight": 2.0},
    "CPS": {**UNLABELLED, "pseudo_weight": 1.0},
    "CTS": PAIR,
    "MCSC": {**PAIR, "contrast_weight": 0.1, "groups": 2},
    "MCSCv2": {**PAIR, "contrast_weight": 0.1, "pool": 2048, "bank": 4096},
    "CCTR": {**PAIR, "contrast_weight": 0.1, "pool": 2048},
    "CBAL": {"discriminator_width": 16},
    "AccSeg": {"width": 16, "blocks": 4, "discriminator_width": 16, "patches": 128, "projector_width": 64},
}


def cpu(planned: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A size that learns something real on two cores.

    2D: batch 8, patch at most 128 x 128; 3D: batch 2, patch at most 64 per axis. A network of at most 5 stages with
    16, 32, 64, 128 and 128 features and the planned strides; a Transformer of embedding width 48; 20 epochs of 100
    updates. Applying it again changes nothing.

    Args:
        planned: a configuration of the plans, inheritance resolved.

    Returns:
        The configuration's keys to replace, and the settings.
    """
    architecture = deepcopy(planned["architecture"])
    kwargs = architecture["arch_kwargs"]
    before = kwargs["n_stages"]
    stages = min(before, len(FEATURES))
    for name, value in kwargs.items():
        # Lists with an entry per stage, and the decoder's, which has one stage less.
        if isinstance(value, list) and len(value) in (before, before - 1):
            kwargs[name] = value[: stages - (before - len(value))]
    kwargs |= {"n_stages": stages, "features_per_stage": list(FEATURES[:stages])}

    patch_size = planned["patch_size"]
    dim = len(patch_size)
    strides = [prod(stage[axis] for stage in kwargs["strides"]) for axis in range(dim)]
    patch_size = [
        max(stride, min(size, PATCH_SIZE[dim]) // stride * stride)
        for size, stride in zip(patch_size, strides, strict=True)
    ]
    return {"architecture": architecture, "patch_size": patch_size, "batch_size": BATCH_SIZE[dim]}, SETTINGS


PRESETS: dict[str, Callable[[dict[str, Any]], tuple[dict[str, Any], dict[str, dict[str, Any]]]]] = {"cpu": cpu}
