"""What the processes of one training do together where DistributedDataParallel does not do it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import distributed, nn


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over all ranks, in one message; nothing to do where there is one rank.

    DistributedDataParallel expects one forward pass for each backward pass, and the same layers in each. Networks that
    are used otherwise stay outside it and come here after `backward`. A parameter that no term reached on this rank
    counts as zero: one may have on another.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    everything = list(parameters)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in everything]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for parameter, part in zip(everything, flat.split([p.numel() for p in everything]), strict=True):
        parameter.grad = part.view_as(parameter)
