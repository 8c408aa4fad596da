"""A few-label training by two processes, as DDP runs it, with gloo on the CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

TRANSFORMER = {"embed_dim": 8, "depths": [1, 1, 1], "decoder_depths": [1, 1], "num_heads": [1, 2, 2], "window_size": 4}
SMALL = {"width": 16, "dim": 8, "pool": 128, "anchors": 16, "negatives": 16, "scales": (1, 4), "threshold": 0.34}


def _train(rank: int, port: int, resume: bool, updates: int, queue: Any) -> None:
    """Train, and die when so many updates are done."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "nnUNet_compile": "false"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module

    # nnU-Net takes it that DDP means GPUs: the device, and which of them DDP wraps.
    wrap = module.DDP
    module.DDP = lambda network, device_ids: wrap(network)
    trainer = get_trainer_from_args("901", "2d", 0, "nnUNetTrainerMCSCv2", "nnUNetPlans", resume, torch.device("cpu"))
    trainer.device, trainer.grad_scaler = torch.device("cpu"), None
    maybe_load_checkpoint(trainer, resume, False)
    step = trainer.train_step
    trainer.train_step = lambda batch: step(batch) if trainer.iteration < updates else os._exit(9)
    trainer.run_training()
    weights = [*trainer.pair.state_dict().values(), *trainer.contrast.state_dict().values()]
    rows = [bank.rows()["feature"].float().sum().item() for banks in trainer.contrast.banks for bank in banks]
    queue.put((rank, trainer.batch_size, [w.double().sum().item() for w in weights], rows))
    dist.barrier()
    dist.destroy_process_group()


def both(port: int, resume: bool = False, updates: int = 4) -> list[Any]:
    """What each of two processes ends with; nothing where they die before."""
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_train, args=(rank, port, resume, updates, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=240) for _ in processes] if updates == 4 else []
    for process in processes:
        process.join()
    return sorted(found)


@pytest.mark.slow
def test_students_and_projectors_stay_the_same_and_banks_are_each_ones_own(tiny: Path, change_settings):
    settings = {**SMALL, "bank": 500, "contrast_weight": 1.0}
    change_settings(SwinUNet=TRANSFORMER, MCSCv2=settings, schedule={"epochs": 2})
    plans = tiny / "preprocessed" / "Dataset901_Tiny" / "nnUNetPlans.json"
    plans.write_text(plans.read_text().replace('"batch_size": 2', '"batch_size": 4'))
    first, second = both(29531)
    assert first[1] == second[1] == 2  # patches of each
    assert first[2] == second[2]
    assert first[3] != second[3]
    # Killed in its second epoch and continued, each process with the bank that it had.
    folder = next((tiny / "results").rglob("fold_0"))
    (folder / "checkpoint_final.pth").unlink()
    assert both(29532, updates=3) == []
    assert not (folder / "checkpoint_final.pth").exists()
    assert both(29533, resume=True) == [first, second]
