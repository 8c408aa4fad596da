"""Which device to compute on."""

from __future__ import annotations

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
