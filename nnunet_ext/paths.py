"""Where nnU-Net keeps its files, read from its own variables when asked and not before."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nnunet_ext.errors import InputError

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer")


def trainer_folder() -> Path:
    """The folder that `nnUNet_extTrainer` must name: `trainers/` beside the installed package."""
    return Path(__file__).resolve().parent.parent / "trainers"


def raw_root() -> Path:
    return _root("nnUNet_raw")


def preprocessed_root() -> Path:
    return _root("nnUNet_preprocessed")


def results_root() -> Path:
    return _root("nnUNet_results")


def dataset_name(dataset: str | int, flag: str = "-d") -> str:
    """The full name (`Dataset027_ACDC`) of a dataset given as nnU-Net takes it: an id or the full name.

    Args:
        dataset: id or full name.
        flag: that it was given by, for messages.

    Raises:
        InputError: when no folder or more than one folder of that id exists.
    """
    found = {p.name for p in _dataset_folders()}
    text = str(dataset)
    if text.isdigit():
        names = sorted(n for n in found if n.startswith(f"Dataset{int(text):03d}_"))
        if len(names) > 1:
            raise InputError(
                f"{flag} {text}: more than one dataset has this id, exactly one is needed: {', '.join(names)}"
            )
        if names:
            return names[0]
    elif text in found:
        return text
    known = ", ".join(sorted(found)) or "none"
    raise InputError(f"{flag} {text}: no such dataset in {raw_root()}, an id or a full name is needed (there: {known})")


def new_dataset_name(dataset: str | int, default: str, flag: str = "-d") -> str:
    """The full name for a dataset about to be written, from an id (the name is then `default`) or a full name.

    Args:
        dataset: id or full name.
        default: the name that goes with an id.
        flag: that it was given by, for messages.

    Raises:
        InputError: when the name is malformed or its id belongs to a dataset of another name.
    """
    text = str(dataset)
    name = f"Dataset{int(text):03d}_{default}" if text.isdigit() else text
    match = re.fullmatch(r"Dataset(\d{3})_([A-Za-z0-9][A-Za-z0-9_-]*)", name)
    if match is None or int(match[1]) == 0:
        raise InputError(f"{flag} {text}: not a dataset id, a number from 1 to 999 or DatasetXXX_Name is needed")
    others = sorted({p.name for p in _dataset_folders() if p.name.startswith(f"Dataset{match[1]}_") and p.name != name})
    if others:
        raise InputError(f"{flag} {text}: id {int(match[1])} is already in use by {others[0]}, {name} needs a free id")
    return name


def _root(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        raise InputError(f'{variable}: not set, run eval "$(nnunet_ext env --root DIR)" first')
    return Path(value)


def _dataset_folders() -> list[Path]:
    folders: list[Path] = []
    for variable in VARIABLES[:3]:
        value = os.environ.get(variable)
        if value and Path(value).is_dir():
            folders += [p for p in Path(value).iterdir() if p.is_dir() and re.fullmatch(r"Dataset\d{3}_.+", p.name)]
    raw_root()
    return folders
