"""The label-preservation gate: is every labelled structure translated, and does it still stand out where its label
says it is?
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import binary_dilation, generate_binary_structure
from scipy.stats import rankdata

from nnunet_ext.training.settings import Section
from translation.volume.grid import Placement

Volume = NDArray[np.float32]
Labels = NDArray[np.int16]


class GateSettings(Section):
    """When a structure counts as lost, and how often that may happen."""

    shell: int = Field(default=2, ge=1, description="pixels on each side of a boundary that are compared")
    min_pixels: int = Field(default=20, ge=1, description="boundaries of fewer pixels are not judged")
    keep: float = Field(default=0.5, ge=0, le=1, description="part of the source's separability that must be left")
    enough: float = Field(default=0.35, ge=0, le=1, description="separability that is always enough")
    covered: float = Field(
        default=0.5, ge=0, le=1, description="part of a structure's volume needed on the working grid"
    )
    tolerated: float = Field(default=0.1, ge=0, le=1, description="part of the cases that may lose a structure")


@dataclass(frozen=True)
class Verdict:
    """One structure of one case.

    Attributes:
        case, structure: names.
        before, after: separability in the source and in the translation (see `separability`); None where too little
            of the structure lies on the working grid to tell.
        covered: part of its labelled volume that lies on the working grid (see `coverage`).
        lost: whether it was washed out or left outside the working grid.
    """

    case: str
    structure: str
    before: float | None
    after: float | None
    covered: float
    lost: bool

    @property
    def outside(self) -> bool:
        """Whether it is lost because the working grid does not hold it."""
        return self.lost and self.before is None


def auc(a: NDArray, b: NDArray) -> float:
    """Probability that a value of `a` exceeds one of `b`, ties counting half (Mann-Whitney)."""
    ranks = rankdata(np.concatenate([a, b]))
    return float((ranks[: len(a)].sum() - len(a) * (len(a) + 1) / 2) / (len(a) * len(b)))


def separability(volume: Volume, labels: Labels, structure: int, settings: GateSettings) -> float | None:
    """How well intensity alone tells the two sides of a structure's boundary apart.

    Pixels within `shell` of the boundary, in the slice's plane, are compared with those of each neighbouring label
    in turn: |2 AUC - 1|, from 0 (indistinguishable) to 1, whichever side is brighter, averaged over the neighbours
    by their share of the boundary. A structure that moved loses it as one that faded does.

    Args:
        volume: (slices, rows, columns), any unit.
        labels: class indices of the same shape; -1 is left out.
        structure: class index.
        settings: shell and least size.

    Returns:
        the figure, or None where the boundary is too short to judge.
    """
    disk = generate_binary_structure(3, 1)
    disk[0] = disk[2] = False
    inside = labels == structure
    if inside.sum() < settings.min_pixels:
        return None
    around = binary_dilation(inside, disk, settings.shell) & ~inside
    total, figure = 0, 0.0
    for neighbour in np.unique(labels[around]):
        outer = around & (labels == neighbour)
        if neighbour < 0 or outer.sum() < settings.min_pixels:
            continue
        inner = binary_dilation(outer, disk, settings.shell) & inside
        if not inner.any():
            continue
        weight = int(outer.sum())
        figure += weight * abs(2 * auc(volume[inner], volume[outer]) - 1)
        total += weight
    return figure / total if total else None


def coverage(
    label: sitk.Image, labels: Labels, placement: Placement, names: Mapping[str, int], settings: GateSettings
) -> dict[str, float]:
    """Which part of each structure's labelled volume (mm^3) lies on the working grid.

    A short field of view or a failed registration leaves the rest outside, where the translation is blank.

    Args:
        label: the scan's label map.
        labels: class indices on the working grid.
        placement: from the scan to the working grid.
        names: label name -> value; the value 0 is background.
        settings: least size.

    Returns:
        structure -> part, about 1 where nothing is lost. Structures of less than `min_pixels` voxels, of the scan or
        of the working grid, are left out: nearest neighbours alone may halve them.
    """
    values = sitk.GetArrayViewFromImage(label)
    parts = {}
    for index, (name, value) in enumerate(names.items()):
        count = int((values == value).sum()) if value != 0 else 0
        volume = count * float(np.prod(label.GetSpacing()))
        if min(count, volume / float(np.prod(placement.voxel))) >= settings.min_pixels:
            parts[name] = float((labels == index).sum()) * placement.scan_mm3 / volume
    return parts


def judge(
    case: str,
    source: Volume,
    translated: Volume,
    labels: Labels,
    names: Mapping[str, int],
    settings: GateSettings,
    covered: Mapping[str, float] | None = None,
) -> list[Verdict]:
    """Compare one case's structures before and after translation.

    A structure is lost when less than `covered` of its volume lies on the working grid, or when its separability is
    below `enough` and below `keep` times the source's.

    Args:
        case: name, for the verdicts.
        source, translated, labels: on one grid.
        names: label name -> value; the value 0 is background.
        settings: of the gate.
        covered: what `coverage` found; everything is on the grid without it.
    """
    verdicts = []
    for index, name in enumerate(names):
        part = round((covered or {}).get(name, 1.0), 3)
        if part < settings.covered:
            verdicts.append(Verdict(case, name, None, None, part, True))
            continue
        before = separability(source, labels, index, settings) if names[name] != 0 else None
        after = separability(translated, labels, index, settings) if before is not None else None
        if before is not None and after is not None:
            lost = after < settings.enough and after < settings.keep * before
            verdicts.append(Verdict(case, name, round(before, 3), round(after, 3), part, lost))
    return verdicts


@dataclass(frozen=True)
class Loss:
    """A structure that some cases lost.

    Attributes:
        structure: name.
        lost: those verdicts.
        judged: number of cases in which the structure was judged.
        tolerated: whether that few may lose it.
    """

    structure: str
    lost: list[Verdict]
    judged: int
    tolerated: bool


def losses(verdicts: Iterable[Verdict], settings: GateSettings) -> list[Loss]:
    """The structures that at least one case lost."""
    by_structure: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_structure.setdefault(verdict.structure, []).append(verdict)
    found = []
    for name, rows in by_structure.items():
        if lost := [v for v in rows if v.lost]:
            found.append(Loss(name, lost, len(rows), len(lost) <= settings.tolerated * len(rows)))
    return found
