"""What a layout's module hands over, and what they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_ext.data.dataset import Case
from nnunet_ext.errors import InputError


@dataclass(frozen=True)
class Layout:
    """The cases of a dataset as published.

    Attributes:
        title: default name of the nnU-Net dataset (`ACDC` in `Dataset027_ACDC`).
        cases: every case found.
        channel_names: one per image file of a case.
        labels: name -> value in the dataset to be written.
        fold: the layout's own train and validation cases, if it has any.
        pairs: whether an image without its label is a mistake, as opposed to a scan nobody has labelled.
        notes: further entries for `dataset.json`'s "nnunet_ext".
    """

    title: str
    cases: Sequence[Case]
    channel_names: Sequence[str]
    labels: Mapping[str, int]
    fold: Mapping[str, Sequence[str]] | None = None
    pairs: bool = True
    notes: Mapping[str, Any] = field(default_factory=dict)


def existing_folder(source: Path) -> Path:
    if not source.is_dir():
        raise InputError(f"{source}: no such folder, the dataset's folder is needed")
    return source


def nothing_found(source: Path, needed: str) -> InputError:
    state = "an empty folder" if not any(source.iterdir()) else "no scans of this layout"
    return InputError(f"{source}: {state}, {needed} is needed")
