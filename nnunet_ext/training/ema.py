"""A teacher whose weights are the exponential moving average of its student's (Mean Teacher)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class Teacher:
    """The averaged copy of a network.

    Args:
        student: the network as it starts, without DDP or `torch.compile` around it.
        build: builds a network of the same architecture; the teacher takes over the student's weights.
        decay: alpha; the average is plain over the first 1 / (1 - alpha) updates, so that it does not hang on to the
            initial weights.
    """

    def __init__(self, student: nn.Module, build: Callable[[], nn.Module], decay: float) -> None:
        self.network = build()
        self.network.load_state_dict(student.state_dict())
        self.network.requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> None:
        """Move towards the student after update number `step`, counted from 0; buffers are copied."""
        decay = min(1 - 1 / (step + 1), self.decay)
        for average, weight in zip(self.network.parameters(), student.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)
        for mine, theirs in zip(self.network.buffers(), student.buffers(), strict=True):
            mine.copy_(theirs)
