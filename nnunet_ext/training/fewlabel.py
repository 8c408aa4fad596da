"""The base of all trainers that learn from labelled and unlabelled cases together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.collate_outputs import collate_outputs
from torch import Tensor, nn

from nnunet_ext.errors import InputError, exit_on_input_error
from nnunet_ext.training.batches import Batch
from nnunet_ext.training.split import Cases
from nnunet_ext.training.streams import Following, TwoStreams, halves
from nnunet_ext.training.trainer import Augmentation, ExtTrainer

CLIP = 12.0  # nnU-Net's own bound on a network's gradient


class FewLabelTrainer(ExtTrainer):
    """Half of every batch is labelled, half is not; nnU-Net's loss on the labelled half.

    The two halves go through the networks together, labelled first. A method says in `train_step` what else it learns.
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int | str,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 nnU-Net's signature, which it inspects
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        with exit_on_input_error(type(self).__name__):
            if self.label_manager.has_regions:
                raise InputError(
                    f"{self.plans_manager.dataset_name}/dataset.json: labels are regions that overlap,"
                    " labels that exclude each other are needed to learn from unlabelled cases"
                )
        self.classes = self.label_manager.num_segmentation_heads

    @property
    def updates(self) -> int:
        """Updates of the whole training."""
        return self.num_epochs * self.num_iterations_per_epoch

    @property
    def progress(self) -> float:
        """0 at the first update, 1 after the last."""
        return self.iteration / self.updates

    # Data.

    def following(self, cases: Cases) -> Following | None:
        """What follows the images through their augmentation. Here: nothing."""
        return None

    def training_batches(self, cases: Cases, augmentation: Augmentation) -> Callable[[], Batch]:
        if not cases.unlabelled:
            raise InputError(
                f"{self.plans_manager.dataset_name}/dataset.json: no case of this fold is unlabelled,"
                f" {type(self).__name__} needs some (nnunet_ext.unlabelled names them)"
            )
        labelled, unlabelled = halves(self.batch_size)
        following = self.following(cases)
        return TwoStreams(
            self.labelled_patches(cases.labelled, labelled, augmentation, following),
            self.unlabelled_patches(cases.unlabelled, unlabelled, augmentation, following),
        )

    def to_device(self, batch: Batch) -> tuple[Tensor, list[Tensor], int]:
        """Images of both halves, the targets with full resolution first, and how many images are labelled."""
        target = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
        images = torch.cat((batch["data"], batch["unlabelled"])).to(self.device, non_blocking=True)
        return images, [t.to(self.device, non_blocking=True) for t in target], len(batch["data"])

    # Training.

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision on a GPU, as in nnU-Net."""
        return torch.autocast("cuda") if self.device.type == "cuda" else nullcontext()

    def supervised(self, logits: list[Tensor], target: list[Tensor]) -> Tensor:
        """nnU-Net's loss, with deep supervision where the network has it.

        Args:
            logits: full resolution first; several entries only where training uses deep supervision.
            target: (B, 1, *S) each.
        """
        if len(logits) > 1:
            return self.loss(logits, target)
        return self.full_loss(logits[0], target[0])

    @property
    def full_loss(self) -> nn.Module:
        """nnU-Net's loss at full resolution."""
        return self.loss.loss if self.enable_deep_supervision else self.loss

    def update(
        self,
        loss: Tensor,
        clipped: Iterable[nn.Module],
        average: Callable[[], None] | None = None,
        beside: Iterable[torch.optim.Optimizer] = (),
    ) -> None:
        """One step of the optimiser.

        Args:
            loss: to go down.
            clipped: networks whose gradients are bounded, each by itself.
            average: averages over ranks what DDP does not.
            beside: further optimisers that take a step on the same gradients.
        """
        optimizers = [self.optimizer, *beside]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        scaler = self.grad_scaler
        (loss if scaler is None else scaler.scale(loss)).backward()
        if average is not None:
            average()
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
        self.step_done()

    # Validation.

    def counts(self, prediction: Tensor, target: Tensor) -> dict[str, np.ndarray]:
        """True positive, false positive and false negative pixels of every foreground class.

        Args:
            prediction: (B, *S) labels.
            target: (B, 1, *S); values outside the classes do not count.
        """
        truth = target[:, 0].long()
        known = (truth >= 0) & (truth < self.classes)
        pairs = truth[known] * self.classes + prediction[known]
        table = torch.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)
        right = table.diagonal()
        columns = {"tp": right, "fp": table.sum(0) - right, "fn": table.sum(1) - right}
        return {f"{name}_hard": column[1:].cpu().numpy() for name, column in columns.items()}


def mean_dice(outputs: list[dict[str, Any]], suffix: str) -> float:
    """Mean Dice over the classes in truth or prediction, from summed `counts`; 1 where there is none in either."""
    collated = collate_outputs(outputs)
    tp, fp, fn = (collated[f"{name}_{suffix}"].sum(0) for name in ("tp", "fp", "fn"))
    size = 2 * tp + fp + fn
    return float((2 * tp[size > 0] / size[size > 0]).mean()) if (size > 0).any() else 1.0
