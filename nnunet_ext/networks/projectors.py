"""Heads that bring features of different layers to one width for contrast."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_ext.networks.generators import initialise


class PatchProjector(nn.Module):
    """One two-layer perceptron per layer of features, with L2-normalised output (CUT; AccSeg-Net's H_l).

    For the generator's five layers at one channel and width 256 it has the published 559,872 parameters.

    Args:
        channels: of each layer, e.g. `ResNetGenerator.feature_channels`.
        width: of both linear layers.
    """

    def __init__(self, channels: Sequence[int], width: int = 256) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(c, width), nn.ReLU(), nn.Linear(width, width)) for c in channels
        )
        initialise(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """(B, P, C_l) for each layer -> (B, P, width) for each, of unit length."""
        heads = zip(self.heads, features, strict=True)
        return [F.normalize(head(f.to(head[0].weight.dtype)).float(), dim=-1) for head, f in heads]  # type: ignore[index]
