"""nnU-Net's trainer with settings from the plans, a seed, and checkpoints that go on exactly."""

from __future__ import annotations

from pathlib import Path
from time import time
from typing import Any, ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed as dist
from torch import nn

from nnunet_ext.errors import exit_on_input_error
from nnunet_ext.seeding import random_state, restore_random_state, seed_everything
from nnunet_ext.training import checkpoint
from nnunet_ext.training.settings import Schedule, Section, plans_settings
from nnunet_ext.training.terms import Terms


class ResumableTrainer(nnUNetTrainer):
    """What a training is and how it goes on: its settings, its seed, its checkpoints. `ExtTrainer` adds how it learns.

    Wrong settings end the program with one line and exit code 2, and so does a checkpoint that does not fit.
    """

    section: ClassVar[str] = "Baseline"
    Settings: ClassVar[type[Section]] = Section

    # nnU-Net sets this to None until it initialises it.
    network: Any

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int | str,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 nnU-Net's signature, which it inspects
    ) -> None:
        with exit_on_input_error(type(self).__name__):
            self.schedule = plans_settings(plans, configuration, "schedule", Schedule)
            self.settings: Any = plans_settings(plans, configuration, self.section, self.Settings)
        # nnU-Net takes the key out of the dictionary it is given, and only its own program puts it there.
        super().__init__({"continue_training": False, **plans}, configuration, fold, dataset_json, device)
        self.num_epochs = self.schedule.epochs
        self.num_iterations_per_epoch = self.schedule.iterations_per_epoch
        self.num_val_iterations_per_epoch = self.schedule.val_iterations_per_epoch
        self.save_every = self.schedule.save_every
        self.iteration = 0  # updates done since the beginning of the training
        self.terms = Terms(Path(self.output_folder) if self.local_rank == 0 else None)
        self._random_state: dict[str, Any] | None = None

    def initialize(self) -> None:
        """Build network, optimiser and loss under the run's seed."""
        seed_everything(self.schedule.seed)
        with exit_on_input_error(type(self).__name__):  # settings that do not fit one another
            super().initialize()
            self.build_side_networks()

    def build_side_networks(self) -> None:
        """Build what only training needs; network, optimiser and loss are there. Here: nothing."""

    def on_train_start(self) -> None:
        """Begin with the checkpoint's random state, or with the seed's where there is none."""
        if self.local_rank == 0:
            # What a run that was killed while it wrote a checkpoint left behind.
            for partial in Path(self.output_folder).glob(".partial-*"):
                partial.unlink(missing_ok=True)
        super().on_train_start()
        if self._random_state is None:
            seed_everything(self.schedule.seed + self.local_rank)
        else:
            restore_random_state(self._random_state)

    # What a checkpoint holds.

    def inference_module(self) -> nn.Module:
        """The network that predicts, unwrapped; its state becomes the checkpoint's `network_weights`.

        It is a part of `self.network`, or its weights are in `training_state`, which is what continuing goes on from.

        While it validates, `self.network` is this network: what nnU-Net calls then (`set_deep_supervision_enabled`)
        must not expect the whole.
        """
        return checkpoint.unwrap(self.network)

    def training_state(self) -> dict[str, Any]:
        """What else training needs to go on exactly: tensors, numbers, text and containers of these."""
        return {}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take over what `training_state` gave."""

    def rank_state(self) -> dict[str, Any]:
        """The part of it that differs between the processes of one training, such as memory banks."""
        return {}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        """Take over what `rank_state` of this process gave."""

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint atomically: nnU-Net's keys, and under `nnunet_ext` what continuing exactly needs."""
        if self.disable_checkpointing:
            self.print_to_log_file("No checkpoint written, checkpointing is disabled")
            return
        states = self.from_all_ranks(checkpoint.plain(random_state()))
        # Tensors travel between processes, and come back, on the CPU.
        rank_states = self.from_all_ranks(checkpoint.on_cpu(self.rank_state()))
        if self.local_rank != 0:
            return
        whole, predicting = checkpoint.unwrap(self.network), self.inference_module()
        logging = checkpoint.plain(self.logger.get_checkpoint())
        # The best checkpoint is written before nnU-Net notes the end of its epoch.
        ends = logging["epoch_end_timestamps"]
        ends += [time()] * (self.current_epoch + 1 - len(ends))
        content = {
            "network_weights": predicting.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler is not None else None,
            "logging": logging,
            "_best_ema": checkpoint.plain(self._best_ema),
            "current_epoch": self.current_epoch + 1,
            "init_args": checkpoint.plain(self.my_init_kwargs),
            "trainer_name": type(self).__name__,
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            checkpoint.KEY: {
                "training_network": None if predicting is whole else whole.state_dict(),
                "lr_scheduler": self.lr_scheduler.state_dict(),
                "random_states": states,
                "training_state": self.training_state(),
                "rank_states": rank_states,
            },
        }
        checkpoint.write(content, filename)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Take over a checkpoint written by `save_checkpoint`, from its file or as the dictionary."""
        with exit_on_input_error(type(self).__name__):
            self._load_checkpoint(filename_or_checkpoint)

    def _load_checkpoint(self, source: dict | str) -> None:
        if not self.was_initialized:
            self.initialize()
        name = source if isinstance(source, str) else "checkpoint"
        content = checkpoint.read(source, self.device) if isinstance(source, str) else source
        own = content[checkpoint.KEY]
        # Another network may have predicted then than does now: what predicts is in the whole or in the training state.
        whole = own["training_network"]
        checkpoint.load_weights(self.network, content["network_weights"] if whole is None else whole, name)
        self.load_training_state(own["training_state"])
        checkpoint.load_optimizer(self.optimizer, content["optimizer_state"], name)
        self.lr_scheduler.load_state_dict(own["lr_scheduler"])
        if self.grad_scaler is not None and content["grad_scaler_state"] is not None:
            self.grad_scaler.load_state_dict(content["grad_scaler_state"])
        self.my_init_kwargs = content["init_args"]
        self.current_epoch = content["current_epoch"]
        self.iteration = self.current_epoch * self.num_iterations_per_epoch
        self.logger.load_checkpoint(content["logging"])
        self._best_ema = content["_best_ema"]
        self.inference_allowed_mirroring_axes = content["inference_allowed_mirroring_axes"]
        self.terms.resume(self.current_epoch)
        states, rank_states = own["random_states"], own["rank_states"]
        self._random_state = states[self.local_rank] if self.local_rank < len(states) else None
        # More processes than before: a new one begins with an empty memory.
        if self.local_rank < len(rank_states):
            self.load_rank_state(rank_states[self.local_rank])

    def from_all_ranks(self, value: Any) -> list[Any]:
        """Every process's value, in the order of their ranks."""
        if not self.is_ddp:
            return [value]
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
        return values
