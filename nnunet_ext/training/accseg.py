"""AccSeg-Net: generator, discriminator and segmenter trained together (Zhou et al., MICCAI 2021)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator
from torch import Tensor, nn

from nnunet_ext.data.jitter import intensity_jitter
from nnunet_ext.losses.adversarial import AdversarialKind, discriminator_loss, generator_loss
from nnunet_ext.losses.correlation import correlation_loss
from nnunet_ext.losses.mind import MINDLoss
from nnunet_ext.losses.patchnce import patch_contrast
from nnunet_ext.networks.discriminators import PatchDiscriminator
from nnunet_ext.networks.generators import ResNetGenerator
from nnunet_ext.networks.projectors import PatchProjector
from nnunet_ext.training import checkpoint
from nnunet_ext.training.adaptation import AdaptationSettings, AdaptationTrainer
from nnunet_ext.training.backbones import Segmenter
from nnunet_ext.training.batches import Batch
from nnunet_ext.training.montage import write_montage
from nnunet_ext.training.settings import Section
from nnunet_ext.training.side import SideNetworks
from nnunet_ext.training.streams import geometric_only
from nnunet_ext.training.students import set_deep_supervision
from nnunet_ext.training.trainer import Augmentation

WIDTH = {2: 64, 3: 32}  # in 3D the published width would make an update 13 times as expensive as nnU-Net's own


class AccSegSettings(AdaptationSettings):
    """Settings of AccSeg-Net. A weight of 0 switches its term off and saves what it costs."""

    segmenter: Segmenter = Field(
        "plans",
        description="the network that predicts: of the plans, DuSEUNet (the paper's), AttentionUNet, SwinUNet, CSUNet",
    )
    width: int | None = Field(
        None, ge=1, description="channels of the generator's outermost layers; null: 64 in 2D, as published, 32 in 3D"
    )
    blocks: int = Field(9, ge=1, description="residual blocks of the generator")
    learning_rate: float = Field(2e-4, gt=0, description="of the Adams of generator and discriminator")
    intensity_range: float = Field(
        5.0, gt=0, description="normalised intensities up to it (and its negative) are translated"
    )
    adversarial_weight: float = Field(1.0, ge=0, description="lambda_1 of eq. 7")
    identity_weight: float = Field(1.0, ge=0, description="lambda_2 of eq. 7")
    segmentation_weight: float = Field(
        1.0, ge=0, description="lambda_3 of eq. 7; also what the segmenter itself learns from"
    )
    contrast_weight: float = Field(1.0, ge=0, description="lambda_4 of eq. 7: patch contrast (PCT)")
    correlation_weight: float = Field(1.0, ge=0, description="lambda_5 lambda_cc of eqs. 6 and 7 (CC)")
    mind_weight: float = Field(1.0, ge=0, description="lambda_5 lambda_mind of eqs. 6 and 7 (MIND)")
    adversarial: AdversarialKind = Field("lsgan", description="least squares or hinge")
    signed_correlation: bool = Field(False, description="1 - r, which forbids inverted contrast, in place of 1 - r^2")
    patches: int = Field(256, ge=2, description="positions contrasted per image and layer")
    temperature: float = Field(0.07, gt=0, description="alpha of eq. 5")
    projector_width: int = Field(256, ge=1, description="channels of the projected features")
    mind_region: int = Field(9, ge=1, description="edge of MIND's non-local region, pixels; odd")
    mind_patch: int = Field(7, ge=1, description="edge of the patches that MIND compares, pixels; odd")
    mind_neighbourhood: int = Field(
        3, ge=1, description="edge of the neighbourhood of MIND's local variance, pixels; odd"
    )
    mind_sigma: float = Field(3.0, gt=0, description="of the patches' Gaussian weight, pixels")
    mind_normalisation: Literal["sum", "max"] = Field(
        "sum", description="Z of eq. 6: the sum as published, the maximum as printed"
    )
    mind_slices: int = Field(8, ge=1, description="slices of an update that MIND looks at, drawn at random")
    jitter: float = Field(
        0.25, ge=0, description="gamma, sensitivity, contrast, brightness of translations, changed before segmenting"
    )
    noise: float = Field(
        0.1, ge=0, description="largest noise added to translations before segmenting, in their standard deviations"
    )
    images_every: int = Field(5, ge=1, description="epochs between two translations.png")

    @field_validator("mind_region", "mind_patch", "mind_neighbourhood")
    @classmethod
    def _odd(cls, edge: int) -> int:
        if edge % 2 == 0:
            raise ValueError("an odd edge length is needed")
        return edge


class AccSegTrainer(AdaptationTrainer):
    """The segmenter is nnU-Net's network of the run; the others only train it."""

    section: ClassVar[str] = "AccSeg"
    Settings: ClassVar[type[Section]] = AccSegSettings
    network_setting: ClassVar[str] = "segmenter"

    # Networks.

    def build_side_networks(self) -> None:
        s, channels, dims = self.settings, self.num_input_channels, len(self.configuration_manager.patch_size)
        width = s.width or WIDTH[dims]
        generator = ResNetGenerator(channels, channels, width, s.blocks, spatial_dims=dims, stride=self.stride)
        networks: dict[str, nn.Module] = {"generator": generator}
        if s.contrast_weight > 0:
            networks["projector"] = PatchProjector(generator.feature_channels, s.projector_width)
        self.translator = SideNetworks(networks, s.learning_rate, self.device)
        self.judge: SideNetworks | None = None
        if s.adversarial_weight > 0:
            judge = PatchDiscriminator(
                channels, s.discriminator_width, self.layers, spatial_dims=dims, stride=self.stride
            )
            self.judge = SideNetworks({"discriminator": judge}, s.learning_rate, self.device)
        self.mind = MINDLoss(s.mind_region, s.mind_patch, s.mind_neighbourhood, s.mind_sigma, s.mind_normalisation)
        self._shown: tuple[Tensor, Tensor, Tensor] | None = None

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        set_deep_supervision(checkpoint.unwrap(self.network), enabled and self.enable_deep_supervision)

    def training_state(self) -> dict[str, Any]:
        return {
            "translator": self.translator.state_dict(),
            "discriminator": None if self.judge is None else self.judge.state_dict(),
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        self.translator.load_state_dict(state["translator"])
        if self.judge is not None:
            self.judge.load_state_dict(checkpoint.part(state, "discriminator", "AccSeg.adversarial_weight"))

    # Data.

    def augmentation(self) -> Augmentation:
        """nnU-Net's spatial augmentation only: the generator is to learn a scanner's look, not that of noise and blur.

        What makes the segmenter robust, `jitter`, comes after the translation.
        """
        whole = super().augmentation()
        return Augmentation(
            whole.initial_patch_size,
            geometric_only(whole.training),
            geometric_only(whole.unlabelled),
            whole.validation,
        )

    # Training.

    def train_step(self, batch: Batch) -> dict[str, Any]:
        s = self.settings
        images, target, labelled = self.to_device(batch)
        images = (images / s.intensity_range).clamp(-1, 1)
        source, scans = images[:labelled], images[labelled:]
        generator = self.translator["generator"]
        with self.autocast():
            fake, features = generator.forward_all(source)
            logits = self.network(intensity_jitter(fake.float() * s.intensity_range, s.jitter, s.noise))
            terms: dict[str, float | Tensor] = {
                "segmentation": self.supervised([logits] if isinstance(logits, Tensor) else logits, target)
            }
            loss = s.segmentation_weight * terms["segmentation"]
            for weight, name, term in (
                (s.adversarial_weight, "adversarial", lambda: self.fooled(fake)),
                (s.identity_weight, "identity", lambda: (generator(scans).float() - scans).square().mean()),
                (
                    s.contrast_weight,
                    "patch_contrast",
                    lambda: self.patch_contrast(features, generator.forward_features(fake)),
                ),
                (s.correlation_weight, "correlation", lambda: correlation_loss(source, fake, s.signed_correlation)),
                (s.mind_weight, "mind", lambda: self.mind_loss(source, fake)),
            ):
                if weight > 0:
                    terms[name] = term()
                    loss = loss + weight * terms[name]
        self.translator.set_rate(self.rate_factor)
        self.update(loss, [self.network, generator], [self.translator.networks], [self.translator.optimizer])
        if self.judge is not None:
            terms["discriminator"] = self.teach_judge(scans, fake.detach())
        self._shown = source[:4], fake[:4].detach(), scans[:4]
        self.log_terms(loss=loss, **terms)
        return {"loss": loss.detach().cpu().numpy()}

    def fooled(self, fake: Tensor) -> Tensor:
        """How real the discriminator finds translations, eq. 1 in its least-squares form."""
        assert self.judge is not None
        with self.judge.frozen():
            return generator_loss(self.judge["discriminator"](fake).float(), self.settings.adversarial)

    def patch_contrast(self, source: list[Tensor], fake: list[Tensor]) -> Tensor:
        """Eq. 4 over the generator's own features of an image and of its translation."""
        s = self.settings
        return patch_contrast(source, fake, self.translator["projector"], patches=s.patches, temperature=s.temperature)

    def mind_loss(self, source: Tensor, fake: Tensor) -> Tensor:
        """The MIND part of eq. 6 on some slices; all of a 3D patch would not fit into any memory."""
        if source.ndim == 5:
            source, fake = (x.transpose(1, 2).flatten(0, 1) for x in (source, fake))
        return self.mind.of_some(source, fake, self.settings.mind_slices)

    def teach_judge(self, real: Tensor, fake: Tensor) -> Tensor:
        """One update of the discriminator."""
        assert self.judge is not None
        judge = self.judge["discriminator"]
        with self.autocast():
            loss = discriminator_loss(judge(real).float(), judge(fake).float(), self.settings.adversarial)
        self.judge.set_rate(self.rate_factor)
        self.judge.minimise(loss, self.grad_scaler)
        return loss.detach()

    def on_epoch_end(self) -> None:
        due = self.current_epoch % self.settings.images_every == 0 or self.current_epoch + 1 == self.num_epochs
        if self.local_rank == 0 and self._shown is not None and due:
            rows = ("source", "translation", "target")
            write_montage(Path(self.output_folder) / "translations.png", dict(zip(rows, self._shown, strict=True)))
        super().on_epoch_end()
