"""The device that a flag names."""

from __future__ import annotations

import platform

import pytest
import torch

from nnunet_ext.device import bfloat16_warning, pick_device
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


@pytest.mark.parametrize(
    ("machine", "has", "device", "warned"),
    [
        ("x86_64", {"avx2": True, "avx512_bf16": False}, "cpu", True),
        ("AMD64", {}, "cpu", True),
        ("x86_64", {"avx512_bf16": True}, "cpu", False),
        ("x86_64", {"amx_bf16": True}, "cpu", False),
        ("x86_64", {"avx2": True}, "cuda", False),
        ("aarch64", {}, "cpu", False),
    ],
)
def test_bfloat16_without_instructions_for_it_is_said(
    machine: str, has: dict[str, bool], device: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    line = bfloat16_warning(torch.device(device))
    assert (line is not None) == warned
    assert line is None or line.startswith("bfloat16: true, but this processor has neither of avx512_bf16 and amx_bf16")


def test_nothing_is_said_where_torch_does_not_know_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert bfloat16_warning(torch.device("cpu")) is None
