"""The one interface of all translation methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nnunet_ext.losses.correlation import correlation_loss
from nnunet_ext.losses.mind import MINDLoss
from translation.optimise import Optimisers
from translation.sampling import Batch
from translation.settings import TranslationSettings, VolumeSettings
from translation.volume.preparation import Preparation
from translation.volume.slabs import translate_volume

Terms = dict[str, Tensor]

#: slices of an update that MIND looks at, which bounds its memory
MIND_SLICES = 8


class TranslationMethod(nn.Module, ABC):
    """Learns to turn source slabs into target slabs and translates volumes.

    Networks are submodules, so that `state_dict` holds all that translating needs; `training_state` adds what
    continuing a fit needs.

    Args:
        settings: of the method's own class.
        preparation: the record of the fit; methods take label names and histograms from it.
    """

    #: whether `translate` needs the source's labels
    needs_labels = False

    def __init__(self, settings: VolumeSettings, preparation: Preparation) -> None:
        super().__init__()
        self.settings = settings
        self.preparation = preparation

    @abstractmethod
    def translate(self, volume: Tensor, labels: Tensor | None = None) -> Tensor:
        """Translate a prepared volume.

        Args:
            volume: (slices, rows, columns) in [-1, 1].
            labels: class indices of the same shape, where `needs_labels`.

        Returns:
            the same shape, in [-1, 1].
        """


class LearnedMethod(TranslationMethod):
    """A method with networks. Subclasses build them in `__init__`, name them in `groups` and write `fit_step`."""

    settings: TranslationSettings
    optimisers: Optimisers

    @abstractmethod
    def groups(self) -> dict[str, list[nn.Module]]:
        """Networks that are updated together, by name."""

    @abstractmethod
    def fit_step(self, batch: Batch) -> Terms:
        """Update all networks once.

        Returns:
            each term of the losses, without weights, plus `adversarial` and `discriminator` (what the generator and
            the discriminator of the target pay), which the watch over the training reads.
        """

    @abstractmethod
    def translate_slab(self, slab: Tensor, labels: Tensor | None) -> Tensor:
        """(B, slices, H, W) and, where `needs_labels`, (B, H, W) of the middle slices -> (B, slices, H, W)."""

    def tell_about(self, labels: Sequence[NDArray[np.int16]]) -> None:
        """Log, before a fit, what the user should know of the source's labels (class indices, one volume per case)."""

    def with_anatomy(self, loss: Tensor, source: Tensor, fake: Tensor, terms: Terms) -> Tensor:
        """The generator's loss with AccSeg-Net's two anatomy terms (its eq. 6) of the source and its translation.

        MIND compares single slices, at most `MIND_SLICES` of the batch's, drawn at random. Correlation is that of whole
        slabs.

        Args:
            loss: so far; returned as it is where both weights are 0.
            source, fake: (B, slices, H, W).
            terms: gets `mind` and `correlation`, each where its weight is above 0.
        """
        s = self.settings
        if s.lambda_mind > 0:
            terms["mind"] = MINDLoss().of_some(as_slices(source), as_slices(fake), MIND_SLICES)
            loss = loss + s.lambda_mind * terms["mind"]
        if s.lambda_correlation > 0:
            with torch.autocast(source.device.type, enabled=False):
                terms["correlation"] = correlation_loss(source, fake)
            loss = loss + s.lambda_correlation * terms["correlation"]
        return loss

    def start_training(self, device: torch.device) -> None:
        """Move to the device and make the optimisers."""
        self.to(device)
        self.optimisers = Optimisers(self.groups(), self.settings, device)

    def training_state(self) -> dict[str, Any]:
        """Everything beyond `state_dict` that an exact continuation needs."""
        return {"optimisers": self.optimisers.state_dict()}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take over what `training_state` gave."""
        self.optimisers.load_state_dict(state["optimisers"])

    @torch.inference_mode()
    def translate(self, volume: Tensor, labels: Tensor | None = None) -> Tensor:
        return translate_volume(
            self.translate_slab, volume, labels if self.needs_labels else None, self.settings.slices
        )


def as_slices(slab: Tensor) -> Tensor:
    """(B, S, H, W) -> (B * S, 1, H, W): discriminators judge slices one at a time.

    Neighbouring slices of the two cohorts may lie at different distances; how alike they are must not tell a
    discriminator where a slab comes from.
    """
    return slab.flatten(0, 1).unsqueeze(1)
