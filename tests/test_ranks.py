"""What processes do together, with the other rank pretended."""

from __future__ import annotations

import torch
from torch import nn

from nnunet_ext.ranks import average_gradients


def test_gradients_are_averaged_even_where_no_term_reached_a_layer(monkeypatch):
    networks = nn.ModuleList([nn.Linear(2, 1), nn.Linear(1, 3)])
    networks[0].weight.grad = torch.tensor([[1.0, 3.0]])
    average_gradients(networks.parameters())
    assert networks[0].weight.grad.tolist() == [[1, 3]]  # alone there is nothing to average
    assert networks[1].bias.grad is None
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda gradient: gradient.add_(1))  # the other rank has ones
    average_gradients(networks.parameters())
    assert networks[0].weight.grad.tolist() == [[1, 2]]
    assert networks[1].bias.grad.tolist() == [0.5, 0.5, 0.5]
