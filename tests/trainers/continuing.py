"""What trainers leave in their checkpoints, and runs that are killed and go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


class Killed(BaseException):
    """Stands for a signal."""


def content(trainer: Any, name: str = "checkpoint_final.pth") -> dict[str, Any]:
    """A checkpoint; read as tensors and plain types only, which fails where it holds anything else."""
    return torch.load(Path(trainer.output_folder) / name, weights_only=True)


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, whatever is nested in them."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def interrupt(patch: pytest.MonkeyPatch, trainer: type, method: str, call: int) -> None:
    """Let a run die when it enters `method` for the given time.

    A trainer's class is imported anew for each run, its bases are not: patched is the base that has the method.
    """
    owner = next(cls for cls in trainer.__mro__ if method in vars(cls))
    original, calls = getattr(owner, method), []

    def dying(self: Any, *args: Any) -> Any:
        calls.append(0)
        if len(calls) == call:
            raise Killed
        return original(self, *args)

    patch.setattr(owner, method, dying)


def check_continues_exactly(train: Callable[..., Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of two epochs, killed in its second and continued, ends as the uninterrupted one."""
    whole = train(name)
    assert whole.current_epoch == 2
    expected, terms = content(whole), Path(whole.output_folder, "terms.csv").read_text()
    with monkeypatch.context() as patch:
        interrupt(patch, type(whole), "train_step", 4)
        with pytest.raises(Killed):
            train(name)
    Path(whole.output_folder, "checkpoint_final.pth").unlink()
    continued = train(name, resume=True)
    for part in ("network_weights", "optimizer_state", "nnunet_ext"):
        assert same(content(continued)[part], expected[part]), part
    assert Path(whole.output_folder, "terms.csv").read_text() == terms
