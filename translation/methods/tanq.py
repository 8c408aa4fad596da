"""TANQ: QS-Attn whose normalisation knows the target structures, and a decoder that segments them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import prod

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ext.errors import InputError
from nnunet_ext.networks.target_aware import TargetAwareGenerator
from translation.method import Terms
from translation.methods.cut import CUT, one_hot
from translation.sampling import Batch
from translation.settings import TANQSettings

log = logging.getLogger(__name__)


class TANQ(CUT):
    """L_G = L_adv + L_con^X + L_con^Y + L_seg (TANQ eq. 10), normalised by eqs. 1-7.

    Which labels are region-normalised and which restyled is a setting by name. Masks are needed of the source only;
    real target images are normalised as a whole.
    """

    settings: TANQSettings
    generator: TargetAwareGenerator
    needs_labels = True

    def make_generator(self) -> TargetAwareGenerator:
        s, names = self.settings, list(self.preparation.labels)
        restyled = list(s.restyled)
        normalised = [n for n in names[1:] if n not in restyled] if s.region_normalised is None else s.region_normalised
        for key, chosen in (("region_normalised", normalised), ("restyled", restyled)):
            for name in chosen:
                if name not in names[1:]:
                    raise InputError(f"--set {key}: {name} is not a label, some of {', '.join(names[1:])} are needed")
        if both := set(normalised) & set(restyled):
            raise InputError(f"--set restyled: {', '.join(sorted(both))} is also region_normalised, one is needed")
        self.regions = [names.index(name) for name in [*normalised, *restyled]]
        self.normalised = normalised
        return TargetAwareGenerator(
            s.slices,
            s.slices,
            s.width,
            s.blocks,
            classes=len(names),
            region_normalised=range(len(normalised)),
            restyled=range(len(normalised), len(self.regions)),
            min_pixels=s.min_pixels,
            antialias=s.antialias,
        )

    def tell_about(self, labels: Sequence[NDArray[np.int16]]) -> None:
        s = self.settings
        # A pixel of the coarsest feature maps, after two halvings, covers this many of the image.
        least = s.min_pixels * prod(self.generator.encoder.stride) ** 2
        for name, index in zip(self.normalised, self.regions, strict=False):
            sizes = np.concatenate([(volume == index).sum((1, 2)) for volume in labels])
            sizes = sizes[sizes > 0]
            small = 100 * float((sizes < least).mean()) if len(sizes) else 0.0
            log.info(
                "%s: in %.0f %% of its %d slices it has fewer than %.0f pixels (min_pixels=%g on the coarsest feature"
                " maps), and there is normalised with the whole map's statistics",
                name, small, len(sizes), least, s.min_pixels,
            )  # fmt: skip

    def masks(self, labels: Tensor | None) -> Tensor | None:
        return None if labels is None or not self.regions else one_hot(labels, self.regions)

    def forward_pass(self, batch: Batch, masks: Tensor | None, terms: Terms) -> tuple[Tensor, list[Tensor], Tensor]:
        fake, logits, features = self.generator.forward_and_segment(batch.source, masks)
        # Where every pixel is ignored the mean has no terms: the sum over at least one keeps it at 0.
        wrong = F.cross_entropy(logits.float(), batch.labels, ignore_index=-1, reduction="sum")
        terms["segmentation"] = wrong / (batch.labels >= 0).sum().clamp_min(1)
        return fake, features, self.settings.lambda_segmentation * terms["segmentation"]
