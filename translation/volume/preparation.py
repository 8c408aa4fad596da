"""The recorded preparation of scans: what `fit` found out and `apply` repeats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydantic import Field

from nnunet_ext.data.images import read_scan
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, sha256
from nnunet_ext.training.settings import Section, read_section
from translation.settings import VolumeSettings
from translation.volume.atlas import register_affine
from translation.volume.grid import Grid, Placement, working_grid
from translation.volume.intensity import Curve, curve, percentile_grid, unscale

Side = Literal["source", "target"]
Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
ATLAS = "atlas.nii.gz"
RECORD = "preparation.json"


@dataclass(frozen=True)
class Prepared:
    """A scan as networks see it.

    Attributes:
        volume: (slices, rows, columns) in [-1, 1].
        labels: class indices of the same shape, -1 where ignored; None without a label.
        placement: the way back to the scan's grid.
    """

    volume: NDArray[np.float32]
    labels: NDArray[np.int16] | None
    placement: Placement


class Preparation(Section):
    """Everything needed to prepare a further scan exactly as those of the fit, and to write one."""

    volume: VolumeSettings
    spacing: tuple[float | None, float | None, float | None] = Field(description="mm: two in-plane axes, across slices")
    roi: Box | None = Field(description="mm from the grid's centre along slices, rows, columns; null: everything")
    source_histogram: tuple[float, ...] = Field(description="mean percentiles of the source, in its units")
    target_histogram: tuple[float, ...] = Field(description="mean percentiles of the target, in its units")
    labels: dict[str, int] = Field(description="the source's labels, name -> value")
    ignore: int | None = Field(description="value of the source's ignore label")
    channel_name: str = Field(description="the target's channel")
    atlas_sha256: str | None = Field(description="of the atlas file beside this record")

    @property
    def target_range(self) -> tuple[float, float]:
        """Intensities of the target that -1 and 1 stand for."""
        low, high = self.target_histogram[0], self.target_histogram[-1]
        return low, high if high > low else low + 1

    def prepare(self, image: sitk.Image, label: sitk.Image | None, side: Side, folder: Path) -> Prepared:
        """Bring one scan to the networks' grid and scale.

        Args:
            image: a 3D scan.
            label: its label map, on the same grid.
            side: which cohort's histogram it belongs to.
            folder: the model folder, which holds the atlas.
        """
        placement = place(image, self.volume, self.spacing, side, atlas_of(self, folder))
        volume = placement.forward(image)
        labels = None
        if label is not None:
            labels = class_indices(placement.forward_labels(label), self.labels, self.ignore)
        own = self.percentiles(volume, placement.voxel)
        return Prepared(self.curve(own, side)(volume), labels, placement)

    def restore(self, volume: NDArray[np.float32], placement: Placement) -> sitk.Image:
        """A translated volume in [-1, 1] -> a float32 scan on the source's grid, in the target's units."""
        return placement.backward(unscale(volume, *self.target_range))

    def percentiles(self, volume: NDArray[np.float32], voxel: tuple[float, ...]) -> list[float]:
        """A working volume's percentiles inside the region of interest, in its own units."""
        inside = volume[roi_slices(volume.shape, voxel, self.roi)]
        return np.percentile(inside, percentile_grid(self.volume.percentiles)).tolist()

    def curve(self, own: list[float], side: Side) -> Curve:
        """The map from a scan's units to [-1, 1], given its own percentiles."""
        if not self.volume.histogram_matching:
            return curve([own[0], own[-1]], [-1, 1])
        mean = np.array(self.source_histogram if side == "source" else self.target_histogram)
        return curve(own, to_unit(mean).tolist())


def to_unit(histogram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Percentiles with the outer two at -1 and 1; all -1 when they are equal."""
    width = histogram[-1] - histogram[0]
    return 2 * (histogram - histogram[0]) / (width or 1.0) - 1


def place(
    image: sitk.Image,
    settings: VolumeSettings,
    spacing: tuple[float | None, float | None, float | None],
    side: Side,
    atlas: sitk.Image | None,
) -> Placement:
    """Find the working grid of a scan, with an atlas by registration."""
    own = Grid.of(image)
    axis = None if settings.through_plane == "auto" else settings.through_plane
    if atlas is not None:
        affine = register_affine(image, atlas, same_modality=side == "target")
        return Placement(own, working_grid(_oriented(atlas, settings), spacing, axis), affine)
    return Placement(own, working_grid(_oriented(image, settings), spacing, axis))


def _oriented(image: sitk.Image, settings: VolumeSettings) -> Grid:
    if settings.orientation is None:
        return Grid.of(image)
    return Grid.of(sitk.DICOMOrient(image, settings.orientation))


def roi_slices(shape: tuple[int, ...], voxel: tuple[float, ...], roi: Box | None) -> tuple[slice, ...]:
    """The index box of a region given in mm from the centre; at least one voxel along each axis."""
    if roi is None:
        return tuple(slice(0, n) for n in shape)
    box = []
    for n, size, (low, high) in zip(shape, voxel, roi, strict=True):
        middle = (n - 1) / 2
        first = int(np.clip(np.floor(middle + low / size), 0, n - 1))
        last = int(np.clip(np.ceil(middle + high / size), first, n - 1))
        box.append(slice(first, last + 1))
    return tuple(box)


def class_indices(labels: NDArray[np.int16], values: dict[str, int], ignore: int | None) -> NDArray[np.int16]:
    """Label values -> positions among the labels, -1 for ignored voxels."""
    out = np.zeros_like(labels)
    for index, value in enumerate(values.values()):
        out[labels == value] = index
    if ignore is not None:
        out[labels == ignore] = -1
    return out


def atlas_of(preparation: Preparation, folder: Path) -> sitk.Image | None:
    """The atlas beside a record.

    Raises:
        InputError: when it is not the file of the fit.
    """
    if preparation.atlas_sha256 is None:
        return None
    path = folder / ATLAS
    atlas = read_scan(path)
    if sha256(path) != preparation.atlas_sha256:
        raise InputError(f"{path}: not the atlas of the fit, the file with sha256 {preparation.atlas_sha256} is needed")
    return atlas


def read_preparation(folder: Path) -> Preparation:
    """The record in a model folder."""
    return read_section({"preparation": read_json(folder / RECORD)}, "preparation", Preparation, str(folder / RECORD))
