"""Settings of MSF-Koos-Net, the paper's values as defaults, and the small preset."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, model_validator

from nnunet_ext.errors import InputError
from nnunet_ext.training.settings import Section, assignment, read_section


class KoosSettings(Section):
    """MSF-Koos-Net (Han et al. 2022, section 3.3). Sizes and lengths are in the order slices, rows, columns."""

    seed: int = Field(0, ge=0, description="sets networks, batches and augmentation")
    classes: tuple[int, ...] = Field((1, 2, 3, 4), min_length=2, description="the grades there are, ascending")

    size: tuple[int, int, int] = Field((32, 224, 224), description="voxels of the box around the tumour")
    spacing: tuple[float, float, float] | None = Field(
        None, description="mm of its voxels; null: what the encoder was fitted on, or 1.0, 0.4102, 0.4102"
    )
    percentiles: tuple[float, float] = Field((0.5, 99.5), description="intensities in the box that become -1 and 1")

    mode: Literal["2.5d", "3d"] = Field(
        "3d", description="E_H over the stack of low-level features, or over single slabs whose features are averaged"
    )
    slabs: int = Field(8, ge=1, description="of mode 2.5d: slabs spread over the tumour's extent")
    join: Literal["concat", "gate"] = Field(
        "concat", description="the mask as one more channel (paper), or as a gate, features * sigmoid(conv(mask))"
    )
    encoder_slices: int = Field(3, ge=1, description="neighbouring slices seen by a random low-level encoder; odd")
    encoder_width: int = Field(64, ge=1, description="channels of a random low-level encoder's first layer")
    encoder_blocks: int = Field(5, ge=0, description="residual blocks of a random low-level encoder")
    train_encoder: bool = Field(False, description="pre-train the low-level encoder, too (an ablation)")
    width: int = Field(64, ge=1, description="channels of the first of E_H's four stages, which double them")
    norm: Literal["batch", "instance"] = Field("batch", description="normalisation in E_H")
    projection: int = Field(128, ge=2, description="channels of both projections")

    temperature: float = Field(0.1, gt=0, description="tau of eqs. 5 and 6")
    lambda_self: float = Field(1.0, ge=0, description="weight of eq. 5")
    lambda_supervised: float = Field(1.0, ge=0, description="weight of eq. 6")
    cases_per_grade: int = Field(2, ge=1, description="graded cases of each grade in a batch")
    ungraded_cases: int = Field(2, ge=0, description="cases without a grade in a batch of the pre-training")

    pretraining: bool = Field(True, description="contrastive pre-training; without it E_H learns with the head")
    frozen: bool = Field(True, description="E and E_H keep still while the head learns; else both learn on")
    iterations_per_epoch: int | None = Field(None, ge=1, description="updates in an epoch; null: all graded cases once")
    pretrain_epochs: int = Field(100, ge=1, description="epochs of the pre-training")
    pretrain_learning_rate: float = Field(1e-2, gt=0, description="Adam's first step in the pre-training")
    head_epochs: int = Field(20, ge=1, description="epochs of the head")
    head_learning_rate: float = Field(1e-4, gt=0, description="Adam's first step for the head")
    save_every: int = Field(1, ge=1, description="epochs between two checkpoint_latest.pth")
    amp: bool = Field(True, description="mixed precision, on a GPU only")

    mirror: bool = Field(True, description="augmentation: flips along every axis")
    shift: float = Field(0.05, ge=0, le=0.5, description="augmentation: largest shift, as a part of the box")
    rotation: float = Field(15.0, ge=0, le=180, description="augmentation: largest in-plane rotation, degrees")
    gamma: float = Field(0.3, ge=0, lt=1, description="augmentation: exponents from 1 - gamma to 1 / (1 - gamma)")
    noise: float = Field(0.05, ge=0, description="augmentation: largest standard deviation of noise in [-1, 1]")

    @model_validator(mode="after")
    def _consistent(self) -> KoosSettings:
        if any(b <= a for a, b in zip(self.classes, self.classes[1:], strict=False)):
            raise ValueError("classes must be ascending and different")
        if self.encoder_slices % 2 == 0:
            raise ValueError("encoder_slices must be odd")
        if min(self.size) < 1 or self.size[1] % 4 or self.size[2] % 4:
            raise ValueError("size must be positive, its rows and columns divisible by 4")
        if self.spacing and min(self.spacing) <= 0:
            raise ValueError("spacing must be positive")
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError("percentiles must be two increasing numbers from 0 to 100")
        return self


#: preset -> overrides; `cpu` learns something real on two cores in minutes
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "cpu": {
        "size": (12, 56, 56),
        "spacing": (2.0, 0.8, 0.8),
        "mode": "2.5d",
        "slabs": 4,
        "encoder_width": 16,
        "encoder_blocks": 2,
        "width": 16,
        "projection": 64,
        "lambda_self": 0.3,
        "ungraded_cases": 2,
        "cases_per_grade": 3,
        "iterations_per_epoch": 12,
        "pretrain_epochs": 50,
        "pretrain_learning_rate": 3e-3,
        "head_epochs": 10,
        "head_learning_rate": 1e-2,
    },
}


def build_settings(preset: str = "paper", assignments: Iterable[str] = (), **flags: Any) -> KoosSettings:
    """Settings from a preset, `key=value` assignments (values are JSON or plain text), and values of flags.

    Raises:
        InputError: for an unknown preset or key (the message names the valid ones) or a bad value.
    """
    if preset not in PRESETS:
        raise InputError(f"--preset {preset}: no such preset, one of {', '.join(PRESETS)} is needed")
    values = PRESETS[preset] | dict(map(assignment, assignments))
    return read_section({"koos": values | flags}, "koos", KoosSettings, "--set")
