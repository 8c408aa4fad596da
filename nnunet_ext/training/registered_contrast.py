"""CCT-R's contrastive term: positives by label and by registration (sections 6.3.1 and 6.3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from nnunet_ext.losses.certainty import anchor_mask
from nnunet_ext.losses.contrastive import keyed_contrastive_loss
from nnunet_ext.losses.registration_contrastive import cell_keys, combined_positives, registered_positives
from nnunet_ext.losses.sampling import sample_per_class
from nnunet_ext.training.banks import Bank
from nnunet_ext.training.contrast import Contrast, ContrastSettings, Pixels, Pool, Terms, anchors_of, draw_pool


class RegisteredSettings(ContrastSettings):
    """Settings of CCT-R's contrastive term."""

    threshold: float = Field(0.5, ge=0, lt=1, description="h, which an anchor's likeliest class must exceed")
    pool: int = Field(4096, ge=2, description="pixels drawn and projected in a step and scale, from both students")
    anchors: int = Field(1000, ge=1, description="anchors of a class in a step and scale")
    negatives: int = Field(500, ge=1, description="negatives of a class in a step and scale, equally of the others")
    reps: bool = Field(True, description="add positives from registration")
    weight_label: float = Field(0.5, ge=0, description="w_1, weight of the positive by label")
    weight_registration: float = Field(0.5, ge=0, description="w_2, weight of the positive by registration")
    cell: float = Field(4.0, gt=0, description="mm within which registered pixels count as the same place")
    bank: int = Field(65_536, ge=1, description="pixels remembered per scale, first in, first out")


class RegisteredContrast(Contrast):
    """Supervised contrast with registration-enhanced positive sampling (eqs. 6.3-6.5 and 6.11-6.13).

    The bank holds the drawn pixels of the last patches with their place in the frame of their registration, instead of
    whole feature maps: the default remembers a few hundred pixels of each of 260 slices, a fifth of ACDC's.

    `pixels.images` must have `case` (N), `frame` (N) and `position` (N, 3, *S) in mm with `placed` (N, *S); a frame
    below 0 marks an image without registration.
    """

    def __init__(self, settings: RegisteredSettings, channels: Sequence[tuple[int, int]], classes: int) -> None:
        super().__init__(settings, channels, classes)
        self._banks: list[Bank] | None = None

    @property
    def banks(self) -> list[Bank]:
        """One per scale; made where the projectors lie when they are first needed."""
        if self._banks is None:
            device = next(self.parameters()).device
            columns = {
                "feature": ((self.settings.dim,), torch.float16),
                "position": ((3,), torch.float32),
                "frame": ((), torch.int16),
                "case": ((), torch.int32),
            }
            self._banks = [Bank(self.settings.bank, columns, device) for _ in self.projectors.shared]
        return self._banks

    def forward(self, pixels: Pixels, progress: float) -> tuple[Tensor, Terms]:
        total = pixels.features[0][0].new_zeros((), dtype=torch.float32)
        partners = []
        for scale in range(len(pixels.features)):
            pool = draw_pool(pixels, scale, self.settings.pool, self.projectors)
            by_registration, found = self._partners(pixels, pool, scale)
            partners.append(found.float().mean())
            total = total + self._loss(pool, by_registration, found)
        if not self.settings.reps:
            return total, {}
        fill = sum(bank.fill for bank in self.banks) / len(self.banks)
        return total, {"bank_fill": fill, "with_partner": torch.stack(partners).mean()}

    def _partners(self, pixels: Pixels, pool: Pool, scale: int) -> tuple[Tensor, Tensor]:
        """What the bank has where the pool's pixels lie; then the pool goes into the bank."""
        if not self.settings.reps:
            return torch.zeros_like(pool.features), torch.zeros_like(pool.labelled)
        case = pixels.images["case"][pool.image]
        placed = pixels.images["placed"].flatten(1)[pool.image, pool.place]
        frame = torch.where(placed, pixels.images["frame"][pool.image], -1)
        position = pixels.images["position"].flatten(2)[pool.image, :, pool.place]
        bank = self.banks[scale].rows()
        cell, device = self.settings.cell, position.device
        # A grid that is shifted at random has no preferred places.
        offset = cell * torch.rand(3, device=device)
        by_registration, found = registered_positives(
            cell_keys(frame, position, cell, offset),
            case,
            cell_keys(bank["frame"], bank["position"], cell, offset),
            bank["case"],
            bank["feature"],
        )
        kept = frame >= 0
        self.banks[scale].push(feature=pool.features[kept], position=position[kept], frame=frame[kept], case=case[kept])
        return by_registration, found

    def _loss(self, pool: Pool, by_registration: Tensor, found: Tensor) -> Tensor:
        """Eq. 6.4 over the classes that have an anchor; 0 with a zero gradient where none has."""
        candidates = anchor_mask(pool.probabilities, pool.labels >= 0, self.settings.threshold)
        confident = torch.where(candidates, pool.labels, -1)
        losses = []
        for c in range(self.classes):
            members, anchors = anchors_of(pool, candidates, c, self.settings.anchors)
            if len(anchors) == 0:
                continue
            negatives, _ = sample_per_class(confident.masked_fill(confident == c, -1), self.settings.negatives)
            positives = combined_positives(
                pool.features[members].mean(0),
                by_registration[anchors],
                found[anchors],
                self.settings.weight_label,
                self.settings.weight_registration,
            )
            losses.append(
                keyed_contrastive_loss(
                    pool.features[anchors],
                    positives,
                    pool.features[negatives],
                    pool.labels[negatives],
                    self.settings.temperature,
                    balanced=False,
                )
            )
        return torch.stack(losses).mean() if losses else 0 * pool.features.sum()

    def memory(self) -> dict[str, Any]:
        return {"banks": [bank.state_dict() for bank in self.banks]} if self.settings.reps else {}

    def load_memory(self, memory: dict[str, Any]) -> None:
        for bank, state in zip(self.banks, memory.get("banks", ()), strict=False):
            bank.load_state_dict(state)
