"""Two students that teach each other: CPS, CTS, and with a contrastive term MCSC and MCSCv2."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from pydantic import Field
from torch import Tensor, nn

from nnunet_ext.errors import InputError
from nnunet_ext.losses.consistency import PseudoLoss, cross_pseudo_loss
from nnunet_ext.training import checkpoint
from nnunet_ext.training.batches import Batch
from nnunet_ext.training.certainty_contrast import CertaintyContrast, CertaintySettings
from nnunet_ext.training.contrast import Contrast, PatchContrast, PatchSettings, cross_labelled
from nnunet_ext.training.fewlabel import FewLabelSettings, FewLabelTrainer, certain_share, mean_dice
from nnunet_ext.training.lr import WarmupPoly
from nnunet_ext.training.settings import Section, configuration_settings
from nnunet_ext.training.students import (
    Architecture,
    Inference,
    LogitMean,
    Output,
    StudentPair,
    build_student,
    predictor,
    set_deep_supervision,
)


class CrossTeachingSettings(FewLabelSettings):
    """Settings of every method with two students; the defaults are those of CTS in the thesis."""

    first: Architecture = Field("plans", description="the first student: network of the plans, SwinUNet or CSUNet")
    student: Architecture = Field("SwinUNet", description="the second student")
    inference: Inference = Field("first", description="who predicts: first, second, or the mean of both logits")
    pseudo_loss: PseudoLoss = Field("dice", description="loss against the other's labels: dice, ce or dice_ce")
    pseudo_weight: float = Field(0.1, ge=0, description="w_cps, reached by a Gaussian ramp")
    lr_transformer: float = Field(1e-4, gt=0, description="learning rate of a Transformer")


class CPSSettings(CrossTeachingSettings):
    """Settings of Cross Pseudo Supervision (Chen et al., CVPR 2021): two networks of the plans, cross-entropy."""

    student: Architecture = Field("plans", description="the second student")
    pseudo_loss: PseudoLoss = Field("ce", description="loss against the other's labels: dice, ce or dice_ce")


class MCSCSettings(CrossTeachingSettings, PatchSettings):
    """Settings of MCSC (chapter 4)."""


class MCSCv2Settings(CrossTeachingSettings, CertaintySettings):
    """Settings of MCSCv2 (chapter 5)."""


class CrossTeachingTrainer(FewLabelTrainer):
    """Each student learns from the labels and, on unlabelled images, from the other's predictions (CTS).

    With a `contrast` there is a contrastive term on their features. It enters once, as in either of the thesis' two
    sums, and not twice as in the published code, which adds the sums up.
    """

    section: ClassVar[str] = "CTS"
    Settings: ClassVar[type[Section]] = CrossTeachingSettings
    contrast_class: ClassVar[type[Contrast] | None] = None

    # Networks.

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network that predicts: a student, or both."""
        settings: Any = configuration_settings(plans_manager, configuration_manager, cls.section, cls.Settings)

        def build(architecture: Architecture) -> nn.Module:
            return build_student(
                architecture,
                plans_manager,
                configuration_manager,
                num_input_channels,
                num_output_channels,
                enable_deep_supervision,
            )

        if settings.inference == "mean":
            return LogitMean(build(settings.first), build(settings.student))
        return build(settings.first if settings.inference == "first" else settings.student)

    def initialize(self) -> None:
        # nnU-Net asks the same method for the network that it trains and for the one that it predicts with.
        self.build_network_architecture = self._build_pair  # type: ignore[method-assign]
        super().initialize()

    def _build_pair(
        self,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> StudentPair:
        first, second = (
            build_student(
                architecture,
                plans_manager,
                configuration_manager,
                num_input_channels,
                num_output_channels,
                enable_deep_supervision,
            )
            for architecture in (self.settings.first, self.settings.student)
        )
        contrasted = self.contrast_class is not None and self.settings.contrast_weight > 0
        pair = StudentPair(first, second, self.settings.scales if contrasted else ())
        self.contrast: Contrast | None = None
        if self.contrast_class is not None and contrasted:
            self.contrast = self.contrast_class(self.settings, pair.channels, num_output_channels).to(self.device)
        return pair

    @property
    def pair(self) -> StudentPair:
        """Both students, without DDP or `torch.compile` around them."""
        pair = checkpoint.unwrap(self.network)
        assert isinstance(pair, StudentPair)
        return pair

    def inference_module(self) -> nn.Module:
        return predictor(self.pair, self.settings.inference)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        for module in checkpoint.unwrap(self.network).modules():
            set_deep_supervision(module, enabled and self.enable_deep_supervision)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupPoly]:
        """AdamW with a learning rate for each kind of student; the projectors learn with the first one's."""
        rates = {"plans": self.settings.lr_plans}
        parts: list[tuple[nn.Module, str]] = [
            (self.pair.first, self.settings.first),
            (self.pair.second, self.settings.student),
        ]
        if self.contrast is not None:
            parts.append((self.contrast, self.settings.first))
        groups = [
            {"params": list(part.parameters()), "lr": rates.get(kind, self.settings.lr_transformer)}
            for part, kind in parts
        ]
        return self.adamw(groups)

    def training_state(self) -> dict[str, Any]:
        return {} if self.contrast is None else {"projectors": self.contrast.state_dict()}

    def load_training_state(self, state: dict[str, Any]) -> None:
        if self.contrast is not None:
            projectors = checkpoint.part(state, "projectors", f"{self.section}.contrast_weight")
            checkpoint.load_weights(self.contrast, projectors, "the checkpoint's projectors")

    def rank_state(self) -> dict[str, Any]:
        return {} if self.contrast is None else self.contrast.memory()

    def load_rank_state(self, state: dict[str, Any]) -> None:
        if self.contrast is None:
            return
        try:
            self.contrast.load_memory(state)
        except ValueError as error:
            raise InputError(f"{self.section}.bank: {error}, the setting that it was trained with is needed") from None

    # Training.

    def train_step(self, batch: Batch) -> dict[str, Any]:
        images, target, labelled = self.to_device(batch)
        with self.autocast():
            outputs = self.network(images)
            loss, terms = self.objective(outputs, target, labelled, batch)
        outside = [] if self.contrast is None else [self.contrast]
        self.update(loss, [self.pair.first, self.pair.second], outside)
        self.log_terms(loss=loss, **terms)
        return {"loss": loss.detach().cpu().numpy()}

    def objective(
        self, outputs: tuple[Output, Output], target: list[Tensor], labelled: int, batch: Batch
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The sum of all terms and each term by itself (sections 4.3.3, 5.3.4, eq. 6.6).

        Args:
            outputs: of both students for labelled and unlabelled images, in this order.
            target: of the labelled ones, full resolution first.
            labelled: how many are labelled.
            batch: as it came from the loader.
        """
        terms: dict[str, float | Tensor] = {}
        loss = outputs[0].logits[0].new_zeros((), dtype=torch.float32)
        for name, output in zip(("first", "second"), outputs, strict=True):
            terms[f"certain_{name}"] = certain_share(output.logits[0][labelled:].detach().float().softmax(1))
            terms[f"supervised_{name}"] = own = self.supervised([level[:labelled] for level in output.logits], target)
            loss = loss + own
        weight = self.ramped(self.settings.pseudo_weight)
        if weight > 0:
            first, second = (output.logits[0][labelled:] for output in outputs)
            pseudo = cross_pseudo_loss(first, second, self.settings.pseudo_loss)
            loss = loss + weight * (pseudo[0] + pseudo[1])
            terms |= {"pseudo_first": pseudo[0], "pseudo_second": pseudo[1], "pseudo_weight": weight}
        if self.contrast is not None:
            pixels = cross_labelled(
                (outputs[0].features, outputs[1].features),
                (outputs[0].logits[0], outputs[1].logits[0]),
                target[0][:, 0],
                self.classes,
                self.settings.cross_labels,
                self.image_facts(batch),
            )
            contrast, more = self.contrast(pixels, self.progress)
            loss = loss + self.settings.contrast_weight * contrast
            terms |= {"contrast": contrast, **more}
        return loss, terms

    def image_facts(self, batch: Batch) -> dict[str, Tensor]:
        """What a contrast needs to know of each image beside its pixels. Here: nothing."""
        return {}

    # Validation.

    def validation_step(self, batch: Batch) -> dict[str, Any]:
        """Loss and Dice counts of the network that predicts, and Dice counts of each student."""
        target = batch["target"][0] if isinstance(batch["target"], list) else batch["target"]
        target = target.to(self.device, non_blocking=True)
        with self.autocast():
            first, second = (o.logits[0] for o in self.network(batch["data"].to(self.device, non_blocking=True)))
            logits = {"first": first, "second": second, "mean": (first + second) / 2}[self.settings.inference]
            loss = self.full_loss(logits, target)
        counted = {"loss": loss.cpu().numpy(), **self.counts(logits.argmax(1), target)}
        for name, student in (("first", first), ("second", second)):
            counted |= {f"{k}_{name}": v for k, v in self.counts(student.argmax(1), target).items()}
        return counted

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        super().on_validation_epoch_end(val_outputs)
        for name in ("first", "second"):
            self.log_terms(**{f"pseudo_label_dice_{name}": mean_dice(val_outputs, f"hard_{name}")})


class CPSTrainer(CrossTeachingTrainer):
    """Cross Pseudo Supervision: two networks of the plans that differ in their initial weights."""

    section: ClassVar[str] = "CPS"
    Settings: ClassVar[type[Section]] = CPSSettings


class MCSCTrainer(CrossTeachingTrainer):
    """Cross teaching with the multi-scale cross contrastive term (chapter 4)."""

    section: ClassVar[str] = "MCSC"
    Settings: ClassVar[type[Section]] = MCSCSettings
    contrast_class: ClassVar[type[Contrast] | None] = PatchContrast


class MCSCv2Trainer(CrossTeachingTrainer):
    """Cross teaching with the certainty-guided contrastive term (chapter 5)."""

    section: ClassVar[str] = "MCSCv2"
    Settings: ClassVar[type[Section]] = MCSCv2Settings
    contrast_class: ClassVar[type[Contrast] | None] = CertaintyContrast
