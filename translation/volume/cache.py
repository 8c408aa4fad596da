"""Scans on their working grid, kept on disk so that training reads crops and a second run starts at once."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_ext.data.images import read_scan
from nnunet_ext.errors import InputError
from nnunet_ext.files import atomic_path, sha256, write_json
from nnunet_ext.paths import preprocessed_root
from nnunet_ext.progress import progress
from translation.cohort import Cohort
from translation.settings import VolumeSettings
from translation.volume.intensity import Curve
from translation.volume.preparation import (
    ATLAS,
    RECORD,
    Box,
    Preparation,
    Side,
    class_indices,
    place,
    roi_slices,
)

log = logging.getLogger(__name__)
Spacing = tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class CachedCase:
    """One scan for training.

    Attributes:
        name: of the case.
        image: (slices, rows, columns) in the scan's own units, read from disk where touched.
        labels: class indices of the same shape; None on the target's side.
        voxel: mm along those axes.
        curve: from the scan's units to [-1, 1].
        region: index box of the region of interest.
    """

    name: str
    image: NDArray[np.float32]
    labels: NDArray[np.int16] | None
    voxel: tuple[float, float, float]
    curve: Curve
    region: tuple[slice, ...]


def prepare_cohorts(
    source: Cohort, target: Cohort, settings: VolumeSettings, folder: Path
) -> tuple[Preparation, list[CachedCase], list[CachedCase]]:
    """Find out and record the preparation of two cohorts, and cache their scans on the working grid.

    What is cached already and unchanged is not computed again.

    Args:
        source: labelled cases.
        target: cases whose labels are never read.
        settings: of the volumes; further fields are ignored.
        folder: the model folder.

    Returns:
        the record, which is also written, and both cohorts' cases.
    """
    settings = VolumeSettings(**{name: getattr(settings, name) for name in VolumeSettings.model_fields})
    spacing = settings.spacing or _common_spacing(source, target)
    atlas = _write_atlas(target, settings, folder)
    sides: tuple[tuple[Side, Cohort], ...] = (("source", source), ("target", target))
    frame = sha256(folder / ATLAS) if atlas is not None else None
    caches = {side: _Cache.of(cohort, side, settings, spacing, frame) for side, cohort in sides}
    entries = {
        side: {
            case: caches[side].entry(case, settings, spacing, atlas)
            for case in progress(cohort.cases, f"preparing the {side}")
        }
        for side, cohort in sides
    }
    roi = None
    if settings.roi == "labels":
        roi = _region(caches["source"], entries["source"], settings.roi_margin, symmetric=atlas is None)
    record = Preparation(
        volume=settings,
        spacing=spacing,
        roi=roi,
        source_histogram=(),
        target_histogram=(),
        labels=source.labels,
        ignore=source.ignore,
        channel_name=target.channel_name,
        atlas_sha256=frame,
    )
    own: dict[Side, list[list[float]]] = {"source": [], "target": []}
    for side, cohort in sides:
        for case in cohort.cases:
            own[side].append(record.percentiles(caches[side].image(case), entries[side][case]["voxel"]))
    record = record.model_copy(
        update={f"{side}_histogram": tuple(np.mean(rows, 0).tolist()) for side, rows in own.items()}
    )
    write_json(folder / RECORD, record.model_dump())
    cases: dict[Side, list[CachedCase]] = {
        side: [
            CachedCase(
                name=case,
                image=(image := caches[side].image(case)),
                labels=caches[side].labels(case) if side == "source" else None,
                voxel=tuple(entries[side][case]["voxel"]),
                curve=record.curve(percentiles, side),
                region=roi_slices(image.shape, entries[side][case]["voxel"], roi),
            )
            for case, percentiles in zip(cohort.cases, own[side], strict=True)
        ]
        for side, cohort in sides
    }
    return record, cases["source"], cases["target"]


def _common_spacing(source: Cohort, target: Cohort) -> tuple[float, float, None]:
    """The coarser of the two cohorts' median in-plane spacings: no detail is invented on either side."""
    medians = []
    for cohort in (source, target):
        in_plane = [sorted(cohort.spacing(case))[:2] for case in cohort.cases]
        medians.append(float(np.median(in_plane)))
    spacing = round(max(medians), 4)
    return spacing, spacing, None


