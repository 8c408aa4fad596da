"""Networks that only training needs, with an optimiser of their own: discriminators, generators, projectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ext.ranks import average_gradients
from nnunet_ext.training.checkpoint import load_weights

BETAS = (0.5, 0.999)  # Adam's, as in the adversarial methods since DCGAN
SMALLEST_AXIS = 3  # times the whole stride: pixels that the two undecimated layers of PatchGAN need on an axis


class SideNetworks:
    """Networks beside the one that predicts, and their Adam.

    They stand outside what DDP wraps, which expects one forward pass for each backward pass. All ranks build them from
    one seed.

    Args:
        networks: by name.
        rate: learning rate.
        device: where they compute.
    """

    def __init__(self, networks: Mapping[str, nn.Module], rate: float, device: torch.device) -> None:
        self.networks = nn.ModuleDict(networks).to(device)
        self.rate = rate
        self.optimizer = torch.optim.Adam(self.networks.parameters(), lr=rate, betas=BETAS)

    def __getitem__(self, name: str) -> Any:
        return self.networks[name]

    def set_rate(self, factor: float) -> None:
        """Learning rate as a part of the first one."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within the block the parameters get no gradient; activations still pass it on."""
        self.networks.requires_grad_(False)
        try:
            yield
        finally:
            self.networks.requires_grad_(True)

    def minimise(self, loss: Tensor, scaler: torch.amp.GradScaler | None) -> None:
        """One update of these networks alone."""
        self.optimizer.zero_grad(set_to_none=True)
        (loss if scaler is None else scaler.scale(loss)).backward()
        average_gradients(self.networks.parameters())
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser, for a checkpoint."""
        return {"networks": self.networks.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint's state.

        Raises:
            InputError: when it is of other networks.
        """
        load_weights(self.networks, state["networks"], "the checkpoint")
        self.optimizer.load_state_dict(state["optimizer"])


def early_stride(pooling: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Stride for networks that halve the resolution a few times: 2 along axes that the plans halve at once, else 1.

    Thick slices, which the plans leave alone at first, are left alone.

    Args:
        pooling: the planned strides per stage and axis, beginning with the first stage's ones.
    """
    early = pooling[1:3] or pooling[:1]
    return tuple(2 if all(step > 1 for step in axis) else 1 for axis in zip(*early, strict=True))


def discriminator_layers(patch_size: Sequence[int], stride: Sequence[int], most: int) -> int:
    """Halvings of a PatchGAN that a patch is large enough for: at most `most`, at least one."""
    shortest = min((n for n, s in zip(patch_size, stride, strict=True) if s > 1), default=SMALLEST_AXIS * 2**most)
    layers = most
    while layers > 1 and SMALLEST_AXIS * 2**layers > shortest:
        layers -= 1
    return layers
