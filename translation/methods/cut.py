"""CUT and QS-Attn: one generator held to its input by patch contrast (Park et al. 2020; Hu et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnunet_ext.losses.adversarial import discriminator_loss, generator_loss
from nnunet_ext.losses.patchnce import patch_contrast
from nnunet_ext.networks.generators import ResNetGenerator
from nnunet_ext.networks.projectors import PatchProjector
from translation.method import LearnedMethod, Terms, as_slices
from translation.methods.cyclegan import make_discriminator, make_generator
from translation.sampling import Batch
from translation.settings import CUTSettings
from translation.volume.preparation import Preparation


class CUT(LearnedMethod):
    """L = L_adv + (L_con^X + L_con^Y) / 2, contrast of source images and, as identity, of real target images.

    With `attention_layers` in its settings it is QS-Attn.
    """

    settings: CUTSettings

    def __init__(self, settings: CUTSettings, preparation: Preparation) -> None:
        super().__init__(settings, preparation)
        self.generator = self.make_generator()
        self.judge = make_discriminator(settings)
        self.projector = PatchProjector(self.generator.feature_channels, settings.projector_width)

    def make_generator(self) -> ResNetGenerator:
        return make_generator(self.settings)

    def groups(self) -> dict[str, list[nn.Module]]:
        return {"generator": [self.generator, self.projector], "discriminator": [self.judge]}

    def masks(self, labels: Tensor | None) -> Tensor | None:
        """What the generator wants to know of the labels (B, H, W): nothing, here."""
        return None

    def forward_pass(self, batch: Batch, masks: Tensor | None, terms: Terms) -> tuple[Tensor, list[Tensor], Tensor]:
        """Translate the source; returns the images, the source's features and a further loss to add."""
        fake, features = self.generator.forward_all(batch.source, masks)
        return fake, features, fake.new_zeros(())

    def fit_step(self, batch: Batch) -> Terms:
        s, terms = self.settings, Terms()
        masks = self.masks(batch.labels)
        with self.optimisers.autocast():
            fake, features, extra = self.forward_pass(batch, masks, terms)
            terms["discriminator"] = discriminator_loss(
                self.judge(as_slices(batch.target)).float(),
                self.judge(as_slices(fake.detach())).float(),
                s.adversarial,
            )
        self.optimisers.minimise("discriminator", terms["discriminator"])
        with self.optimisers.only("generator"):
            with self.optimisers.autocast():
                terms["adversarial"] = generator_loss(self.judge(as_slices(fake)).float(), s.adversarial)
                terms["contrast"] = self.contrast(features, self.generator.forward_features(fake, masks))
                contrast = terms["contrast"]
                if s.identity:
                    same, features = self.generator.forward_all(batch.target)
                    terms["identity"] = self.contrast(features, self.generator.forward_features(same))
                    contrast = (contrast + terms["identity"]) / 2
                loss = s.lambda_adversarial * terms["adversarial"] + s.lambda_nce * contrast + extra
                loss = self.with_anatomy(loss, batch.source, fake, terms)
            self.optimisers.minimise("generator", loss)
        self.optimisers.end_step()
        return terms

    def contrast(self, source: list[Tensor], output: list[Tensor]) -> Tensor:
        """PatchNCE of two feature stacks with this method's projector and selection."""
        s = self.settings
        return patch_contrast(
            source,
            output,
            self.projector,
            patches=s.patches,
            temperature=s.temperature,
            attention_layers=s.attention_layers,
        )

    def translate_slab(self, slab: Tensor, labels: Tensor | None) -> Tensor:
        return self.generator(slab, self.masks(labels))


def one_hot(labels: Tensor, classes: list[int]) -> Tensor:
    """(B, H, W) class indices -> (B, len(classes), H, W) masks of the named classes."""
    return torch.stack([labels == c for c in classes], 1).float()
