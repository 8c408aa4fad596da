"""Which structures are scored, which files belong together, and masks as integers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.data import images
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json

ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".tif", ".tiff", ".png", ".bmp")


@dataclass(frozen=True)
class Labels:
    """What is scored.

    `classes` maps a structure's name to its label values, `ignore` is the value of voxels to leave out, `declared`
    are all values that a mask may hold (None: not known, any value may occur).
    """

    classes: dict[str, tuple[int, ...]]
    ignore: int | None = None
    declared: frozenset[int] | None = None


def labels_from_dataset(dataset_json: Path) -> Labels:
    """The structures of a `dataset.json` of nnU-Net v2, regions included.

    Raises:
        InputError: no labels in the file, or a value that is not an integer.
    """
    content = read_json(dataset_json)
    declared = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(declared, dict) or not declared:
        raise InputError(f"{dataset_json}: no 'labels' found, a table of names and values is needed")
    classes: dict[str, tuple[int, ...]] = {}
    for name, value in declared.items():
        values = value if isinstance(value, list) else [value]
        if not values or not all(isinstance(v, int) for v in values):
            raise InputError(f"{dataset_json}: label {name!r} is {value!r}, an integer or a list of integers is needed")
        classes[name] = tuple(values)
    every = frozenset({0}).union(*classes.values())
    ignore = classes.pop("ignore", None)
    scored = {name: values for name, values in classes.items() if values != (0,)}
    if not scored:
        raise InputError(f"{dataset_json}: 'labels' holds {', '.join(declared)}, a structure to score is needed")
    return Labels(scored, ignore[0] if ignore else None, every)


def labels_from_text(pairs: Sequence[str], known: Labels | None = None) -> Labels:
    """The structures of `NAME=VALUE` or `NAME=VALUE,VALUE` (a region); the name `ignore` means nnU-Net's ignore label.

    What masks may hold, and the ignore label where `pairs` name none, are those of `known`.

    Raises:
        InputError: a pair that does not read as that, or a name given twice.
    """
    classes: dict[str, tuple[int, ...]] = {}
    for pair in pairs:
        name, equals, text = pair.rpartition("=")
        try:
            values = tuple(int(part) for part in text.split(","))
        except ValueError:
            values = ()
        if not equals or not name or not values:
            raise InputError(f"--label: found {pair!r}, NAME=VALUE or NAME=VALUE,VALUE with integers is needed")
        if name in classes:
            raise InputError(f"--label: {name!r} is given twice, each name is needed once")
        classes[name] = values
    ignore = classes.pop("ignore", (known.ignore,) if known else (None,))
    if len(ignore) > 1:
        raise InputError(f"--label: {len(ignore)} values for 'ignore' found, one is needed")
    if not classes:
        raise InputError("--label: only 'ignore' was given, a structure to score is needed")
    return Labels(classes, ignore[0], known.declared if known else None)


def mask_files(folder: Path) -> dict[str, Path]:
    """Case name -> mask file of a folder, in the order of the names.

    Raises:
        InputError: no such folder, no mask in it, or two files of one case.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, a folder of masks is needed")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((e for e in ENDINGS if path.name.lower().endswith(e)), None)
        if ending is None or path.name.startswith(".") or not path.is_file():
            continue
        case = path.name[: -len(ending)]
        if case in found:
            raise InputError(f"{folder}: {found[case].name} and {path.name} are both case {case}, one file is needed")
        found[case] = path
    if not found:
        raise InputError(f"{folder}: no mask found, files that end in {' '.join(ENDINGS)} are needed")
    return dict(sorted(found.items()))


def image_file(folder: Path, case: str) -> Path | None:
    """The scan of a case, its first channel where there are several (`case_0000.nii.gz` or `case.nii.gz`)."""
    candidates = (folder / f"{case}{channel}{ending}" for channel in ("_0000", "") for ending in ENDINGS)
    return next((path for path in candidates if path.is_file()), None)


def read_mask(path: Path, declared: Iterable[int] | None = None) -> sitk.Image:
    """A label map of integers.

    Raises:
        InputError: not readable, not 2D or 3D with one component, not whole numbers, or a value that is not declared.
    """
    mask = images.read(path)
    values = np.unique(sitk.GetArrayViewFromImage(mask))
    if not np.array_equal(values, np.round(values)):
        raise InputError(f"{path}: the value {next(v for v in values if v != np.round(v))} found, integers are needed")
    if declared is not None and (unknown := sorted(set(values.astype(int).tolist()) - set(declared))):
        known = ", ".join(str(v) for v in sorted(declared))
        raise InputError(f"{path}: label value {unknown[0]} found, one of the declared values {known} is needed")
    return mask if np.issubdtype(values.dtype, np.integer) else sitk.Cast(mask, sitk.sitkInt32)
