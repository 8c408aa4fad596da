"""Settings of the trainers: one typed class per method, kept in the plans so that they travel with the checkpoint.

In a plans file, under a configuration, `"nnunet_ext"` maps a section to its overrides:

    "2d": {..., "nnunet_ext": {"schedule": {"epochs": 20}, "CSUNet": {"embed_dim": 48}}}

`schedule` is shared by all trainers; every other section is a trainer's name without `nnUNetTrainer`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nnunet_ext.errors import InputError

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

KEY = "nnunet_ext"


class Section(BaseModel):
    """Base of every settings class: immutable, and a key or type it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Schedule(Section):
    """How long to train and from which seed; the defaults are nnU-Net's own."""

    seed: int = Field(0, ge=0, description="sets every random generator")
    epochs: int = Field(1000, ge=1, description="number of epochs")
    iterations_per_epoch: int = Field(250, ge=1, description="updates in an epoch")
    val_iterations_per_epoch: int = Field(50, ge=1, description="validation batches in an epoch")
    save_every: int = Field(50, ge=1, description="epochs between two checkpoint_latest.pth")
    bfloat16: bool = Field(
        False, description="mixed precision on a CPU that computes bfloat16 natively; a GPU always has nnU-Net's"
    )


# Where each section's class lives. Importing is put off until a section is asked for.
SECTIONS: dict[str, str] = {
    "schedule": "nnunet_ext.training.settings:Schedule",
    "Baseline": "nnunet_ext.training.settings:Section",
    "CSUNet": "nnunet_ext.training.swin:CSUNetSettings",
    "SwinUNet": "nnunet_ext.training.swin:SwinSettings",
    "MeanTeacher": "nnunet_ext.training.mean_teacher:MeanTeacherSettings",
    "UAMT": "nnunet_ext.training.mean_teacher:UAMTSettings",
    "CPS": "nnunet_ext.training.cross_teaching:CPSSettings",
    "CTS": "nnunet_ext.training.cross_teaching:CrossTeachingSettings",
    "MCSC": "nnunet_ext.training.cross_teaching:MCSCSettings",
    "MCSCv2": "nnunet_ext.training.cross_teaching:MCSCv2Settings",
    "CCTR": "nnunet_ext.training.cctr:CCTRSettings",
    "CBAL": "nnunet_ext.training.cbal:CBALSettings",
    "AccSeg": "nnunet_ext.training.accseg:AccSegSettings",
}

S = TypeVar("S", bound=Section)


def section_class(name: str) -> type[Section]:
    """The settings class of a section.

    Raises:
        InputError: for a section that does not exist; the message names those that do.
    """
    if name not in SECTIONS:
        raise InputError(f"--set {name}: no such settings section, one of {', '.join(SECTIONS)} is needed")
    module, _, attribute = SECTIONS[name].partition(":")
    return getattr(import_module(module), attribute)


def assignment(text: str) -> tuple[str, Any]:
    """The key and value of `--set KEY=VALUE`; a value is read as JSON, and as text where it is not JSON.

    Raises:
        InputError: when there is no key or no `=`.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"--set {text}: not an assignment, KEY=VALUE is needed")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def plans_settings(plans: Mapping[str, Any], configuration: str, name: str, cls: type[S]) -> S:
    """One section's settings as a configuration of a plans dictionary has them, inheritance resolved.

    Raises:
        InputError: for a section, key or value that is not valid.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(dict(plans))
    return configuration_settings(manager, manager.get_configuration(configuration), name, cls)


def configuration_settings(
    plans_manager: PlansManager, configuration_manager: ConfigurationManager, name: str, cls: type[S]
) -> S:
    """One section's settings where nnU-Net hands over its managers, as it does to build a network.

    Raises:
        InputError: for a section, key or value that is not valid.
    """
    where = f"{plans_manager.dataset_name}/{plans_manager.plans_name}.json"
    return read_section(overrides_of(configuration_manager.configuration, where), name, cls, where)


def overrides_of(configuration: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """What stands under `"nnunet_ext"` in a configuration of the plans.

    Raises:
        InputError: for something other than known sections that map settings to values.
    """
    overrides = configuration.get(KEY, {})
    if not isinstance(overrides, dict):
        raise InputError(f"{where}: {KEY} is {overrides!r}, a mapping of sections is needed")
    for name, section in overrides.items():
        if name not in SECTIONS:
            raise InputError(f"{where}: {name} is not a settings section, valid are {', '.join(SECTIONS)}")
        if not isinstance(section, dict):
            raise InputError(f"{where}: {name} is {section!r}, a mapping of settings to values is needed")
    return overrides


def read_section(overrides: Mapping[str, Any], name: str, cls: type[S], where: str) -> S:
    """Build one section's settings from the overrides found in a plans file.

    Args:
        overrides: what stands under `"nnunet_ext"` in the configuration.
        name: the section.
        cls: its class.
        where: the file, for the message.

    Raises:
        InputError: for an unknown key (the message names the valid ones) or a value of the wrong type or range.
    """
    try:
        return cls(**overrides.get(name, {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join((name, *(str(part) for part in first["loc"])))
        if first["type"] == "extra_forbidden":
            raise InputError(f"{where}: {key} is not a setting, valid are {', '.join(cls.model_fields)}") from None
        # What a class says of several settings at once has no place of its own, and their values would be a long line.
        found = f"{key} is {first['input']!r}, " if first["loc"] else f"{name}: "
        raise InputError(f"{where}: {found}{first['msg'].removeprefix('Value error, ').lower()}") from None
