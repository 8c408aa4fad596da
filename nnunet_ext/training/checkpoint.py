"""What a checkpoint holds and how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_ext.errors import InputError
from nnunet_ext.files import atomic_path

KEY = "nnunet_ext"


def unwrap(module: nn.Module) -> nn.Module:
    """The network itself, without what DDP and `torch.compile` put around it."""
    if isinstance(module, DistributedDataParallel):
        module = module.module
    return module._orig_mod if isinstance(module, OptimizedModule) else module


def plain(value: Any) -> Any:
    """`value` with containers, numbers and arrays of Python's own types, everything else as text.

    `torch.load(..., weights_only=True)` reads the result.
    """
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(v) for v in value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if value is None or isinstance(value, str | int | float | bool | torch.Tensor):
        return value
    return str(value)


def on_cpu(value: Any) -> Any:
    """`value` with the tensors of its containers on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: on_cpu(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_cpu(entry) for entry in value)
    return value


def write(checkpoint: dict[str, Any], target: Path | str) -> None:
    """Write a checkpoint so that `target` is the old one or the new one, never a part."""
    with atomic_path(target) as partial:
        torch.save(checkpoint, partial)


def read(source: Path | str, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint without executing pickled code.

    Raises:
        InputError: when it was not written by one of this package's trainers.
    """
    checkpoint = torch.load(source, map_location=device, weights_only=True)
    if KEY not in checkpoint:
        raise InputError(
            f"{source}: not written by a trainer of nnunet_ext, a checkpoint of this trainer is needed to continue;"
            " where their networks are the same, -pretrained_weights starts from it"
        )
    return checkpoint


def part(state: Mapping[str, Any], name: str, setting: str) -> Any:
    """What `state` holds under `name`.

    Raises:
        InputError: when there is nothing, because what needs it was switched on after the checkpoint was written.
    """
    if state.get(name) is None:
        raise InputError(
            f"the checkpoint holds no {name}: it was written with {setting} switched off. The settings that it was"
            " trained with are needed to continue, or a start without --c"
        )
    return state[name]


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Load a state dictionary into the unwrapped module.

    Raises:
        InputError: when they are of another architecture; the message names the first difference.
    """
    own = unwrap(module).state_dict()
    for name in [*own, *weights]:
        there, here = (tuple(d[name].shape) if name in d else None for d in (weights, own))
        if there != here:
            raise InputError(
                f"{source}: {name} is {there or 'missing'} there and {here or 'missing'} in the network,"
                " the settings that it was trained with are needed"
            )
    unwrap(module).load_state_dict(weights)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], source: str) -> None:
    """Load an optimiser's state.

    Raises:
        InputError: when it had other parameters, because a term with weights of its own was switched on or off since.
    """
    try:
        optimizer.load_state_dict(state)
    except ValueError as error:
        raise InputError(
            f"{source}: its optimiser does not fit ({error}), the settings that it was trained with are needed to"
            " continue, or a start without --c"
        ) from None