def _write_atlas(target: Cohort, settings: VolumeSettings, folder: Path) -> sitk.Image | None:
    if settings.atlas is None:
        return None
    path = folder / ATLAS
    if settings.atlas not in target.cases:
        raise InputError(f"--set atlas: {settings.atlas} is not a case of {target.name}, one of its cases is needed")
    # Every time: what lies there may be another one, of a call that was refused.
    with atomic_path(path) as partial:
        sitk.WriteImage(target.image(settings.atlas), str(partial))
    return read_scan(path)


@dataclass(frozen=True)
class _Cache:
    """The cached scans of one cohort on one kind of grid; every method that works on that grid shares them."""

    cohort: Cohort
    side: Side
    folder: Path

    @classmethod
    def of(cls, cohort: Cohort, side: Side, settings: VolumeSettings, spacing: Spacing, atlas: str | None) -> _Cache:
        """`atlas` is the SHA-256 of the scan whose frame is used, if there is one."""
        grid = [settings.orientation, settings.through_plane, atlas, spacing]
        key = hashlib.sha256(json.dumps(grid).encode()).hexdigest()[:12]
        name = cohort.name + (f"-{cohort.domain}" if cohort.domain else "")
        return cls(cohort, side, preprocessed_root() / "translation" / name / f"{side}-{key}")

    def image(self, case: str) -> NDArray[np.float32]:
        return np.load(self.folder / f"{case}.image.npy", mmap_mode="r")

    def labels(self, case: str) -> NDArray[np.int16]:
        return np.load(self.folder / f"{case}.label.npy", mmap_mode="r")

    def entry(self, case: str, settings: VolumeSettings, spacing: Spacing, atlas: sitk.Image | None) -> dict[str, Any]:
        """Cache one case, unless what is cached was made from the same files and labels."""
        cohort, labelled = self.cohort, self.side == "source"
        files = [cohort.image_path(case)] + ([cohort.label_path(case)] if labelled else [])
        made_from = {
            "files": [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files if p.exists()],
            "labels": [cohort.labels, cohort.ignore] if labelled else None,
        }
        described = self.folder / f"{case}.json"
        if described.exists():
            entry = json.loads(described.read_text())
            if entry["made_from"] == made_from:
                return entry
        image = cohort.image(case)
        placement = place(image, settings, spacing, self.side, atlas)
        _save(self.folder / f"{case}.image.npy", placement.forward(image))
        if labelled:
            labels = placement.forward_labels(cohort.label(case, image))
            _save(self.folder / f"{case}.label.npy", class_indices(labels, cohort.labels, cohort.ignore))
        entry = {"made_from": made_from, "voxel": list(placement.voxel)}
        write_json(described, entry)
        return entry


def _region(cache: _Cache, entries: dict[str, dict[str, Any]], margin: float, *, symmetric: bool) -> Box | None:
    """The box that holds 95 % of the cases' labels on each side, in mm from the centre, with the margin.

    Without an atlas the two cohorts share no frame but their centre and may be mirrored, so the box is symmetric.
    """
    extents = []
    for case, entry in entries.items():
        labels = cache.labels(case)
        found = np.argwhere(labels > 0)
        if len(found):
            middle = (np.array(labels.shape) - 1) / 2
            voxel = np.array(entry["voxel"])
            extents.append([(found.min(0) - middle - 0.5) * voxel, (found.max(0) - middle + 0.5) * voxel])
    if not extents:
        log.warning("no source case has a labelled voxel: crops and percentiles come from whole scans")
        return None
    low = np.percentile([e[0] for e in extents], 5, axis=0) - margin
    high = np.percentile([e[1] for e in extents], 95, axis=0) + margin
    if symmetric:
        high = np.maximum(-low, high)
        low = -high
    return tuple((round(float(a), 2), round(float(b), 2)) for a, b in zip(low, high, strict=True))  # type: ignore[return-value]


def _save(path: Path, array: NDArray) -> None:
    with atomic_path(path) as partial:
        np.save(partial, array)
