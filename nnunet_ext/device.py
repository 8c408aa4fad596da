"""Which device to compute on, and how."""

from __future__ import annotations

import platform

import torch

from nnunet_ext.errors import InputError


def pick_device(name: str | None) -> torch.device:
    """The device that a flag names, or the first GPU, or the CPU.

    Raises:
        InputError: when it is none of these or not there.
    """
    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(chosen)
    except RuntimeError:
        raise InputError(f"--device {chosen}: not a device, cpu, cuda or cuda:N is needed") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {chosen}: cpu, cuda or cuda:N is needed")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"--device {chosen}: {torch.cuda.device_count()} CUDA devices are usable here, cpu always is")
    return device


def bfloat16_warning(device: torch.device) -> str | None:
    """A line for who asks for bfloat16 on a processor without instructions for it, where an update takes tens of times
    as long as in float32; None where it is worth it or cannot be known.
    """
    native = ("avx512_bf16", "amx_bf16")
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    if not hasattr(torch.cpu, "get_capabilities"):  # as in older versions of torch
        return None
    capabilities = torch.cpu.get_capabilities()
    if any(capabilities.get(name) for name in native):
        return None
    return (
        f"bfloat16: true, but this processor has neither of {' and '.join(native)}: training will be many times slower"
        " than with bfloat16: false"
    )
