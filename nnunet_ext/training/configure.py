"""Writing settings into a dataset's plans, from where they travel with every checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, write_json
from nnunet_ext.paths import dataset_name, preprocessed_root
from nnunet_ext.training.presets import PRESETS
from nnunet_ext.training.settings import KEY, assignment, overrides_of, read_section, section_class


def configure(
    dataset: str,
    configuration: str,
    plans: str = "nnUNetPlans",
    preset: str | None = None,
    assignments: Iterable[str] = (),
) -> tuple[Path, dict[str, Any]]:
    """Write a preset and single settings into a configuration of the preprocessed dataset's plans, atomically.

    The preset comes first, the assignments change what it set. The same call again changes nothing.

    Args:
        dataset: id or name.
        configuration: `2d`, `3d_fullres`, ...
        plans: name of the plans.
        preset: one of `presets.PRESETS`.
        assignments: `section.key=value`, or `key=value` for the section `schedule`. A value is read as JSON, and as
            text where it is not JSON.

    Returns:
        The plans file and the configuration as it is now.

    Raises:
        InputError: for a dataset, plans, configuration, preset, section, key or value that is not valid; nothing has
            then been written.
    """
    target = preprocessed_root() / dataset_name(dataset) / f"{plans}.json"
    if not target.is_file():
        raise InputError(f"{target}: no such file, the dataset has to be planned first (nnUNetv2_plan_and_preprocess)")
    content = read_json(target)
    known = content.get("configurations", {}) if isinstance(content, dict) else {}
    if configuration not in known:
        raise InputError(f"-c {configuration}: not in {target}, one of {', '.join(known) or 'none'} is needed")
    where = f"{target}, {configuration}"
    resolved = PlansManager(deepcopy(content)).get_configuration(configuration).configuration
    own = known[configuration]
    before = deepcopy(own)
    settings = deepcopy(overrides_of(resolved, where))
    if preset is not None:
        check_preset(preset)
        planned, preset_settings = PRESETS[preset](resolved)
        own |= planned
        for section, values in preset_settings.items():
            settings.setdefault(section, {}).update(values)
    _assign(settings, assignments, where)
    if settings:
        own[KEY] = settings
    if own != before:
        write_json(target, content)
    return target, PlansManager(content).get_configuration(configuration).configuration


def check_preset(preset: str) -> None:
    """Raises `InputError` for a preset that there is not."""
    if preset not in PRESETS:
        raise InputError(f"--preset {preset}: not a preset, one of {', '.join(PRESETS)} is needed")


def check_assignments(assignments: Iterable[str]) -> None:
    """Raises `InputError` as `configure` would, before there are plans; a preset's settings are not looked at."""
    _assign({}, assignments, "--set")


def _assign(settings: dict[str, Any], assignments: Iterable[str], where: str) -> None:
    """Put `section.key=value` into settings and check all of them."""
    for text in assignments:
        section, key, value = _parse(text)
        section_class(section)
        settings.setdefault(section, {})[key] = value
    for section in settings:
        read_section(settings, section, section_class(section), where)


def summary(configuration: dict[str, Any]) -> str:
    """What is set, a line each: size, network and every section's overrides."""
    kwargs = configuration["architecture"]["arch_kwargs"]
    lines = [f"{name} = {json.dumps(configuration[name])}" for name in ("batch_size", "patch_size")]
    lines.append(f"features_per_stage = {json.dumps(list(kwargs['features_per_stage']))}")
    for section, values in configuration.get(KEY, {}).items():
        lines += [f"{section}.{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines)


def _parse(text: str) -> tuple[str, str, Any]:
    name, value = assignment(text)
    section, dot, key = name.rpartition(".")
    if not key or (dot and not section):
        raise InputError(f"--set {text}: not an assignment, section.key=value or key=value is needed")
    return section or "schedule", key, value
