"""nnU-Net's own training, with its length and seed from the settings."""

from __future__ import annotations

import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper


def test_all_but_the_schedule_is_nnunets(train, change_settings):
    change_settings(schedule={"epochs": 2, "iterations_per_epoch": 3, "val_iterations_per_epoch": 4, "save_every": 7})
    trainer = train("nnUNetTrainerBaseline", stop=True)
    trainer.initialize()
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (2, 3)
    assert (trainer.num_val_iterations_per_epoch, trainer.save_every) == (4, 7)
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    assert trainer.optimizer.param_groups[0]["lr"] == 1e-2
    assert isinstance(trainer.loss, DeepSupervisionWrapper)
    assert type(trainer.network).__module__.startswith("dynamic_network_architectures")


def test_trains_in_3d_and_validates(train, threads_for_processes):
    trainer = train("nnUNetTrainerBaseline", "3d_fullres")
    trainer.perform_actual_validation()
    assert trainer.network.decoder.deep_supervision
    assert len(trainer.logger.get_value("val_losses", step=None)) == 2
