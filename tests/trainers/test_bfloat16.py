"""Mixed precision on a CPU: networks compute in bfloat16, losses and weights stay in float32."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

TINY = {"embed_dim": 8, "depths": [1, 1], "decoder_depths": [1], "num_heads": [1, 2], "window_size": 4}
NAMES = ("Baseline", "SwinUNet", "UAMT", "MCSC", "MCSCv2", "CBAL", "AccSeg")


def started(train, name):
    """A trainer that could make its first update."""
    trainer = train(f"nnUNetTrainer{name}", stop=True)
    trainer.initialize()
    return trainer


def computed_in(trainer) -> set[torch.dtype]:
    """The types that the convolutions of the networks in training give out in one update."""
    types = set()
    handles = [
        layer.register_forward_hook(lambda _, __, output: types.add(output.dtype))
        for layer in trainer.network.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    assert math.isfinite(trainer.train_step(next(trainer.get_dataloaders()[0]))["loss"])
    for handle in handles:
        handle.remove()
    return types


@pytest.mark.parametrize("name", NAMES)
def test_networks_compute_in_bfloat16_if_the_settings_say_so(name, train, change_settings):
    change_settings(
        schedule={"bfloat16": True}, SwinUNet=TINY, CBAL={"discriminator_width": 4},
        AccSeg={"width": 4, "blocks": 1, "discriminator_width": 4, "patches": 4, "projector_width": 8},
    )  # fmt: skip
    trainer = started(train, name)
    assert torch.bfloat16 in computed_in(trainer)
    assert {p.dtype for p in trainer.network.parameters()} == {torch.float32}
    assert all(math.isfinite(value) for value in trainer.terms.means().values())


def test_float32_otherwise(train, change_settings):
    change_settings(CTS={}, SwinUNet=TINY)
    assert computed_in(started(train, "CTS")) == {torch.float32}
