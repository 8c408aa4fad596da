"""Networks for prediction: built as the trainer built them, with the fastest exact form of their layers."""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch.nn import functional as F

from nnunet_ext.errors import InputError
from nnunet_ext.paths import trainer_folder

PLAIN_TRAINER = "nnUNetTrainer"
SMALL_MAP = 1024  # pixels


def trainer_class(name: str) -> Any:
    """The class of a trainer: this project's, nnU-Net's own, or one in a folder that `nnUNet_extTrainer` names.

    Raises:
        InputError: when there is none of that name.
    """
    if not name.isidentifier():  # a model package says it, and a path would be opened and executed
        raise InputError(f"trainer {name!r}: not the name of a class, one is needed")
    file = trainer_folder() / f"{name}.py"
    if file.is_file():
        # Only this file: nnU-Net's search would first import all of its own trainers, which takes seconds.
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, name)
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    os.environ.setdefault("nnUNet_extTrainer", str(trainer_folder()))
    try:
        with redirect_stdout(io.StringIO()):  # the search reports every file it opens
            return recursive_find_trainer_class_by_name(name)
    except RuntimeError:
        searched = os.environ["nnUNet_extTrainer"]
        raise InputError(f"trainer {name}: not found in nnU-Net or in {searched} (nnUNet_extTrainer)") from None


def has_network_of_plans(trainer: str) -> bool:
    """Whether a trainer's network is the one its plans describe, so that prediction need not import the trainer."""
    if trainer == PLAIN_TRAINER:
        return True
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    return trainer_class(trainer).build_network_architecture is nnUNetTrainer.build_network_architecture


def build_network(
    plans: dict[str, Any],
    configuration: str,
    dataset: dict[str, Any],
    trainer: str,
    network_of_plans: bool,
    weights: Mapping[str, torch.Tensor],
) -> nn.Module:
    """The network of one fold, in evaluation mode, on the CPU.

    Args:
        weights: the checkpoint's `network_weights`.

    Raises:
        InputError: when the weights do not fit the network.
    """
    manager = PlansManager(plans)
    conf = manager.get_configuration(configuration)
    inputs = determine_num_input_channels(manager, conf, dataset)
    outputs = manager.get_label_manager(dataset).num_segmentation_heads
    if network_of_plans:
        network = get_network_from_plans(
            conf.network_arch_class_name,
            conf.network_arch_init_kwargs,
            conf.network_arch_init_kwargs_req_import,
            inputs,
            outputs,
            allow_init=False,
            deep_supervision=False,
        )
    else:
        build = trainer_class(trainer).build_network_architecture
        network = build(manager, conf, inputs, outputs, enable_deep_supervision=False)
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"weights of {trainer} {configuration}: do not fit its network ({reason})") from None
    return network.eval().requires_grad_(False)


def fast_on_cpu(network: nn.Module, spatial_dims: int) -> nn.Module:
    """The same function in the form that a CPU computes fastest, changed in place."""
    network = with_fast_norms(network)
    # oneDNN then need not reorder what goes into a convolution and what comes out.
    return network.to(memory_format=torch.channels_last) if spatial_dims == 2 else network


def with_fast_norms(network: nn.Module) -> nn.Module:
    """Replace every plain instance norm by a group norm with one channel per group, in place.

    The two are the same function. On a CPU torch computes instance norm through batch norm in several passes; its
    group norm is one vectorised kernel, which makes a U-Net about 1.5 times as fast.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.InstanceNorm2d | nn.InstanceNorm3d) and not child.track_running_stats:
            setattr(network, name, _InstanceNorm(child))
        else:
            with_fast_norms(child)
    return network


class _InstanceNorm(nn.Module):
    def __init__(self, norm: nn.InstanceNorm2d | nn.InstanceNorm3d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Below this size torch takes another kernel for channels-last maps, which is several times slower.
        if x.ndim == 4 and x.shape[2] * x.shape[3] < SMALL_MAP:
            x = x.contiguous()
        return F.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)
