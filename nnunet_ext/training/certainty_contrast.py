"""MCSCv2's contrastive term: certain anchors, class centres, negatives from memory banks (section 5.3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from nnunet_ext.losses.certainty import (
    anchor_mask,
    certain_mask,
    class_ranks,
    default_rank_high,
    entropy,
    negative_mask,
)
from nnunet_ext.losses.contrastive import keyed_contrastive_loss
from nnunet_ext.losses.sampling import spread_draws
from nnunet_ext.training.banks import Bank
from nnunet_ext.training.contrast import Contrast, ContrastSettings, Pixels, Pool, Terms, anchors_of, draw_pool
from nnunet_ext.training.ramps import linear_decay


class CertaintySettings(ContrastSettings):
    """Settings of MCSCv2's contrastive term."""

    threshold: float = Field(0.9, ge=0, lt=1, description="h, which an anchor's likeliest class must exceed")
    uncertain: float = Field(0.2, ge=0, le=1, description="beta_0, share of pixels uncertain at first; falls to 0")
    rank_low: int = Field(1, ge=1, description="r_l")
    rank_high: int | None = Field(None, ge=1, description="r_h; two less than the number of classes where not set")
    pool: int = Field(4096, ge=2, description="pixels drawn and projected in a step and scale, from both students")
    anchors: int = Field(1000, ge=1, description="anchors of a class in a step and scale")
    negatives: int = Field(500, ge=1, description="negatives of a class in a step and scale")
    bank: int = Field(8192, ge=1, description="features remembered as negatives per class and scale")
    bank_share: float = Field(0.25, gt=0, le=1, description="t_b, largest share of a bank renewed in a step")


class CertaintyContrast(Contrast):
    """Certainty-guided cross contrast (eqs. 5.1-5.7).

    Two things keep the features of all classes from running into one direction, where eq. 5.7 is log C and has no
    gradient. Keys are constants, the positive ones like the negative ones: with a gradient through the mean of
    eq. 5.4 as well, attraction is twice as strong as repulsion. And banks are young: they are filled from `pool`
    pixels of a step, not from all, so that 60,000 rows would be about a hundred steps old, and features lower the
    loss by moving together, away from what they were.

    Certainty comes from the full-resolution predictions. Banks are kept per scale and class and, with DDP, per rank.
    """

    def __init__(self, settings: CertaintySettings, channels: Sequence[tuple[int, int]], classes: int) -> None:
        super().__init__(settings, channels, classes)
        self.rank_high = settings.rank_high or default_rank_high(classes)
        self._banks: list[list[Bank]] | None = None

    @property
    def banks(self) -> list[list[Bank]]:
        """Per scale and class; made where the projectors lie when they are first needed."""
        if self._banks is None:
            device = next(self.parameters()).device
            columns = {"feature": ((self.settings.dim,), torch.float16), "label": ((), torch.int16)}
            self._banks = [
                [Bank(self.settings.bank, columns, device) for _ in range(self.classes)] for _ in self.projectors.shared
            ]
        return self._banks

    def forward(self, pixels: Pixels, progress: float) -> tuple[Tensor, Terms]:
        certain = self._certain(pixels, progress)
        total = pixels.features[0][0].new_zeros((), dtype=torch.float32)
        for scale in range(len(pixels.features)):
            pool = draw_pool(pixels, scale, self.settings.pool, self.projectors, certain)
            self._remember(pool, scale)
            total = total + self._loss(pool, scale)
        fill = sum(bank.fill for banks in self.banks for bank in banks) / sum(len(banks) for banks in self.banks)
        return total, {"bank_fill": fill}

    def _certain(self, pixels: Pixels, progress: float) -> tuple[Tensor, Tensor]:
        """Which pixels are certain, the unlabelled ones of both students ranked together; labelled ones all are."""
        unlabelled = ~pixels.labelled
        uncertainty = torch.stack([entropy(p[unlabelled], dim=1) for p in pixels.probabilities])
        judged = certain_mask(uncertainty, self.settings.uncertain * linear_decay(progress, 1))
        masks = []
        for student in range(2):
            mask = torch.ones_like(pixels.labels[student], dtype=torch.bool)
            mask[unlabelled] = judged[student]
            masks.append(mask)
        return masks[0], masks[1]

    def _remember(self, pool: Pool, scale: int) -> None:
        """Push the pool's negatives of every class into its bank, at most a share of it (eqs. 5.5 and 5.6)."""
        ranks = class_ranks(pool.probabilities)
        most = max(1, int(self.settings.bank_share * self.settings.bank))
        for c, bank in enumerate(self.banks[scale]):
            mask = negative_mask(
                ranks, pool.labels, pool.labelled, pool.certain, c, self.settings.rank_low, self.rank_high
            )
            index = mask.nonzero()[:, 0]
            index = index[spread_draws(len(index), min(most, len(index)), index.device)]
            bank.push(feature=pool.features[index], label=pool.labels[index])

    def _loss(self, pool: Pool, scale: int) -> Tensor:
        """Eq. 5.7 over the classes that have an anchor; 0 with a zero gradient where none has."""
        candidates = anchor_mask(pool.probabilities, pool.labelled | pool.certain, self.settings.threshold)
        losses = []
        for c, bank in enumerate(self.banks[scale]):
            members, anchors = anchors_of(pool, candidates, c, self.settings.anchors)
            if len(anchors) == 0 or len(bank) == 0:
                continue
            negatives = bank.sample(self.settings.negatives)
            losses.append(
                keyed_contrastive_loss(
                    pool.features[anchors],
                    pool.features[members].mean(0).detach(),
                    negatives["feature"].float(),
                    negatives["label"],
                    self.settings.temperature,
                )
            )
        return torch.stack(losses).mean() if losses else 0 * pool.features.sum()

    def memory(self) -> dict[str, Any]:
        return {"banks": [[bank.state_dict() for bank in banks] for banks in self.banks]}

    def load_memory(self, memory: dict[str, Any]) -> None:
        for banks, states in zip(self.banks, memory["banks"], strict=True):
            for bank, state in zip(banks, states, strict=True):
                bank.load_state_dict(state)
