"""CBAL (Kotte and Prasad 2025): selective entropy, contrast by class, boundary terms, an adversary on segmentations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from pydantic import Field
from torch import Tensor, nn

from nnunet_ext.data.fourier import mix_amplitude
from nnunet_ext.losses.adversarial import AdversarialKind, discriminator_loss, generator_loss
from nnunet_ext.losses.boundary import boundary_loss, distance_loss
from nnunet_ext.losses.entropy import reliable_labels, selective_entropy
from nnunet_ext.networks.discriminators import PatchDiscriminator
from nnunet_ext.training import checkpoint
from nnunet_ext.training.adaptation import AdaptationSettings, AdaptationTrainer
from nnunet_ext.training.backbones import Backbone, FeatureNetwork
from nnunet_ext.training.batches import Batch
from nnunet_ext.training.class_alignment import ClassAlignment, ClassAlignmentSettings
from nnunet_ext.training.distances import WithDistances
from nnunet_ext.training.ramps import gaussian_ramp
from nnunet_ext.training.settings import Section
from nnunet_ext.training.side import SideNetworks
from nnunet_ext.training.split import Cases
from nnunet_ext.training.students import set_deep_supervision
from nnunet_ext.training.trainer import Augmentation


class CBALSettings(AdaptationSettings, ClassAlignmentSettings):
    """Settings of CBAL. A weight of 0 switches its term off and saves what it costs."""

    backbone: Backbone = Field("plans", description="the network: that of the plans, CSUNet, SwinUNet or DeepLab")
    supervised_weight: float = Field(
        1.0, ge=0, description="lambda_1 of eq. 7: nnU-Net's loss on labelled source patches"
    )
    boundary_weight: float = Field(0.5, ge=0, description="lambda_2 of eq. 7: squared error on boundaries, eq. 6")
    truth_boundary_weight: float = Field(1.0, ge=0, description="lambda_boundary of eq. 6")
    distance_weight: float = Field(0.005, ge=0, description="of the signed-distance penalty, per mm")
    entropy_weight: float = Field(0.1, ge=0, description="of the selective entropy, eq. 3")
    adversarial_weight: float = Field(0.003, ge=0, description="lambda_4 of eq. 7")
    agreement: float = Field(0.1, gt=0, le=1, description="tau of eq. 3: probabilities of two views differ by less")
    certainty: float = Field(0.1, gt=0, le=1, description="highest entropy of a pseudo-label, share of log K")
    mix: float = Field(0.8, ge=0, le=1, description="mu of eq. 1")
    low_frequencies: float = Field(0.05, ge=0, le=0.5, description="V of eq. 1: abs(frequency) up to it, in 1/pixel")
    source_views: float = Field(
        0.5, ge=0, le=1, description="share of source patches that take a target's amplitude; 0 in the paper"
    )
    adversarial: AdversarialKind = Field("lsgan", description="least squares or hinge")
    adversarial_real: Literal["prediction", "label"] = Field(
        "prediction",
        description="what the discriminator holds for real: predictions of source patches, or their labels",
    )
    discriminator_rate: float = Field(1e-4, gt=0, description="learning rate of the discriminator's Adam")
    ramp: float = Field(
        0.5, ge=0, le=1, description="part of the training in which all terms but the supervised rise to their weights"
    )


class CBALTrainer(AdaptationTrainer):
    """One network for both domains; two views of every target patch."""

    section: ClassVar[str] = "CBAL"
    Settings: ClassVar[type[Section]] = CBALSettings
    network_setting: ClassVar[str] = "backbone"

    # Networks.

    def initialize(self) -> None:
        # nnU-Net asks the same method for the network that it trains and for the one that it predicts with.
        self.build_network_architecture = self._build_with_features  # type: ignore[method-assign]
        super().initialize()

    def build_side_networks(self) -> None:
        self.judge: SideNetworks | None = None
        if self.settings.adversarial_weight > 0:
            judge = PatchDiscriminator(
                self.classes,
                self.settings.discriminator_width,
                self.layers,
                spatial_dims=len(self.configuration_manager.patch_size),
                stride=self.stride,
            )
            self.judge = SideNetworks({"discriminator": judge}, self.settings.discriminator_rate, self.device)
        self.alignment: ClassAlignment | None = None
        if self.settings.contrast_weight > 0 or self.settings.region_weight > 0:
            self.alignment = ClassAlignment(self.settings, self.featured.channels, self.classes).to(self.device)

    def _build_with_features(
        self,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> FeatureNetwork:
        network = type(self).build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        return FeatureNetwork(network, self.settings.scales)

    @property
    def featured(self) -> FeatureNetwork:
        """The network with its features, without DDP or `torch.compile` around it."""
        network = checkpoint.unwrap(self.network)
        assert isinstance(network, FeatureNetwork)
        return network

    def inference_module(self) -> nn.Module:
        return self.featured.network

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        # While it predicts, `self.network` is the network without its features.
        for module in checkpoint.unwrap(self.network).modules():
            set_deep_supervision(module, enabled and self.enable_deep_supervision)

    def training_state(self) -> dict[str, Any]:
        return {"discriminator": None if self.judge is None else self.judge.state_dict()}

    def load_training_state(self, state: dict[str, Any]) -> None:
        if self.judge is not None:
            self.judge.load_state_dict(checkpoint.part(state, "discriminator", "CBAL.adversarial_weight"))

    def rank_state(self) -> dict[str, Any]:
        """The prototypes, which follow what each process has seen."""
        return {} if self.alignment is None else dict(self.alignment.state_dict())

    def load_rank_state(self, state: dict[str, Any]) -> None:
        if self.alignment is not None:
            own = dict(self.alignment.named_buffers())
            self.alignment.load_state_dict({name: checkpoint.part(state, name, "CBAL.prototypes") for name in own})

    # Data.

    def training_batches(self, cases: Cases, augmentation: Augmentation) -> Callable[[], Batch]:
        batches = super().training_batches(cases, augmentation)
        if self.settings.distance_weight == 0:
            return batches
        spacing = self.configuration_manager.spacing
        return WithDistances(batches, [float(s) for s in spacing], self.classes)

    # Training.

    def train_step(self, batch: Batch) -> dict[str, Any]:
        s = self.settings
        images, target, labelled = self.to_device(batch)
        images = self.views(images[:labelled], images[labelled:])
        with self.autocast():
            logits, features = self.network(images)
            source, scans = logits[0][:labelled], logits[0][labelled:].split(len(batch["unlabelled"]))
            strength = gaussian_ramp(self.iteration, s.ramp * self.updates)
            loss, terms = self.source_terms([level[:labelled] for level in logits], target, batch, strength)
            if len(scans) == 2:
                more, values = self.pair_terms(scans, features, target[0][:, 0], labelled)
                loss = loss + strength * more
                terms |= values
            if self.judge is not None:
                maps = scans[0].float().softmax(1)
                with self.judge.frozen():
                    fooled = generator_loss(self.judge["discriminator"](maps).float(), s.adversarial)
                loss = loss + strength * s.adversarial_weight * fooled
                terms |= {"adversarial": fooled}
        self.update(loss, [self.inference_module()])
        if self.judge is not None:
            terms["discriminator"] = self.teach_judge(source, target[0][:, 0], scans[0])
        self.log_terms(loss=loss, target_strength=strength, **terms)
        return {"loss": loss.detach().cpu().numpy()}

    def views(self, source: Tensor, scans: Tensor) -> Tensor:
        """What goes through the network: source patches, then the target's first and second views, as far as needed.

        The first view is nnU-Net's augmentation (the paper's random transformations), the second the same patch with
        a random source patch's low-frequency amplitude (eqs. 1 and 2), so that they match voxel by voxel.
        """
        s = self.settings
        used = [source]
        if s.source_views > 0:
            chosen = (torch.rand(len(source), device=self.device) < s.source_views).to(source.dtype)
            partners = scans[self.draw(len(source), len(scans))]
            used = [mix_amplitude(source, partners, s.mix * chosen, s.low_frequencies)]
        pair = s.entropy_weight > 0 or self.alignment is not None
        if pair or self.judge is not None:
            used.append(scans)
        if pair:
            used.append(mix_amplitude(scans, source[self.draw(len(scans), len(source))], s.mix, s.low_frequencies))
        return torch.cat(used)

    def source_terms(
        self, logits: list[Tensor], target: list[Tensor], batch: Batch, strength: float
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        """What the labels say: nnU-Net's loss, and rising with `strength` eq. 6 and the signed-distance penalty.

        At their full weight from the start the two would drive a network that knows nothing yet to background: most of
        a patch lies far outside of every structure.
        """
        s = self.settings
        terms: dict[str, float | Tensor] = {"supervised": self.supervised(logits, target)}
        loss = s.supervised_weight * terms["supervised"]
        labels = target[0][:, 0]
        if s.boundary_weight > 0 or s.distance_weight > 0:
            probabilities = logits[0].float().softmax(1)
        if s.boundary_weight > 0:
            terms["boundary"] = boundary_loss(probabilities, labels, s.truth_boundary_weight)
            loss = loss + strength * s.boundary_weight * terms["boundary"]
        if s.distance_weight > 0:
            distances = batch["distances"].to(self.device, non_blocking=True)
            terms["distance_mm"] = distance_loss(probabilities, labels, distances)
            loss = loss + strength * s.distance_weight * terms["distance_mm"]
        return loss, terms

    def pair_terms(
        self, scans: tuple[Tensor, ...], features: list[Tensor], labels: Tensor, labelled: int
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        """What two views of the target say: eq. 3, and eqs. 4 and 5 with pseudo-labels from what they agree on."""
        s = self.settings
        first, second = scans
        loss = first.new_zeros((), dtype=torch.float32)
        terms: dict[str, float | Tensor] = {}
        if s.entropy_weight > 0:
            terms["entropy"] = selective_entropy(first, second, s.agreement)
            loss = loss + s.entropy_weight * terms["entropy"]
        if self.alignment is not None:
            pseudo = reliable_labels(first, second, s.agreement, s.certainty)
            terms["reliable"] = (pseudo >= 0).float().mean()
            known = torch.where((labels >= 0) & (labels < self.classes), labels.long(), -1)
            more, values = self.alignment(features, torch.cat((known, pseudo, pseudo)), labelled)
            loss = loss + more
            terms |= values
        return loss, terms

    def teach_judge(self, source: Tensor, labels: Tensor, scans: Tensor) -> Tensor:
        """One update of the discriminator: source maps are real, target maps are not."""
        assert self.judge is not None
        with self.autocast():
            real, fake = (x.detach().float().softmax(1) for x in (source, scans))
            if self.settings.adversarial_real == "label":
                known = (labels >= 0) & (labels < self.classes)
                truth = nn.functional.one_hot(torch.where(known, labels, 0).long(), self.classes).movedim(-1, 1)
                # What nobody labelled is neither background nor anything else.
                real = torch.where(known[:, None], truth.float(), real)
            judge = self.judge["discriminator"]
            loss = discriminator_loss(judge(real).float(), judge(fake).float(), self.settings.adversarial)
        self.judge.set_rate(self.rate_factor)
        self.judge.minimise(loss, self.grad_scaler)
        return loss.detach()
