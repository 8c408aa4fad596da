"""CCT-R: cross teaching that also learns from spatial registration (chapter 6)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_pickle
from pydantic import Field
from torch import Tensor, distributed

from nnunet_ext.errors import InputError
from nnunet_ext.losses.consistency import label_loss
from nnunet_ext.registration.settings import RegistrationSettings
from nnunet_ext.registration.store import RegistrationStore
from nnunet_ext.training.batches import Batch
from nnunet_ext.training.contrast import Contrast
from nnunet_ext.training.cross_teaching import CrossTeachingSettings, CrossTeachingTrainer
from nnunet_ext.training.ramps import linear_decay
from nnunet_ext.training.registered import (
    Choice,
    RegisteredCases,
    from_store,
    keep_registered,
    thick_axis,
    to_preprocessed,
)
from nnunet_ext.training.registered_contrast import RegisteredContrast, RegisteredSettings
from nnunet_ext.training.settings import Section
from nnunet_ext.training.split import Cases
from nnunet_ext.training.streams import Following, ImagesOnly
from nnunet_ext.training.students import Inference, Output


class CCTRSettings(CrossTeachingSettings, RegisteredSettings):
    """Settings of CCT-R. Table 6.4: `rsl_weight=0`, `choice=random`, `reps=false`, `contrast_weight=0`."""

    inference: Inference = Field("mean", description="who predicts: first, second, or the mean of both logits")
    registration: RegistrationSettings = Field(
        RegistrationSettings(transform="deformable"),
        description="which registrations to use: the settings of nnunet_ext register",
    )
    choice: Choice = Field(
        "best", description="labels from the best registration, from a random one, or fused from all"
    )
    rsl_weight: float = Field(1.0, ge=0, description="weight of the registration supervision loss at the first update")
    rsl_left: float = Field(1.0, ge=0, le=1, description="share of it that is left at the last update")


class CCTRTrainer(CrossTeachingTrainer):
    """Cross teaching, labels that registration carried over (RSL), and positives that it found (REPS)."""

    section: ClassVar[str] = "CCTR"
    Settings: ClassVar[type[Section]] = CCTRSettings
    contrast_class: ClassVar[type[Contrast] | None] = RegisteredContrast

    def following(self, cases: Cases) -> Following | None:
        self.registered = self.registered_cases(cases)
        return self.registered

    def registered_cases(self, cases: Cases) -> RegisteredCases:
        """Registered labels and places of the training cases, from the dataset's registration store.

        Raises:
            InputError: when the dataset has not been registered with these settings, no unlabelled case could be, or
                its scans are turned when read.
        """
        base = Path(self.preprocessed_dataset_folder_base)
        if (reader := self.plans_manager.image_reader_writer_class.__name__).endswith("WithReorient"):
            raise InputError(
                f"{base.name}/{self.plans_manager.plans_name}.json: image_reader_writer {reader} turns the scans, which"
                " registrations do not follow; one that reads them as they are is needed, such as SimpleITKIO"
            )
        store = RegistrationStore.open(base.name, self.settings.registration, self.fold)
        choice, seed = self.settings.choice, self.schedule.seed
        load = from_store(store, choice, seed, self.fold)
        name = f"{store.fingerprint()}-{choice}" + (f"-{seed}" if choice == "random" else "")
        images = self._dataset(cases.labelled + cases.unlabelled)

        def shape(case: str) -> tuple[int, ...]:
            # No label file is opened.
            return tuple(ImagesOnly(images).load_case(case)[0].shape[1:])

        def onto_grid(case: str, volume: np.ndarray, linear: bool) -> np.ndarray:
            properties = load_pickle(f"{self.preprocessed_dataset_folder}/{case}.pkl")
            transpose = self.plans_manager.transpose_forward
            thick = thick_axis(properties["spacing"], self.configuration_manager, transpose)
            return to_preprocessed(volume, properties, shape(case), transpose, linear=linear, thick=thick)

        folder = base / "registered" / f"{self.configuration_manager.data_identifier}-{name}"
        wanted = cases.labelled + cases.unlabelled
        # Every process writes its share, then all read everything.
        first, step = (self.local_rank, distributed.get_world_size()) if self.is_ddp else (0, 1)
        keep_registered(folder, wanted[first::step], load, shape, onto_grid)
        if self.is_ddp:
            distributed.barrier()
        registered = RegisteredCases(folder, wanted)
        known = sum(registered.frames[case] >= 0 for case in cases.unlabelled)
        if known == 0:
            raise InputError(
                f"{store.root}: none of {len(cases.unlabelled)} unlabelled cases could be registered, at least one is"
                " needed"
            )
        self.print_to_log_file(f"{known} of {len(cases.unlabelled)} unlabelled cases have registered labels.")
        return registered

    def objective(
        self, outputs: tuple[Output, Output], target: list[Tensor], labelled: int, batch: Batch
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Adds the registration supervision loss on the unlabelled images (eq. 6.7, whose printed sign is wrong)."""
        loss, terms = super().objective(outputs, target, labelled, batch)
        left = self.settings.rsl_left + (1 - self.settings.rsl_left) * linear_decay(self.iteration, self.updates)
        weight = self.settings.rsl_weight * left
        if weight > 0:
            carried = batch["unlabelled_following_labels"][:, 0].to(self.device, non_blocking=True)
            registered = torch.tensor([self.registered.frames[k] >= 0 for k in batch["unlabelled_keys"]])
            # Ignored voxels of the labelled case travel as ignored.
            mask = registered.to(self.device).reshape(-1, *(1 for _ in carried.shape[1:])) & (carried < self.classes)
            carried = carried.clamp_max(self.classes - 1)
            for name, output in zip(("first", "second"), outputs, strict=True):
                own = label_loss(output.logits[0][labelled:], carried, "dice_ce", mask)
                loss = loss + weight * own
                terms[f"registered_{name}"] = own
            terms["registered_weight"] = weight
        return loss, terms

    def image_facts(self, batch: Batch) -> dict[str, Tensor]:
        """Volume, frame and every pixel's place in it, of labelled and unlabelled images."""
        keys = [*batch["keys"], *batch["unlabelled_keys"]]
        place = torch.cat((batch["regression_target"], batch["unlabelled_regression_target"]))
        place = place.to(self.device, non_blocking=True)
        return {
            "case": torch.tensor([self.registered.numbers[k] for k in keys], device=self.device),
            "frame": torch.tensor([self.registered.frames[k] for k in keys], device=self.device),
            "position": place[:, :3],
            # Interpolation mixes the outside into every pixel whose mask is not whole.
            "placed": place[:, 3] > 1 - 1e-3,
        }
