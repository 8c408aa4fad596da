"""Projectors that bring two students' features of several scales into one space per scale (section 4.3.2)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Projectors(nn.Module):
    """Per scale and student a linear layer of its own, a ReLU, and a last linear layer that the students share.

    They stand outside the network that DDP wraps, because which pixels they see depends on the network's own
    predictions.

    Args:
        channels: per scale, the feature channels of the first and the second student.
        width: channels of the first layers.
        out: channels of the shared layer.
    """

    def __init__(self, channels: Sequence[tuple[int, int]], width: int = 256, out: int = 128) -> None:
        super().__init__()
        self.out = out
        self.own = nn.ModuleList(nn.ModuleList(nn.Linear(c, width) for c in pair) for pair in channels)
        self.shared = nn.ModuleList(nn.Linear(width, out) for _ in channels)

    def forward(self, features: Tensor, scale: int, student: int) -> Tensor:
        """(n, C) features of one student (0 or 1) at one scale -> (n, out)."""
        hidden = self.own[scale][student](features)  # type: ignore[index]
        return self.shared[scale](hidden.relu())
