"""What a prediction needs of a trained model, wherever it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_ext.errors import InputError
from nnunet_ext.inference.postprocessing import KeepLargest
from nnunet_ext.inference.sockets import Sockets

# nnU-Net's readers of medical scans, and whether they turn them to one orientation first.
READERS = {"SimpleITKIO": False, "NibabelIO": False, "SimpleITKIOWithReorient": True, "NibabelIOWithReorient": True}

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Member:
    """One trained configuration: its plans, and the weights of its folds."""

    plans: dict[str, Any]
    dataset: dict[str, Any]
    configuration: str
    trainer: str
    network_of_plans: bool
    mirror_axes: tuple[int, ...] | None
    folds: dict[str, Weights] = field(repr=False)

    @cached_property
    def manager(self) -> PlansManager:
        return PlansManager(self.plans)

    @cached_property
    def conf(self) -> ConfigurationManager:
        """The configuration, without the resampling of a label map that prediction does not have."""
        conf = self.manager.get_configuration(self.configuration)
        options = {"resampling_fn_seg": "no_resampling_hack", "resampling_fn_seg_kwargs": {}}
        return ConfigurationManager({**conf.configuration, **options})

    @cached_property
    def labels(self) -> LabelManager:
        return self.manager.get_label_manager(self.dataset)

    @property
    def channels(self) -> int:
        return len(self.dataset["channel_names"] if "channel_names" in self.dataset else self.dataset["modality"])

    @property
    def name(self) -> str:
        return f"{self.trainer}__{self.plans.get('plans_name', 'plans')}__{self.configuration}"


@dataclass(frozen=True)
class Model:
    """One or several configurations whose probabilities are averaged, and what is done to the result.

    `koos` is the file of a fitted Koos model that grades the masks; `nnunet_ext.koos.packaged` reads it.
    """

    members: tuple[Member, ...]
    postprocessing: tuple[KeepLargest, ...] = ()
    sockets: Sockets = field(default_factory=Sockets)
    koos: bytes | None = field(default=None, repr=False)

    @property
    def first(self) -> Member:
        return self.members[0]

    @property
    def reorient(self) -> bool:
        return READERS[self.first.plans["image_reader_writer"]]

    @property
    def class_names(self) -> dict[str, int | list[int]]:
        """Name -> label (or the labels of a region), without background and ignore."""
        labels = self.first.dataset["labels"]
        return {name: label for name, label in labels.items() if name not in ("background", "ignore")}

    def check(self, where: str) -> None:
        """Raise an `InputError` naming `where` for a model that cannot be predicted with here."""
        first = self.first
        for member in self.members:
            reader = member.plans.get("image_reader_writer")
            if reader not in READERS:
                raise InputError(f"{where}: trained on files read by {reader}, one of {', '.join(READERS)} is needed")
            if member.conf.previous_stage_name is not None:
                raise InputError(
                    f"{where}: {member.configuration} continues another configuration (a cascade), "
                    "a configuration that works alone is needed"
                )
            same = (
                member.dataset["labels"],
                member.channels,
                READERS[reader],
                member.dataset.get("regions_class_order"),
            )
            if same != (
                first.dataset["labels"],
                first.channels,
                self.reorient,
                first.dataset.get("regions_class_order"),
            ):
                raise InputError(
                    f"{where}: {member.name} and {first.name} differ in labels or channels, they must agree"
                )
            if member.plans["transpose_forward"] != first.plans["transpose_forward"]:
                raise InputError(f"{where}: {member.name} and {first.name} order the axes differently, they must agree")
        self.sockets.check(first.channels, where)
        if self.sockets.grades and self.koos is None:
            raise InputError(f"{where}: an output of Koos grades, a Koos model is needed (package --koos)")
        if self.koos is not None and not self.sockets.grades:
            raise InputError(f"{where}: a Koos model without an output, one of kind koos or koos_class is needed")
