"""Batches that depend on the seed and their own number only, whoever makes them."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch.utils.data import DataLoader, Dataset

Batch = dict[str, Any]

SHARED_MEMORY = Path("/dev/shm")
STALL_SECONDS = 600.0
PREFETCH = 2  # batches that a worker keeps ready
CORES_PER_CPU_WORKER = 8


class LoaderError(RuntimeError):
    """The data loading stalled or died; the message says what the machine looked like."""


class SeededBatches(Iterator[Batch]):
    """An endless, ordered stream of batches, of which number i is a function of `(seed, stream, i)` alone.

    The worker count changes neither the batches nor the global random state of the training process.

    Args:
        make: makes one batch, drawing from Python's, NumPy's and torch's global CPU generators. It goes to the
            worker processes, so it must be picklable where processes are not forked.
        seed: of the run.
        stream: name of the stream; two streams of one run differ by it.
        start: number of the first batch.
        workers: worker processes; 0 makes batches in the calling process.
        pin_memory: put the tensors into page-locked memory.
        timeout: seconds without a batch from the workers that count as a stall.

    Raises:
        LoaderError: from `next`, when a worker died or no batch came in time.
    """

    def __init__(
        self,
        make: Callable[[], Batch],
        *,
        seed: int,
        stream: str,
        start: int = 0,
        workers: int = 0,
        pin_memory: bool = False,
        timeout: float = STALL_SECONDS,
    ) -> None:
        self.workers = workers
        self._batches = _Numbered(make, seed, stream)
        self._loader: Any = None
        if workers == 0:
            self._iterator: Iterator[Batch] = (self._batches[i] for i in itertools.count(start))
            return
        loader = DataLoader(
            self._batches,
            batch_size=None,
            sampler=itertools.count(start),
            num_workers=workers,
            prefetch_factor=PREFETCH,
            pin_memory=pin_memory,
            collate_fn=_unchanged,
            timeout=timeout,
            # Without a generator of its own the loader would draw its base seed from the global one.
            generator=torch.Generator().manual_seed(0),
        )
        self._iterator = self._loader = iter(loader)

    def __next__(self) -> Batch:
        try:
            return next(self._iterator)
        except RuntimeError as error:
            if self._loader is None or not str(error).startswith("DataLoader"):
                raise
            message = _diagnosis(str(error).splitlines()[0], self._loader)
            self.close()
            raise LoaderError(message) from error

    def close(self) -> None:
        """End the worker processes; the stream cannot be used afterwards."""
        if self._loader is not None:
            self._loader._shutdown_workers()
            self._loader = None
        self._iterator = iter(())


def worker_count(device: torch.device, batch_bytes: int) -> int:
    """How many processes should prepare batches for one training process.

    `nnUNet_n_proc_DA` decides where it is set. Otherwise nnU-Net's number, but no more than there are cores that this
    process may use, one in eight of them where the network itself computes there, and none where shared memory is
    too small to hand batches over.

    Args:
        device: where the network computes.
        batch_bytes: size of one batch.
    """
    allowed = get_allowed_n_proc_DA()
    if "nnUNet_n_proc_DA" in os.environ:
        return allowed
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # On a CPU a batch takes a twentieth of the update's time: a process of its own would only compete with it.
    workers = min(allowed, cores if device.type != "cpu" else cores // CORES_PER_CPU_WORKER)
    if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free < 2 * workers * (PREFETCH + 1) * batch_bytes:
        return 0
    return workers


class _Numbered(Dataset[Batch]):
    """Batches by number."""

    def __init__(self, make: Callable[[], Batch], seed: int, stream: str) -> None:
        self.make = make
        self.key = (seed, zlib.crc32(stream.encode()))

    def __getitem__(self, number: int) -> Batch:
        with _cpu_randomness((*self.key, number)):
            return self.make()


@contextmanager
def _cpu_randomness(key: tuple[int, ...]) -> Iterator[None]:
    """Seed the CPU generators for a block and put their states back.

    The GPU's generators are left alone: a forked worker may not touch them.
    """
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    a, b, c = (int(s) for s in np.random.SeedSequence(key).generate_state(3))
    random.seed(a)
    np.random.seed(b)
    torch.default_generator.manual_seed(c)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


def _unchanged(batch: Any) -> Any:
    return batch


def _diagnosis(error: str, loader: Any) -> str:
    """One line: what happened to whom, how much memory there is, and what to try."""
    states = ", ".join(
        f"worker {w.pid} " + ("is alive" if w.exitcode is None else f"ended with exit code {w.exitcode}")
        for w in loader._workers
    )
    if SHARED_MEMORY.is_dir():
        usage = shutil.disk_usage(SHARED_MEMORY)
        shared = f"{usage.free >> 20} of {usage.total >> 20} MiB of {SHARED_MEMORY} free"
    else:
        shared = f"no {SHARED_MEMORY}"
    return (
        f"no training batch: {error}; {states}; {shared}; {_available_memory()};"
        " nnUNet_n_proc_DA=0 loads without worker processes"
    )


def _available_memory() -> str:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return f"{int(lines['MemAvailable'].split()[0]) >> 10} MiB of memory available"
    except (OSError, KeyError, ValueError):
        return "available memory unknown"
