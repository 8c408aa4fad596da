"""One case of a dataset: what is known of it, and its files."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.data import images as io

IGNORE = "ignore"


@dataclass(frozen=True)
class Case:
    """One case as it lies on disk.

    Attributes:
        name: nnU-Net's case identifier.
        images: one file per channel, all on one grid.
        label: the label map's file, if there is one. It is opened only when the case is labelled.
        subject: what several cases of one person share (frames, time points); the case's name without it.
        domain: the modality or site that the case comes from.
        label_map: value in the file -> value to write; every value of the file must be a key. Without it the file's
            values are the dataset's.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None
    subject: str = ""
    domain: str = ""
    label_map: Mapping[int, int] | None = field(default=None, hash=False)

    @property
    def group(self) -> str:
        return self.subject or self.name


def write_case(
    case: Case, folder: Path, suffix: str, values: Mapping[str, int], allowed: Collection[int], unlabelled: bool
) -> None:
    """Write images and label. `allowed` are the values of a label file; `ignore` is none unless it was declared."""
    first = io.read_scan(case.images[0])
    for channel, path in enumerate(case.images):
        image = first if channel == 0 else io.read_scan(path)
        io.require_same_grid(first, image, case.images[0], path)
        _place(image, path, first, folder / "imagesTr" / f"{case.name}_{channel:04d}{suffix}")
    target = folder / "labelsTr" / f"{case.name}{suffix}"
    if unlabelled:
        filled = sitk.Image(first.GetSize(), _label_type(values)) + values[IGNORE]
        filled.CopyInformation(first)
        _write(filled, target)
        return
    assert case.label is not None  # checked before anything was opened
    mapping = case.label_map or {v: v for v in allowed}
    label = io.read_label(case.label, mapping)
    io.require_same_grid(first, label, case.images[0], case.label)
    if any(source != written for source, written in mapping.items()):
        array = sitk.GetArrayFromImage(label)
        out = np.zeros(array.shape, np.uint8 if max(values.values()) < 256 else np.uint16)
        for source, written in mapping.items():
            out[array == source] = written
        mapped = sitk.GetImageFromArray(out)
        mapped.CopyInformation(first)
        _write(mapped, target)
    else:
        _place(label, case.label, first, target)


def _label_type(values: Mapping[str, int]) -> int:
    return sitk.sitkUInt8 if max(values.values()) < 256 else sitk.sitkUInt16


def _place(image: sitk.Image, source: Path, reference: sitk.Image, target: Path) -> None:
    """Copy the file as it is, or write it where its ending or the last digits of its geometry have to change."""
    # nnU-Net demands exactly equal spacings within a case, so rounding differences take the first channel's numbers.
    exact = (image.GetSpacing(), image.GetOrigin(), image.GetDirection()) == (
        reference.GetSpacing(),
        reference.GetOrigin(),
        reference.GetDirection(),
    )
    if exact and target.name.endswith(io.ending(source) or "?"):
        shutil.copyfile(source, target)
    else:
        image.CopyInformation(reference)
        _write(image, target)


def _write(image: sitk.Image, target: Path) -> None:
    sitk.WriteImage(image, str(target), useCompression=True)
