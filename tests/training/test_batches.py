"""Batches by number: the same whoever makes them, and a loader that says why it stopped."""

from __future__ import annotations

import os
import random
import signal
import threading

import numpy as np
import pytest
import torch

from nnunet_ext.training import batches as module
from nnunet_ext.training.batches import LoaderError, SeededBatches, worker_count


def draw() -> dict:
    """A batch of one draw from each of the three generators."""
    return {"draws": torch.tensor([random.random(), np.random.rand(), torch.rand(1).item()], dtype=torch.float64)}


def taken(count: int, **kwargs) -> list[list[float]]:
    stream = SeededBatches(draw, **{"seed": 1, "stream": "training", **kwargs})
    result = [next(stream)["draws"].tolist() for _ in range(count)]
    stream.close()
    return result


def test_worker_count_does_not_change_the_batches():
    alone = taken(6)
    assert taken(6, workers=1) == alone
    assert taken(6, workers=2) == alone
    assert len({tuple(b) for b in alone}) == 6


def test_starting_later_gives_the_same_numbers():
    assert taken(2, start=4) == taken(6)[4:]
    assert taken(2, start=4, workers=2) == taken(6)[4:]


def test_seed_and_stream_change_every_draw():
    first = np.array(taken(3))
    for other in (taken(3, seed=2), taken(3, stream="validation")):
        assert (first != np.array(other)).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_global_random_state_is_left_alone(workers):
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    taken(2, workers=workers)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def never() -> dict:
    threading.Event().wait()
    return {}


def test_a_stalled_loader_says_why_instead_of_hanging():
    stream = SeededBatches(never, seed=0, stream="training", workers=1, timeout=1)
    with pytest.raises(LoaderError, match=r"timed out after 1 .*is alive; .*MiB of memory available; nnUNet_n_proc_DA"):
        next(stream)


def die() -> dict:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def test_a_killed_worker_is_reported_with_its_exit_code():
    stream = SeededBatches(die, seed=0, stream="training", workers=1, timeout=30)
    with pytest.raises(LoaderError, match=r"ended with exit code -9; .*/dev/shm"):
        next(stream)


def fail() -> dict:
    raise ValueError("case7: broken")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_the_data_is_not_taken_for_a_stall(workers):
    stream = SeededBatches(fail, seed=0, stream="training", workers=workers)
    with pytest.raises(ValueError, match="case7: broken"):
        next(stream)
    stream.close()


def test_worker_count(monkeypatch, tmp_path):
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    monkeypatch.setattr(module, "get_allowed_n_proc_DA", lambda: 12)
    cores = set(range(4))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
    monkeypatch.setattr(module, "SHARED_MEMORY", tmp_path)
    assert worker_count(cuda, 1) == 4
    assert worker_count(cpu, 1) == 0
    assert worker_count(cuda, 1 << 60) == 0
    cores.update(range(16))
    assert (worker_count(cuda, 1), worker_count(cpu, 1)) == (12, 2)
    monkeypatch.setenv("nnUNet_n_proc_DA", "12")
    assert worker_count(cpu, 1 << 60) == 12
