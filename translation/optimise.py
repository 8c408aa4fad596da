"""Optimisers of a method's networks: mixed precision, several processes, linear decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ext.ranks import average_gradients
from translation.settings import TranslationSettings


class Optimisers:
    """One Adam per group of networks that are updated together.

    Gradients are averaged over the processes by hand: DistributedDataParallel expects one forward pass per backward
    pass, which adversarial training does not have.

    Args:
        groups: name -> networks.
        settings: learning rate, mixed precision.
        device: where the networks are.
    """

    def __init__(
        self, groups: Mapping[str, Sequence[nn.Module]], settings: TranslationSettings, device: torch.device
    ) -> None:
        self.device = device
        gpu = device.type == "cuda"
        self.amp = settings.amp if gpu else settings.bfloat16
        self.half = torch.bfloat16 if not gpu or torch.cuda.is_bf16_supported() else torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp and self.half == torch.float16)
        self.networks = {name: list(networks) for name, networks in groups.items()}
        self.rate = settings.learning_rate
        self.optimisers = {
            name: torch.optim.Adam(self._parameters(name), lr=self.rate, betas=(0.5, 0.999)) for name in groups
        }

    def autocast(self) -> torch.autocast:
        """The context for forward passes."""
        return torch.autocast(self.device.type, self.half, enabled=self.amp)

    @contextmanager
    def only(self, name: str) -> Any:
        """Within the block the other groups' parameters get no gradient; their activations still pass it on."""
        others = [p for other in self.networks if other != name for p in self._parameters(other)]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def minimise(self, name: str, loss: Tensor) -> None:
        """One update of a group."""
        optimiser = self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        average_gradients(self._parameters(name))
        self.scaler.step(optimiser)

    def end_step(self) -> None:
        """Call once after all groups of a fit step were updated."""
        self.scaler.update()

    def set_rate(self, factor: float) -> None:
        """Learning rate as a part of the initial one."""
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = self.rate * factor

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "scaler": self.scaler.state_dict(),
            "optimisers": {name: o.state_dict() for name, o in self.optimisers.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint's state."""
        self.scaler.load_state_dict(state["scaler"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])

    def _parameters(self, name: str) -> list[nn.Parameter]:
        return [p for network in self.networks[name] for p in network.parameters()]


def linear_decay(epoch: int, epochs: int, constant: float) -> float:
    """1 for the first `constant` part of the epochs, then linear to 0, which the epoch after the last would have."""
    start = constant * epochs
    return 1.0 if epoch <= start else max(0.0, (epochs - epoch) / (epochs - start))
