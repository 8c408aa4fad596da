"""The device that a flag names."""

from __future__ import annotations

import pytest
import torch

from nnunet_ext.device import pick_device
from nnunet_ext.errors import InputError


def test_without_a_flag_it_is_the_first_gpu_or_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device(None) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device(None) == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="--device cuda:2: 2 CUDA devices are usable here"):
        pick_device("cuda:2")


@pytest.mark.parametrize("name", ["abacus", "meta", "cuda:x", "cuda"])
def test_what_is_no_device_here_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match=f"^--device {name}: .*cpu"):
        pick_device(name)
