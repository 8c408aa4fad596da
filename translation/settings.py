"""Settings of the translation methods: one class each, papers' values as defaults, and the small preset."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from nnunet_ext.training.settings import Section


class VolumeSettings(Section):
    """How scans are brought to the grid and scale that a network sees; every step is recorded with the model."""

    orientation: str | None = Field(None, pattern="^[RLAPIS]{3}$", description="e.g. LPS; else as stored")
    through_plane: Literal["auto", 0, 1, 2] = Field("auto", description="axis (x, y, z) across slices; auto: coarsest")
    spacing: tuple[float | None, float | None, float | None] | None = Field(
        None, description="mm, two in-plane axes and across slices; null keeps; without it the coarser in-plane median"
    )
    histogram_matching: bool = Field(False, description="match each scan to its own cohort's mean histogram")
    atlas: str | None = Field(None, description="case of the target that all scans are registered to (affine)")
    roi: Literal["labels", "all"] = Field("labels", description="where crops and percentiles come from")
    roi_margin: float = Field(20.0, ge=0, description="mm around the labels' extent")
    percentiles: tuple[float, float] = Field((0.5, 99.5), description="intensities that become -1 and 1")

    @model_validator(mode="after")
    def _ordered(self) -> VolumeSettings:
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError("percentiles must be two increasing numbers from 0 to 100")
        if self.orientation and sorted("RLAPIS".index(side) // 2 for side in self.orientation) != [0, 1, 2]:
            raise ValueError("orientation must name one side of each axis, such as LPS")
        if self.spacing and any(s is not None and s <= 0 for s in self.spacing):
            raise ValueError("spacing must be positive")
        return self


class HistogramSettings(VolumeSettings):
    """Histogram matching only: no network, nothing to fit."""

    histogram_matching: bool = Field(True, description="match each scan to its own cohort's mean histogram first")


class TranslationSettings(VolumeSettings):
    """What all learned methods share."""

    seed: int = Field(0, ge=0, description="sets networks, batches and sampling")
    epochs: int = Field(200, ge=1, description="number of epochs")
    iterations_per_epoch: int | None = Field(
        None, ge=1, description="updates in an epoch; null: all source slices once"
    )
    batch_size: int = Field(4, ge=1, description="pairs of slabs per update and process")
    learning_rate: float = Field(2e-4, gt=0, description="Adam's step, beta 0.5 and 0.999")
    constant_epochs: float = Field(0.5, ge=0, le=1, description="part of the epochs before the linear decay to 0")
    slices: int = Field(3, ge=1, description="neighbouring slices that the network sees and writes (2.5D); odd")
    crop: tuple[int, int] = Field((256, 256), description="pixels of a training crop (rows, columns)")
    flips: bool = Field(True, description="random mirroring of every axis, image and label together")
    width: int = Field(64, ge=1, description="channels of the generator's outermost layers")
    blocks: int = Field(9, ge=1, description="residual blocks")
    antialias: bool = Field(False, description="blur before each halving of the resolution")
    discriminator_width: int = Field(64, ge=1, description="channels of the discriminator's first layer")
    discriminator_layers: int = Field(3, ge=1, description="halvings in the discriminator")
    adversarial: Literal["lsgan", "hinge"] = Field("lsgan", description="least squares or hinge")
    lambda_adversarial: float = Field(1.0, ge=0, description="weight of the adversarial loss")
    lambda_mind: float = Field(0.0, ge=0, description="weight of MIND between source and translation; 0 is off")
    lambda_correlation: float = Field(0.0, ge=0, description="weight of 1 - r^2 of source and translation; 0 is off")
    amp: bool = Field(True, description="mixed precision on a GPU")
    bfloat16: bool = Field(False, description="mixed precision on a CPU that computes bfloat16 natively")
    save_every: int = Field(1, ge=1, description="epochs between two checkpoint_latest.pth")
    images_every: int = Field(5, ge=1, description="epochs between two image grids")

    @model_validator(mode="after")
    def _sizes(self) -> TranslationSettings:
        if self.slices % 2 == 0:
            raise ValueError("slices must be odd")
        if min(self.crop) < 8 * 2**self.discriminator_layers:
            raise ValueError(f"crop must have at least {8 * 2**self.discriminator_layers} pixels each way")
        return self


class CycleGANSettings(TranslationSettings):
    """CycleGAN (Zhu et al. 2017; TANQ eqs. 11-12)."""

    lambda_cycle: float = Field(10.0, ge=0, description="weight of eq. 11")
    lambda_identity: float = Field(0.5, ge=0, description="weight of |G(t) - t|, times lambda_cycle")
    pool: int = Field(50, ge=0, description="generated images kept for the discriminators")


class CUTSettings(TranslationSettings):
    """CUT (Park et al. 2020)."""

    epochs: int = Field(400, ge=1, description="number of epochs")
    antialias: bool = Field(True, description="blur before each halving of the resolution")
    patches: int = Field(256, ge=2, description="positions contrasted per layer")
    temperature: float = Field(0.07, gt=0, description="of PatchNCE")
    projector_width: int = Field(256, ge=1, description="channels of the projected features")
    attention_layers: tuple[int, ...] = Field((), description="of the five layers, those where QS-Attn selects")
    lambda_nce: float = Field(1.0, ge=0, description="weight of the contrastive losses")
    identity: bool = Field(True, description="also contrast real target images with their translation")

    @model_validator(mode="after")
    def _layers(self) -> CUTSettings:
        if not set(self.attention_layers) <= set(range(5)):
            raise ValueError("attention_layers must be among 0 to 4")
        return self


class QSAttnSettings(CUTSettings):
    """QS-Attn (Hu et al. 2022): CUT with positions selected in the last two layers."""

    attention_layers: tuple[int, ...] = Field((3, 4), description="of the five layers, those where QS-Attn selects")


class TANQSettings(QSAttnSettings):
    """TANQ: QS-Attn with target-aware normalisation and a decoder that segments."""

    blocks: int = Field(6, ge=1, description="residual blocks")
    region_normalised: tuple[str, ...] | None = Field(
        None, description="labels normalised by themselves (the paper's cochlea); null: all that are not restyled"
    )
    restyled: tuple[str, ...] = Field((), description="labels that take the style of the rest (the paper's VS)")
    min_pixels: float = Field(
        4.0, ge=1, description="regions of fewer pixels of a feature map share the whole map's statistics"
    )
    lambda_segmentation: float = Field(1.0, ge=0, description="weight of eq. 8")


class MSFNetSettings(TranslationSettings):
    """MSF-Net: one encoder, a decoder per modality, reconstruction, cycle and proxy segmentation."""

    epochs: int = Field(1000, ge=1, description="number of epochs")
    batch_size: int = Field(1, ge=1, description="pairs of slabs per update and process")
    decoder_blocks: int = Field(4, ge=0, description="of `blocks`, those in each decoder instead of the encoder")
    lambda_reconstruction: float = Field(10.0, ge=0, description="lambda_r of eq. 1")
    lambda_perceptual: float = Field(0.01, ge=0, description="lambda_p of eq. 1, with `vgg19` only")
    lambda_cycle: float = Field(10.0, ge=0, description="weight of eq. 3")
    lambda_segmentation: float = Field(1.0, ge=0, description="weight of eq. 4")
    smooth_l1: bool = Field(False, description="smooth L1 instead of L1 in eqs. 1 and 3")
    vgg19: str | None = Field(None, description="file with torchvision's VGG19 weights; without it no perceptual loss")
    label_folders: dict[str, str] = Field({}, description="further label sets of the source, name -> folder")
    pool: int = Field(50, ge=0, description="generated images kept for the discriminators")

    @model_validator(mode="after")
    def _split(self) -> MSFNetSettings:
        if self.decoder_blocks >= self.blocks:
            raise ValueError("decoder_blocks must be fewer than blocks")
        # What the decoders give back is compared with the crop pixel by pixel.
        if any(edge % 4 for edge in self.crop):
            raise ValueError("crop must be a multiple of 4 pixels each way")
        return self


_CPU = {
    "epochs": 20,
    "iterations_per_epoch": 50,
    "batch_size": 2,
    "crop": (128, 128),
    "width": 16,
    "blocks": 4,
    # Transposed convolutions need more updates than these to lose their checkerboard.
    "antialias": True,
    "discriminator_width": 32,
    "discriminator_layers": 2,
    "amp": False,
    # What the tables of BENCHMARKS.md were measured with.
    "min_pixels": 16.0,
}
_CPU_CONTRAST = {"patches": 128, "projector_width": 64}

#: preset -> overrides; those that a method does not have are left out
PRESETS: dict[str, dict[str, Any]] = {"paper": {}, "cpu": {**_CPU, **_CPU_CONTRAST, "decoder_blocks": 2}}
