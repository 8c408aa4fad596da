"""MSF-Net: one encoder for both modalities, a decoder for each, proxy segmentation of the source (eqs. 1-4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn

from nnunet_ext.losses.adversarial import discriminator_loss, generator_loss
from nnunet_ext.losses.perceptual import PerceptualLoss
from nnunet_ext.networks.generators import ResNetDecoder, ResNetEncoder, initialise, pad_to_stride
from translation.image_pool import ImagePool
from translation.method import LearnedMethod, Terms, as_slices
from translation.methods.cyclegan import make_discriminator
from translation.sampling import Batch
from translation.settings import MSFNetSettings
from translation.volume.preparation import Preparation

SIDES = ("source", "target")
OTHER = {"source": "target", "target": "source"}


class MSFNet(LearnedMethod):
    """Eq. 1 reconstruction, eq. 2 adversarial (least squares), eq. 3 cycle, eq. 4 one head per label set.

    Args:
        settings: see `MSFNetSettings`.
        preparation: its labels are the first label set.
        further: name -> number of classes of further label sets.
    """

    settings: MSFNetSettings

    def __init__(
        self, settings: MSFNetSettings, preparation: Preparation, further: dict[str, int] | None = None
    ) -> None:
        super().__init__(settings, preparation)
        s = settings
        self.encoder = ResNetEncoder(s.slices, s.width, s.blocks - s.decoder_blocks, antialias=s.antialias)
        self.decoders = nn.ModuleDict(
            {side: ResNetDecoder(s.slices, s.width, s.decoder_blocks, antialias=s.antialias) for side in SIDES}
        )
        classes = {"labels": len(preparation.labels), **(further or {})}
        self.heads = nn.ModuleDict(
            {name: ResNetDecoder(n, s.width, tanh=False, antialias=s.antialias) for name, n in classes.items()}
        )
        for network in (self.encoder, self.decoders, self.heads):
            initialise(network)
        self.judges = nn.ModuleDict({side: make_discriminator(s) for side in SIDES})
        self.pools = {side: ImagePool(s.pool) for side in SIDES}
        # In lists, outside the module tree: VGG19 is not part of what a checkpoint holds.
        self._perceptual = [PerceptualLoss(Path(s.vgg19))] if s.vgg19 and s.lambda_perceptual else []
        self._segmentation = DC_and_CE_loss(
            {"batch_dice": True, "do_bg": False, "smooth": 1e-5, "ddp": False},
            {},
            1,
            1,
            -1,
            MemoryEfficientSoftDiceLoss,
        )

    def groups(self) -> dict[str, list[nn.Module]]:
        return {"generators": [self.encoder, self.decoders, self.heads], "discriminators": [self.judges]}

    def start_training(self, device: torch.device) -> None:
        super().start_training(device)
        for loss in self._perceptual:
            loss.to(device)

    def fit_step(self, batch: Batch) -> Terms:
        s, terms = self.settings, Terms()
        distance = F.smooth_l1_loss if s.smooth_l1 else F.l1_loss
        real = {"source": batch.source, "target": batch.target}
        with self.optimisers.only("generators"):
            with self.optimisers.autocast():
                code = {side: self.encoder(real[side]) for side in SIDES}
                same = {side: self.decoders[side](code[side]).float() for side in SIDES}
                fake = {side: self.decoders[side](code[OTHER[side]]).float() for side in SIDES}
                again = {side: self.decoders[side](self.encoder(fake[OTHER[side]])).float() for side in SIDES}
                terms["reconstruction"] = sum_of(distance(same[side], real[side]) for side in SIDES)
                terms["cycle"] = sum_of(distance(again[side], real[side]) for side in SIDES)
                scores = {side: generator_loss(self.judges[side](as_slices(fake[side])).float(), s.adversarial)
                          for side in SIDES}  # fmt: skip
                terms["adversarial"], terms["adversarial_back"] = scores["target"], scores["source"]
                loss = s.lambda_reconstruction * terms["reconstruction"] + s.lambda_cycle * terms["cycle"]
                loss = loss + s.lambda_adversarial * (scores["source"] + scores["target"])
                for perceptual in self._perceptual:
                    terms["perceptual"] = sum_of(
                        perceptual(as_slices(same[side]), as_slices(real[side])) for side in SIDES
                    )
                    loss = loss + s.lambda_perceptual * terms["perceptual"]
                for name, head in self.heads.items():
                    labels = batch.labels if name == "labels" else batch.further[name]
                    terms[f"segmentation_{name}"] = self._segmentation(head(code["source"]).float(), labels[:, None])
                    loss = loss + s.lambda_segmentation * terms[f"segmentation_{name}"]
                loss = self.with_anatomy(loss, batch.source, fake["target"], terms)
            self.optimisers.minimise("generators", loss)
        judged = {}
        for side in SIDES:
            old = self.pools[side].query(fake[side].detach())
            with self.optimisers.autocast():
                judge = self.judges[side]
                judged[side] = discriminator_loss(
                    judge(as_slices(real[side])).float(), judge(as_slices(old)).float(), s.adversarial
                )
        terms["discriminator"], terms["discriminator_back"] = judged["target"], judged["source"]
        self.optimisers.minimise("discriminators", judged["source"] + judged["target"])
        self.optimisers.end_step()
        return terms

    def translate_slab(self, slab: Tensor, labels: Tensor | None) -> Tensor:
        padded, _, cut = pad_to_stride(slab, None, self.encoder.stride)
        return self.decoders["target"](self.encoder(padded))[cut]

    def training_state(self) -> dict[str, Any]:
        return super().training_state() | {"pools": {side: pool.state_dict() for side, pool in self.pools.items()}}

    def load_training_state(self, state: dict[str, Any]) -> None:
        super().load_training_state(state)
        for side, pool in self.pools.items():
            pool.load_state_dict(state["pools"][side], self.optimisers.device)


def sum_of(values: Any) -> Tensor:
    """Sum of tensors, as a tensor."""
    return torch.stack(list(values)).sum()
