"""CycleGAN: two generators that undo one another (Zhu et al. 2017; TANQ eqs. 11-12)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_ext.losses.adversarial import discriminator_loss, generator_loss
from nnunet_ext.networks.discriminators import PatchDiscriminator
from nnunet_ext.networks.generators import ResNetGenerator
from translation.image_pool import ImagePool
from translation.method import LearnedMethod, Terms, as_slices
from translation.sampling import Batch
from translation.settings import CycleGANSettings, TranslationSettings
from translation.volume.preparation import Preparation


def make_generator(settings: TranslationSettings) -> ResNetGenerator:
    """The ResNet generator that the settings describe, slab in, slab out."""
    return ResNetGenerator(
        settings.slices, settings.slices, settings.width, settings.blocks, antialias=settings.antialias
    )


def make_discriminator(settings: TranslationSettings) -> PatchDiscriminator:
    """The discriminator of single slices that the settings describe."""
    return PatchDiscriminator(1, settings.discriminator_width, settings.discriminator_layers)


class CycleGAN(LearnedMethod):
    """L = L_adv^X + L_adv^Y + lambda_cycle (|F(G(s)) - s| + |G(F(t)) - t|) + identity terms."""

    settings: CycleGANSettings

    def __init__(self, settings: CycleGANSettings, preparation: Preparation) -> None:
        super().__init__(settings, preparation)
        self.to_target, self.to_source = make_generator(settings), make_generator(settings)
        self.judge_target, self.judge_source = make_discriminator(settings), make_discriminator(settings)
        self.pool_target, self.pool_source = ImagePool(settings.pool), ImagePool(settings.pool)

    def groups(self) -> dict[str, list[nn.Module]]:
        return {
            "generators": [self.to_target, self.to_source],
            "discriminators": [self.judge_target, self.judge_source],
        }

    def fit_step(self, batch: Batch) -> Terms:
        s, source, target = self.settings, batch.source, batch.target
        terms: Terms = {}
        with self.optimisers.only("generators"):
            with self.optimisers.autocast():
                fake_target, fake_source = self.to_target(source), self.to_source(target)
                terms["adversarial"] = generator_loss(self.judge_target(as_slices(fake_target)).float(), s.adversarial)
                terms["adversarial_back"] = generator_loss(
                    self.judge_source(as_slices(fake_source)).float(), s.adversarial
                )
                terms["cycle"] = F.l1_loss(self.to_source(fake_target).float(), source) + F.l1_loss(
                    self.to_target(fake_source).float(), target
                )
                loss = s.lambda_adversarial * (terms["adversarial"] + terms["adversarial_back"])
                loss = loss + s.lambda_cycle * terms["cycle"]
                if s.lambda_identity:
                    terms["identity"] = F.l1_loss(self.to_target(target).float(), target) + F.l1_loss(
                        self.to_source(source).float(), source
                    )
                    loss = loss + s.lambda_cycle * s.lambda_identity * terms["identity"]
                loss = self.with_anatomy(loss, source, fake_target, terms)
            self.optimisers.minimise("generators", loss)
        old_target = self.pool_target.query(fake_target.detach().float())
        old_source = self.pool_source.query(fake_source.detach().float())
        with self.optimisers.autocast():
            terms["discriminator"] = discriminator_loss(
                self.judge_target(as_slices(target)).float(), self.judge_target(as_slices(old_target)).float(),
                s.adversarial,
            )  # fmt: skip
            terms["discriminator_back"] = discriminator_loss(
                self.judge_source(as_slices(source)).float(), self.judge_source(as_slices(old_source)).float(),
                s.adversarial,
            )  # fmt: skip
        self.optimisers.minimise("discriminators", terms["discriminator"] + terms["discriminator_back"])
        self.optimisers.end_step()
        return terms

    def translate_slab(self, slab: Tensor, labels: Tensor | None) -> Tensor:
        return self.to_target(slab)

    def training_state(self) -> dict[str, Any]:
        pools = {"target": self.pool_target.state_dict(), "source": self.pool_source.state_dict()}
        return super().training_state() | {"pools": pools}

    def load_training_state(self, state: dict[str, Any]) -> None:
        super().load_training_state(state)
        device: torch.device = self.optimisers.device
        self.pool_target.load_state_dict(state["pools"]["target"], device)
        self.pool_source.load_state_dict(state["pools"]["source"], device)
