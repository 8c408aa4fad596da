"""The base of all trainers: nnU-Net's data, steps and validation, in parts that a method can replace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from torch import nn

from nnunet_ext.data.dataset import subjects, unlabelled_cases
from nnunet_ext.device import bfloat16_warning
from nnunet_ext.errors import exit_on_input_error
from nnunet_ext.progress import duration
from nnunet_ext.ranks import average_gradients
from nnunet_ext.training import checkpoint
from nnunet_ext.training.batches import Batch, SeededBatches, worker_count
from nnunet_ext.training.resumable import ResumableTrainer
from nnunet_ext.training.split import Cases, split_cases
from nnunet_ext.training.streams import Following, ImagesOnly, Patches, without_benchmarks

CLIP = 12.0  # nnU-Net's own bound on a network's gradient


@dataclass(frozen=True)
class Augmentation:
    """nnU-Net's augmentation of this configuration; `initial_patch_size` is what it cuts down to the patch size."""

    initial_patch_size: Sequence[int]
    training: BasicTransform
    unlabelled: BasicTransform
    validation: BasicTransform


class ExtTrainer(ResumableTrainer):
    """nnU-Net's trainer plus what every trainer of this package shares. As it stands it is supervised.

    A trainer overrides
    - `section` and `Settings`, its part of the settings: `self.settings`, beside the shared `self.schedule`;
    - `build_network_architecture` for the network that predicts, `build_side_networks` to add what only training needs;
    - `training_batches` where a batch is more than labelled patches;
    - `train_step`, calling `update` and `log_terms`;
    - `inference_module`, where the network that predicts is not all of `self.network`;
    - `training_state` and `load_training_state` for everything beyond network, optimiser, schedule and random state.

    Wrong settings or data end the program with one line and exit code 2.
    """

    dataset_class: Any  # nnU-Net sets it to None until it initialises it
    _noted = ""  # what the log last said of the split

    # Data.

    @property
    def unlabelled(self) -> set[str]:
        """The cases that the dataset declares to be without labels."""
        return unlabelled_cases(self.dataset_json)

    def cases(self) -> Cases:
        """The labelled, unlabelled and validation cases of this fold."""
        folder = self.preprocessed_dataset_folder
        if self.dataset_class is None:
            self.dataset_class = infer_dataset_class(folder)
        splits_file = Path(self.preprocessed_dataset_folder_base) / "splits_final.json"
        identifiers = self.dataset_class.get_identifiers(folder)
        return split_cases(identifiers, self.unlabelled, self.fold, splits_file, subjects(self.dataset_json))

    def do_split(self) -> tuple[list[str], list[str]]:
        """Training and validation cases, as nnU-Net asks for them; validation cases are labelled."""
        with exit_on_input_error(type(self).__name__):
            cases = self.cases()
        if cases.note != self._noted:
            self._noted = cases.note
            self.print_to_log_file(cases.note)
        return cases.labelled + cases.unlabelled, cases.validation

    def augmentation(self) -> Augmentation:
        """nnU-Net's own augmentation for the patch size of the plans."""
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        labels = {
            "is_cascaded": self.is_cascaded,
            "foreground_labels": self.label_manager.foreground_labels,
            "regions": self.label_manager.foreground_regions if self.label_manager.has_regions else None,
            "ignore_label": self.label_manager.ignore_label,
        }

        def training(scales: list | None, labels: dict[str, Any]) -> BasicTransform:
            transforms = self.get_training_transforms(
                self.configuration_manager.patch_size,
                rotation,
                scales,
                mirror_axes,
                dummy_2d,
                use_mask_for_norm=self.configuration_manager.use_mask_for_norm,
                **labels,
            )
            return without_benchmarks(transforms)

        scales = self._get_deep_supervision_scales()
        return Augmentation(
            [int(n) for n in initial_patch_size],
            training(scales, labels),
            training(None, {}),
            without_benchmarks(self.get_validation_transforms(scales, **labels)),
        )

    def labelled_patches(
        self, cases: Sequence[str], batch_size: int, augmentation: Augmentation, following: Following | None = None
    ) -> Patches:
        """Augmented patches with labels, foreground oversampled as in nnU-Net.

        nnU-Net centres a whole number of a batch's patches on foreground. Where a part of a batch would have none, as
        one patch of 3D's usual two, each is instead centred with the same probability.
        """
        share = self.oversample_foreground_percent
        none_forced = batch_size < self.batch_size and round(batch_size * (1 - share)) == batch_size
        return self._patches(
            self._dataset(cases),
            batch_size,
            augmentation.initial_patch_size,
            augmentation.training,
            following,
            self.probabilistic_oversampling or none_forced,
        )

    def unlabelled_patches(
        self, cases: Sequence[str], batch_size: int, augmentation: Augmentation, following: Following | None = None
    ) -> Patches:
        """Augmented patches without labels; no label file of `cases` is opened."""
        dataset = ImagesOnly(self._dataset(cases), masked=any(self.configuration_manager.use_mask_for_norm))
        return self._patches(
            dataset, batch_size, augmentation.initial_patch_size, augmentation.unlabelled, following, False
        )

    def training_batches(self, cases: Cases, augmentation: Augmentation) -> Callable[[], Batch]:
        """What makes a training batch. Here: patches of the labelled cases; unlabelled ones are left out."""
        return self.labelled_patches(cases.labelled, self.batch_size, augmentation)

    def get_dataloaders(self) -> tuple[SeededBatches, SeededBatches]:
        """Training and validation batches, beginning where the current epoch does."""
        with exit_on_input_error(type(self).__name__):
            cases, augmentation = self.cases(), self.augmentation()
            self.print_to_log_file(cases.note)
            self._noted = cases.note
            patch_size = self.configuration_manager.patch_size
            training = self.training_batches(cases, augmentation)
            validation = self._patches(
                self._dataset(cases.validation),
                self.batch_size,
                patch_size,
                augmentation.validation,
                None,
                self.probabilistic_oversampling,
            )
        bytes_per_voxel = 4 * (self.num_input_channels + 1)
        workers = worker_count(self.device, 2 * bytes_per_voxel * self.batch_size * int(np.prod(patch_size)))
        self.print_to_log_file(f"Worker processes for training batches: {workers}")

        def batches(make: Callable[[], Batch], stream: str, per_epoch: int, workers: int) -> SeededBatches:
            return SeededBatches(
                make,
                seed=self.schedule.seed,
                stream=f"{stream} {self.local_rank}",
                start=self.current_epoch * per_epoch,
                workers=workers,
                pin_memory=self.device.type == "cuda",
            )

        return (
            batches(training, "training", self.num_iterations_per_epoch, workers),
            batches(validation, "validation", self.num_val_iterations_per_epoch, (workers + 1) // 2),
        )

    def _dataset(self, cases: Sequence[str]) -> Any:
        return self.dataset_class(
            self.preprocessed_dataset_folder,
            list(cases),
            folder_with_segs_from_previous_stage=self.folder_with_segs_from_previous_stage,
        )

    def _patches(
        self,
        dataset: Any,
        batch_size: int,
        initial_patch_size: Sequence[int],
        transforms: BasicTransform,
        following: Following | None,
        probabilistic_oversampling: bool,
    ) -> Patches:
        return Patches(
            dataset,
            batch_size,
            initial_patch_size,
            self.configuration_manager.patch_size,
            self.label_manager,
            transforms,
            oversample_foreground=self.oversample_foreground_percent,
            probabilistic_oversampling=probabilistic_oversampling,
            complete=bool(self.unlabelled),
            following=following,
        )

    # Training.

    def on_train_start(self) -> None:
        if self.schedule.bfloat16 and (warning := bfloat16_warning(self.device)):
            self.print_to_log_file(warning)
        super().on_train_start()

    def train_step(self, batch: Batch) -> dict[str, Any]:
        """nnU-Net's step on the labelled part, with its loss among the logged terms."""
        target = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
        images, *target = (x.to(self.device, non_blocking=True) for x in (batch["data"], *target))
        with self.autocast():
            output = self.network(images)
        loss = self.supervised([output] if isinstance(output, torch.Tensor) else output, target)
        self.update(loss, [self.network])
        self.log_terms(loss=loss)
        return {"loss": loss.detach().cpu().numpy()}

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision: nnU-Net's on a GPU, bfloat16 on a CPU if the settings ask for it."""
        if self.device.type == "cuda":
            return torch.autocast("cuda")
        if self.device.type == "cpu" and self.schedule.bfloat16:
            return torch.autocast("cpu", torch.bfloat16)
        return nullcontext()

    def supervised(self, logits: Sequence[torch.Tensor], target: Sequence[torch.Tensor]) -> torch.Tensor:
        """nnU-Net's loss in float32, with deep supervision where the network has it.

        Args:
            logits: full resolution first; several entries only where training uses deep supervision.
            target: (B, 1, *S) each.
        """
        logits = [level.float() for level in logits]
        if len(logits) > 1:
            return self.loss(logits, list(target))
        return self.full_loss(logits[0], target[0])

    @property
    def full_loss(self) -> nn.Module:
        """nnU-Net's loss at full resolution."""
        return self.loss.loss if self.enable_deep_supervision else self.loss

    def update(
        self,
        loss: torch.Tensor,
        clipped: Iterable[nn.Module],
        outside: Iterable[nn.Module] = (),
        beside: Iterable[torch.optim.Optimizer] = (),
    ) -> None:
        """One step of the optimiser.

        Args:
            loss: to go down.
            clipped: networks whose gradients are bounded, each by itself.
            outside: networks that DDP does not wrap.
            beside: further optimisers that take a step on the same gradients.
        """
        optimizers = [self.optimizer, *beside]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        scaler = self.grad_scaler
        (loss if scaler is None else scaler.scale(loss)).backward()
        for network in outside:
            average_gradients(network.parameters())
        if scaler is not None:
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
        for network in clipped:
            torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        for optimizer in optimizers:
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
        if scaler is not None:
            scaler.update()
        self.iteration += 1

    def log_terms(self, **terms: float | torch.Tensor) -> None:
        """Report one step's terms; their means per epoch go to `terms.csv` and `terms.png` in the fold's folder."""
        self.terms.add(**terms)

    def validation_step(self, batch: Batch) -> dict[str, Any]:
        with self._predicting():
            return super().validation_step(batch)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.inference_module().eval()

    def on_epoch_end(self) -> None:
        """Log, keep the best and the latest checkpoint, and say how long the rest will take."""
        own = self.terms.means()
        everyone = self.from_all_ranks(own)
        means = {name: float(np.mean([m[name] for m in everyone])) for name in own}
        learning_rate = float(self.optimizer.param_groups[0]["lr"])
        dice = float(self.logger.get_value("mean_fg_dice", step=-1))
        self.terms.close_epoch(self.current_epoch, {"lr": learning_rate, **means, "validation_dice": dice})
        # nnU-Net writes the latest checkpoint before it looks whether this epoch is the best, so the latest one would
        # not know of it.
        ema = self.logger.get_value("ema_fg_dice", step=-1)
        if self._best_ema is None or ema > self._best_ema:
            self._best_ema = ema
            self.print_to_log_file(f"New best EMA pseudo Dice: {ema:.4f}")
            self.save_checkpoint(str(Path(self.output_folder) / "checkpoint_best.pth"))
        super().on_epoch_end()
        begins, ends = (self.logger.get_value(f"epoch_{edge}_timestamps", step=None) for edge in ("start", "end"))
        seconds = float(np.mean([end - begin for begin, end in zip(begins[-5:], ends[-5:], strict=True)]))
        if left := self.num_epochs - self.current_epoch:
            self.print_to_log_file(f"About {duration(seconds * left)} left")

    def on_train_end(self) -> None:
        super().on_train_end()
        for loader in (self.dataloader_train, self.dataloader_val):
            loader.close()

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Switch the network's outputs at lower resolutions on or off.

        They stay off where training does without: nnU-Net ends its validation by switching them on.
        """
        network: Any = checkpoint.unwrap(self.network)
        network.decoder.deep_supervision = enabled and self.enable_deep_supervision

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's sliding-window validation of the labelled validation cases, by the network that predicts."""
        with self._predicting():
            super().perform_actual_validation(save_probabilities)

    @contextmanager
    def _predicting(self) -> Iterator[None]:
        """Let `self.network` be the network that predicts."""
        whole, predicting = self.network, self.inference_module()
        if predicting is not checkpoint.unwrap(whole):
            self.network = predicting
        try:
            yield
        finally:
            self.network = whole
