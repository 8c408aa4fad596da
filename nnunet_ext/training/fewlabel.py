"""The base of all trainers that learn from labelled and unlabelled cases together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.collate_outputs import collate_outputs
from pydantic import Field
from torch import Tensor

from nnunet_ext.errors import InputError, exit_on_input_error
from nnunet_ext.training.batches import Batch
from nnunet_ext.training.lr import WarmupPoly
from nnunet_ext.training.ramps import gaussian_ramp
from nnunet_ext.training.settings import Section
from nnunet_ext.training.split import Cases
from nnunet_ext.training.streams import Following, TwoStreams, halves
from nnunet_ext.training.trainer import Augmentation, ExtTrainer

CERTAIN = 0.9  # the probability from which a label counts as certain in the log; h of section 5.3.2


class FewLabelSettings(Section):
    """Settings of every method."""

    lr_plans: float = Field(5e-4, gt=0, description="learning rate of the network of the plans")
    weight_decay: float = Field(5e-4, ge=0, description="of AdamW")
    ramp: float = Field(1.0, gt=0, le=1, description="share of the training after which a ramped weight is reached")


class FewLabelTrainer(ExtTrainer):
    """Half of every batch is labelled, half is not; nnU-Net's loss on the labelled half.

    The two halves go through the networks together, labelled first. A method says in `train_step` what else it learns.
    """

    def initialize(self) -> None:
        with exit_on_input_error(type(self).__name__):
            if self.label_manager.has_regions:
                raise InputError(
                    f"{self.plans_manager.dataset_name}/dataset.json: labels are regions that overlap,"
                    " labels that exclude each other are needed to learn from unlabelled cases"
                )
            if self.is_cascaded:
                raise InputError(
                    f"-c {self.configuration_name}: goes on from another configuration's masks, which unlabelled cases"
                    " do not have; a configuration that stands alone is needed, such as 2d or 3d_fullres"
                )
        self.classes = self.label_manager.num_segmentation_heads
        super().initialize()

    @property
    def updates(self) -> int:
        """Updates of the whole training."""
        return self.num_epochs * self.num_iterations_per_epoch

    @property
    def progress(self) -> float:
        """0 at the first update, 1 after the last."""
        return self.iteration / self.updates

    def ramped(self, weight: float) -> float:
        """A weight of what unlabelled images teach, as far as its Gaussian ramp has come."""
        return weight * gaussian_ramp(self.iteration, self.settings.ramp * self.updates)

    def adamw(self, groups: list[dict[str, Any]]) -> tuple[torch.optim.Optimizer, WarmupPoly]:
        """The optimiser of all few-label methods, with nnU-Net's polynomial decay, for parameters with their rates."""
        optimizer = torch.optim.AdamW(groups, weight_decay=self.settings.weight_decay)
        return optimizer, WarmupPoly(optimizer, self.num_epochs, self.num_iterations_per_epoch, 0)

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
        labelled, unlabelled = halves(self.batch_size, self.local_rank)
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


def certain_share(probabilities: Tensor) -> Tensor:
    """Share of the pixels of (B, K, *S) whose likeliest class is certain."""
    return (probabilities.amax(1) > CERTAIN).float().mean()


def mean_dice(outputs: list[dict[str, Any]], suffix: str) -> float:
    """Mean Dice over the classes in truth or prediction, from summed `counts`; 1 where there is none in either."""
    collated = collate_outputs(outputs)
    tp, fp, fn = (collated[f"{name}_{suffix}"].sum(0) for name in ("tp", "fp", "fn"))
    size = 2 * tp + fp + fn
    return float((2 * tp[size > 0] / size[size > 0]).mean()) if (size > 0).any() else 1.0
