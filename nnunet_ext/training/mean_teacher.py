"""Mean Teacher (Tarvainen and Valpola, NeurIPS 2017) and its uncertainty-aware form, UA-MT (Yu et al., MICCAI 2019)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nnunet_ext.losses.consistency import consistency_loss, trusted_mask
from nnunet_ext.training import checkpoint
from nnunet_ext.training.batches import Batch
from nnunet_ext.training.ema import Teacher
from nnunet_ext.training.fewlabel import FewLabelSettings, FewLabelTrainer, certain_share
from nnunet_ext.training.lr import WarmupPoly
from nnunet_ext.training.ramps import gaussian_ramp
from nnunet_ext.training.settings import Section
from nnunet_ext.training.students import full_resolution, set_deep_supervision


class MeanTeacherSettings(FewLabelSettings):
    """Settings of Mean Teacher."""

    decay: float = Field(0.99, ge=0, lt=1, description="alpha of the teacher's moving average")
    weight: float = Field(0.1, ge=0, description="of the consistency, reached by a Gaussian ramp")
    noise: float = Field(
        0.1, ge=0, description="standard deviation of the noise on the teacher's images, at most twice it"
    )
    inference: Literal["teacher", "student"] = Field("teacher", description="which of the two predicts")


class UAMTSettings(MeanTeacherSettings):
    """Settings of UA-MT."""

    passes: int = Field(8, ge=2, description="noisy passes of the teacher that the uncertainty is taken from")
    trust: float = Field(0.75, gt=0, le=1, description="share of the largest entropy trusted at first; rises to 1")


class MeanTeacherTrainer(FewLabelTrainer):
    """The student agrees with a moving average of itself on unlabelled images."""

    section: ClassVar[str] = "MeanTeacher"
    Settings: ClassVar[type[Section]] = MeanTeacherSettings

    def build_side_networks(self) -> None:
        student = checkpoint.unwrap(self.network)

        def build() -> nn.Module:
            return self.build_network_architecture(
                self.plans_manager,
                self.configuration_manager,
                self.num_input_channels,
                self.classes,
                self.enable_deep_supervision,
            ).to(self.device)

        self.teacher = Teacher(student, build, self.settings.decay)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupPoly]:
        """AdamW, as the students of the other methods have it."""
        return self.adamw([{"params": list(self.network.parameters()), "lr": self.settings.lr_plans}])

    def inference_module(self) -> nn.Module:
        return self.teacher.network if self.settings.inference == "teacher" else checkpoint.unwrap(self.network)

    def training_state(self) -> dict[str, Any]:
        return {"teacher": self.teacher.network.state_dict()}

    def load_training_state(self, state: dict[str, Any]) -> None:
        self.teacher.network.load_state_dict(state["teacher"])

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        for network in (checkpoint.unwrap(self.network), self.teacher.network):
            set_deep_supervision(network, enabled and self.enable_deep_supervision)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.teacher.network.train()

    def train_step(self, batch: Batch) -> dict[str, Any]:
        images, target, labelled = self.to_device(batch)
        terms: dict[str, float | Tensor] = {}
        with self.autocast():
            logits = self.network(images)
            logits = [logits] if isinstance(logits, Tensor) else logits
            terms["supervised"] = loss = self.supervised([level[:labelled] for level in logits], target)
            weight = self.ramped(self.settings.weight)
            if weight > 0:
                consistency, more = self.consistency(images[labelled:], logits[0][labelled:].float().softmax(1))
                loss = loss + weight * consistency
                terms |= {"consistency": consistency, "consistency_weight": weight, **more}
        self.update(loss, [self.network])
        self.teacher.update(checkpoint.unwrap(self.network), self.iteration - 1)
        self.log_terms(loss=loss, **terms)
        return {"loss": loss.detach().cpu().numpy()}

    def consistency(self, images: Tensor, student: Tensor) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The loss between the student's probabilities and the teacher's for the same images, and what to log."""
        target = self.teach(images)
        return consistency_loss(student, target), {"certain": certain_share(target)}

    @torch.no_grad()
    def teach(self, images: Tensor) -> Tensor:
        """The teacher's probabilities for images under noise."""
        noise = self.settings.noise * torch.randn_like(images).clamp(-2, 2)
        return full_resolution(self.teacher.network(images + noise)).float().softmax(1)


class UAMTTrainer(MeanTeacherTrainer):
    """As Mean Teacher, but only where the teacher is sure of itself under noise."""

    section: ClassVar[str] = "UAMT"
    Settings: ClassVar[type[Section]] = UAMTSettings

    def consistency(self, images: Tensor, student: Tensor) -> tuple[Tensor, dict[str, float | Tensor]]:
        target = self.teach(images)
        # A running sum: memory does not grow with the number of passes.
        mean = torch.zeros_like(target)
        for _ in range(self.settings.passes):
            mean += self.teach(images) / self.settings.passes
        trust = self.settings.trust
        mask = trusted_mask(mean, trust + (1 - trust) * gaussian_ramp(self.progress, 1))
        return consistency_loss(student, target, mask), {
            "certain": certain_share(target),
            "trusted": mask.float().mean(),
        }
