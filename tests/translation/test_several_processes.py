"""`translate fit` by torchrun on two CPU processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from nnunet_ext.ranks import average_gradients
from translation.model import FINAL


def _worker(rank, port, queue):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1, 3))]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, float(rank + 1))
    average_gradients(parameters)
    queue.put([p.grad.tolist() for p in parameters])
    dist.destroy_process_group()


@pytest.mark.slow
def test_gradients_are_averaged():
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_worker, args=(rank, 29511, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert found == [[[1.5, 1.5], [[1.5, 1.5, 1.5]]]] * 2


@pytest.mark.slow
def test_torchrun_fits_one_model(hearts, tmp_path):
    script = tmp_path / "go.py"
    script.write_text("from nnunet_ext.cli import main; main()")
    settings = ("width=4", "blocks=1", "crop=[48,48]", "batch_size=1", "iterations_per_epoch=2", "epochs=2")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script),
        "translate", "fit", "-s", "901", "-t", "902", "-m", "cyclegan", "-o", str(tmp_path / "model"),
        "--preset", "cpu", "--device", "cpu", *(w for s in settings for w in ("--set", s)),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    weights = torch.load(tmp_path / "model" / FINAL, weights_only=True)["weights"]
    assert all(torch.isfinite(w).all() for w in weights.values())
    assert (tmp_path / "model" / "terms.csv").read_text().count("\n") == 3
