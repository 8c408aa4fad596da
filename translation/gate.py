"""The label-preservation gate: does every labelled structure still stand out where its label says it is?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import binary_dilation, generate_binary_structure
from scipy.stats import rankdata

from nnunet_ext.training.settings import Section

Volume = NDArray[np.float32]
Labels = NDArray[np.int16]


class GateSettings(Section):
    """When a structure counts as washed out, and how often that may happen."""

    shell: int = Field(default=2, ge=1, description="pixels on each side of a boundary that are compared")
    min_pixels: int = Field(default=20, ge=1, description="boundaries of fewer pixels are not judged")
    keep: float = Field(default=0.5, ge=0, le=1, description="part of the source's separability that must be left")
    enough: float = Field(default=0.35, ge=0, le=1, description="separability that is always enough")
    tolerated: float = Field(default=0.1, ge=0, le=1, description="part of the cases that may lose a structure")


@dataclass(frozen=True)
class Verdict:
    """One structure of one case: its separability before and after (see `separability`), and whether it is lost."""

    case: str
    structure: str
    before: float
    after: float
    lost: bool


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


def judge(
    case: str, source: Volume, translated: Volume, labels: Labels, names: Mapping[str, int], settings: GateSettings
) -> list[Verdict]:
    """Compare one case's structures before and after translation.

    A structure is lost when its separability is below `enough` and below `keep` times the source's.

    Args:
        case: name, for the verdicts.
        source, translated, labels: on one grid.
        names: label name -> value; the value 0 is background.
        settings: of the gate.
    """
    verdicts = []
    for index, name in enumerate(names):
        before = separability(source, labels, index, settings) if names[name] != 0 else None
        after = separability(translated, labels, index, settings) if before is not None else None
        if before is not None and after is not None:
            lost = after < settings.enough and after < settings.keep * before
            verdicts.append(Verdict(case, name, round(before, 3), round(after, 3), lost))
    return verdicts


def failures(verdicts: Iterable[Verdict], settings: GateSettings) -> dict[str, list[str]]:
    """Structures that are washed out in more than the tolerated part of the cases -> those cases."""
    by_structure: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_structure.setdefault(verdict.structure, []).append(verdict)
    lost = {name: [v.case for v in rows if v.lost] for name, rows in by_structure.items()}
    return {name: cases for name, cases in lost.items() if len(cases) > settings.tolerated * len(by_structure[name])}
