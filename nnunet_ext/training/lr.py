"""Learning rates as a function of how far the training is."""

from __future__ import annotations

from typing import Any

import torch

POWER = 0.9
LONGEST_WARMUP = 0.1  # of the training, so that short runs spend most of their updates at full rate


class WarmupPoly:
    """Linear warm-up, then polynomial decay to zero: lr = lr0 min(1, (i + 1) / w) (1 - i / n)^0.9 for update i of n.

    It has no state: `step` takes the position, so a continued training is where it was.

    Args:
        optimizer: its groups' learning rates at this moment are the highest ones.
        epochs: of the whole training.
        iterations_per_epoch: updates in an epoch.
        warmup_epochs: length w of the warm-up, at most a tenth of the training.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, epochs: int, iterations_per_epoch: int, warmup_epochs: float
    ) -> None:
        self.optimizer = optimizer
        self.iterations_per_epoch = iterations_per_epoch
        self.updates = epochs * iterations_per_epoch
        self.warmup = min(warmup_epochs * iterations_per_epoch, LONGEST_WARMUP * self.updates)
        self.highest = [float(group["lr"]) for group in optimizer.param_groups]

    def factor(self, update: float) -> float:
        """Share of the highest learning rate at an update, counted from 0."""
        rise = min(1.0, (update + 1) / self.warmup) if self.warmup > 0 else 1.0
        return rise * max(0.0, 1 - update / self.updates) ** POWER

    def step(self, epoch: float) -> None:
        """Set the learning rates for a position in epochs, which may be a fraction."""
        factor = self.factor(epoch * self.iterations_per_epoch)
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            group["lr"] = highest * factor

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take over."""
