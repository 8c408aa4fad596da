"""Which device to compute on."""

from __future__ import annotations

import torch

from nnunet_ext.errors import InputError


def pick_device(name: str | None) -> torch.device:
    """The device that a flag names, or the first GPU, or the CPU.

    Raises:
        InputError: when it is not there.
    """
    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(chosen)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {chosen}: {str(error).splitlines()[0]}; cpu, cuda or cuda:N is needed") from None
    return device
