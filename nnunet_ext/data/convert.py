"""From a published layout to a raw nnU-Net dataset."""

from __future__ import annotations

import logging
from pathlib import Path

from nnunet_ext.data.dataset import write_dataset
from nnunet_ext.data.layouts.layout import Layout
from nnunet_ext.data.selection import choose_unlabelled, fold_of, subject_folds
from nnunet_ext.errors import InputError
from nnunet_ext.paths import new_dataset_name

log = logging.getLogger(__name__)


def convert(
    layout: Layout,
    dataset: str,
    *,
    labelled: str | None = None,
    split: Path | None = None,
    missing_labels: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a layout's cases as the raw dataset `dataset`; returns its folder.

    Args:
        layout: what was found.
        dataset: an id (the layout's title completes the name) or a full name.
        labelled: text of `--labelled` (see `selection.read_names`).
        split: JSON file with `train` and `val` lists.
        missing_labels: take an image without label as an unlabelled case instead of a mistake.
        overwrite: replace a dataset of that name that has other content.

    Raises:
        InputError: for whatever is wrong with the input.
    """
    name = new_dataset_name(dataset, layout.title)
    if layout.pairs and labelled is None and not missing_labels:
        for case in layout.cases:
            if case.label is None:
                raise InputError(
                    f"{case.images[0]}: no label for this image, its label is needed "
                    "(or --missing-labels, if scans without label are meant to be unlabelled cases)"
                )
    fold = fold_of(split, layout.cases) if split else layout.fold
    unlabelled = choose_unlabelled(layout.cases, labelled, fold["val"] if fold else ())
    if split and fold and (blind := [n for n in fold["val"] if n in unlabelled]):
        raise InputError(f"{split}: val case {blind[0]} has no label, validation needs one")
    folder = write_dataset(
        name,
        layout.cases,
        layout.channel_names,
        layout.labels,
        unlabelled=unlabelled,
        split=[fold] if fold else subject_folds(layout.cases, unlabelled),
        notes=layout.notes,
        overwrite=overwrite,
    )
    if fold and (idle := len(layout.cases) - len(fold["train"]) - len(fold["val"])):
        log.warning("%s: %d case(s) in neither train nor val, left out of fold 0", name, idle)
    log.info("%s: %d cases, %d labelled", name, len(layout.cases), len(layout.cases) - len(unlabelled))
    return folder
