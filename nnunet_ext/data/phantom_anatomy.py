"""The anatomy of the synthetic hearts: a volume painted tissue over tissue in millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

LABELS = {"RV": 1, "MYO": 2, "LV": 3}

Field = NDArray[np.float32]

# Half the width of the blend between two tissues, in mm: partial volume of the in-plane point spread.
EDGE_MM = 0.8


@dataclass(frozen=True)
class Grid:
    """Voxel centres in mm, seen from the heart: `u` to the right, `v` downwards, both (1, rows, columns).

    `level` (slices, 1, 1) runs from 0 at the base to 1 at the apex, beyond both where slices miss the ventricles.
    """

    u: Field
    v: Field
    level: Field
    spacing: tuple[float, float, float]


@dataclass(frozen=True)
class Contrast:
    """Mean signal of each tissue, before gain, shading and noise; fat of a cine scan is about 1."""

    blood: float
    rv_blood: float
    myocardium: float
    muscle: float
    fat: float
    liver: float
    stomach: float
    lung: float
    noise: float
    texture: float
    shading: float


class _Canvas:
    """A volume painted tissue over tissue, soft at the edges."""

    def __init__(self, shape: tuple[int, ...], signal: float) -> None:
        self.signal = np.full(shape, signal, np.float32)

    def paint(self, distance: Field, value: float | NDArray[Any], opacity: float | NDArray[Any] = 1.0) -> None:
        """Cover where `distance` (mm, negative inside) says so."""
        cover = np.clip(0.5 - distance / (2 * EDGE_MM), 0, 1) * opacity
        self.signal += cover * (value - self.signal)


def scan(
    grid: Grid,
    person: np.random.Generator,
    scanner: np.random.Generator,
    texture: np.random.Generator,
    c: Contrast,
    *,
    scars: bool,
) -> tuple[Field, NDArray[np.uint8]]:
    """Noise-free signal and labels of one person.

    Args:
        grid: where the voxels are.
        person: draws the anatomy; always the same count of numbers up to the ventricles, whatever the grid.
        scanner: draws what changes from scan to scan.
        texture: draws the tissues' texture, voxel by voxel.
        c: the tissues' signal.
        scars: whether infarcts show.
    """
    shape = (grid.level.shape[0], *grid.u.shape[1:])
    u, v = _bend(grid, person, scanner)
    level = grid.level
    canvas = _Canvas(shape, 0.0)
    _paint_body(canvas, u, v, level, person, texture, c)

    # Left ventricle: a bent, tapering tube with an uneven wall.
    tip = np.sqrt(np.clip(1 - np.clip(level, 0, None) ** 2 / 1.04, 0, None))
    alive = tip > 0.25
    axis_u, axis_v = person.uniform(-14, 14, 2)
    du, dv = u - axis_u * (level - 0.4), v - axis_v * (level - 0.4)
    radius, angle = np.hypot(du, dv), np.arctan2(dv, du)
    cavity = person.uniform(15, 27) * tip**0.8 * _lobes(angle, level, person, 0.05)
    wall = person.uniform(6.5, 12.5) * (0.75 + 0.25 * tip) * _lobes(angle, level, person, 0.12)
    # One person in three has a septum or a lateral wall that is clearly thicker or thinner.
    if person.random() < 0.35:
        wall = wall * (1 + person.uniform(-0.35, 0.6) * _bump(angle, person.uniform(-np.pi, np.pi), 0.8))
    dead = np.where(alive, 0, 1e3).astype(np.float32)
    endocardium, epicardium = radius - cavity + dead, radius - cavity - wall + dead

    # Right ventricle: a crescent that hugs the septum and ends before the left one does.
    side = np.deg2rad(person.uniform(150, 240))
    reach = np.clip(1 - np.clip(level, 0, None) * person.uniform(0.85, 1.1), 0, 1) ** 0.6
    size = person.uniform(24, 36) * reach
    away = (person.uniform(18, 26) + 6) * (0.35 + 0.65 * reach)
    ru, rv = du - away * np.cos(side), dv - away * np.sin(side)
    along, across = ru * np.cos(side) + rv * np.sin(side), -ru * np.sin(side) + rv * np.cos(side)
    stretch = person.uniform(1.15, 1.5)
    ellipse = np.hypot(along, across / stretch) - size * _lobes(np.arctan2(across, along), level, person, 0.07)
    no_rv = np.where(size > 7, 0, 1e3).astype(np.float32)
    chamber = np.maximum(ellipse + no_rv, 0.8 - epicardium)

    pericardium = np.minimum(epicardium, chamber - 2.5) - person.uniform(1, 7)
    patches = np.clip(0.5 + 0.6 * smooth_noise(shape, texture, 6), 0, 1)
    canvas.paint(pericardium, c.fat * person.uniform(0.5, 1), opacity=person.uniform(0.4, 1) * patches)
    canvas.paint(chamber - 2.5, c.myocardium)
    flow = c.rv_blood * (1 + 0.12 * smooth_noise(shape, texture, 5))
    canvas.paint(chamber, flow)
    trabeculae = smooth_noise(shape, texture, 1.6) + np.clip(ellipse + 9, 0, 9) / 9
    canvas.paint(chamber, c.myocardium * 1.3, opacity=0.75 * np.clip((trabeculae - 1.35) * 2, 0, 1))
    canvas.paint(epicardium, c.myocardium * (1 + 0.5 * c.texture * smooth_noise(shape, texture, 2)))
    if scars:
        _paint_scars(canvas, radius, angle, level, cavity, wall, dead, person, scanner, texture, c)
    canvas.paint(endocardium, c.blood * (1 + c.texture * smooth_noise(shape, texture, 4)))
    for _ in range(2):
        at, depth = person.uniform(-np.pi, np.pi), person.uniform(0.45, 0.8)
        muscle = np.hypot(du - depth * cavity * np.cos(at), dv - depth * cavity * np.sin(at)) - person.uniform(2.5, 4.8)
        present = np.clip(1 - ((level - 0.45) / 0.35) ** 2, 0, 1)
        canvas.paint(np.maximum(muscle, endocardium), c.myocardium * 1.1, opacity=0.9 * np.sqrt(present))

    labels = np.zeros(shape, np.uint8)
    labels[chamber < 0] = LABELS["RV"]
    labels[epicardium < 0] = LABELS["MYO"]
    labels[endocardium < 0] = LABELS["LV"]
    return canvas.signal, labels


def _paint_body(
    canvas: _Canvas,
    u: Field,
    v: Field,
    level: Field,
    person: np.random.Generator,
    texture: np.random.Generator,
    c: Contrast,
) -> None:
    shape = canvas.signal.shape
    lean = np.deg2rad(person.uniform(-25, 25))
    x, y = u * np.cos(lean) + v * np.sin(lean), -u * np.sin(lean) + v * np.cos(lean)
    left, low = person.uniform(-5, 18), person.uniform(-8, 12)
    around = np.arctan2(y - low, x + left)
    trunk = _ellipse(x + left, y - low, person.uniform(92, 112), person.uniform(76, 95))
    trunk = trunk + 40 * (1 - _lobes(around, level, person, 0.05))
    # Fat is thick on one side of the chest and thin on the other.
    fat = person.uniform(7, 13) * (1 + 0.7 * np.cos(around - person.uniform(-np.pi, np.pi)))
    muscle = person.uniform(8, 15) * _lobes(around, level, person, 0.2)
    canvas.paint(trunk, c.fat * (1 + 0.08 * smooth_noise(shape, texture, 3)))
    canvas.paint(trunk + fat, c.muscle * (1 + c.texture * smooth_noise(shape, texture, 3)))
    canvas.paint(trunk + fat, c.fat * 0.8, opacity=np.clip((smooth_noise(shape, texture, 2) - 1.3) * 2, 0, 0.8))
    ribs = np.sin(around * person.integers(9, 14) + level * 6 + smooth_noise(shape, texture, 12))
    canvas.paint(np.abs(trunk + fat + muscle * 0.5) - 2.5, c.fat * 0.6, opacity=np.clip(ribs * 3 - 1.5, 0, 1))
    canvas.paint(trunk + fat + muscle, c.lung * (1 + 0.2 * smooth_noise(shape, texture, 2)))
    vessels = np.clip((smooth_noise(shape, texture, 1.2) - 2.0) * 2, 0, 1)
    canvas.paint(trunk + fat + muscle, c.blood * 0.6, opacity=vessels)

    inside = trunk + fat + muscle
    rise = 16 * level - person.uniform(0, 10)
    liver = _ellipse(x + person.uniform(5, 30), y - 72 + rise, person.uniform(60, 75), person.uniform(34, 46))
    canvas.paint(np.maximum(liver, inside), c.liver * (1 + c.texture * smooth_noise(shape, texture, 4)))
    canvas.paint(
        np.maximum(liver, inside), c.blood * 0.9, opacity=np.clip((smooth_noise(shape, texture, 1.8) - 1.9) * 3, 0, 1)
    )
    stomach = _ellipse(x - person.uniform(35, 60), y - person.uniform(42, 62) + rise, *person.uniform(14, 26, 2))
    canvas.paint(np.maximum(stomach, inside), c.stomach * (1 + 0.3 * smooth_noise(shape, texture, 3)))
    canvas.paint(np.maximum(np.abs(stomach) - 1.5, inside), c.muscle)
    # Mediastinum and spine: clutter of fat, muscle and vessels behind the heart.
    behind = _ellipse(x - person.uniform(20, 40), y - person.uniform(35, 55), *person.uniform(18, 32, 2))
    clutter = smooth_noise(shape, texture, 3.5)
    tissue = np.where(clutter > 0.6, c.fat * 0.7, np.where(clutter < -0.8, c.blood * 0.8, c.muscle))
    canvas.paint(behind, tissue.astype(np.float32))
    # The descending aorta: round and full of blood like the ventricle, and not to be labelled.
    at = person.uniform(38, 58), person.uniform(8, 36)
    aorta = np.hypot(x - at[0], y - at[1]) - person.uniform(8, 12)
    canvas.paint(aorta - 1.5, c.muscle)
    canvas.paint(aorta, c.blood * person.uniform(0.8, 1.05))


def _paint_scars(
    canvas: _Canvas,
    radius: Field,
    angle: Field,
    level: Field,
    cavity: Field,
    wall: Field,
    dead: Field,
    person: np.random.Generator,
    scanner: np.random.Generator,
    texture: np.random.Generator,
    c: Contrast,
) -> None:
    """Infarcts in four persons of five: patches that start at the endocardium and reach some way through the wall."""
    for _ in range(person.integers(1, 5) if person.random() < 0.8 else 0):
        where, width = person.uniform(-np.pi, np.pi), person.uniform(0.4, 1.1)
        middle, length = person.uniform(0.1, 0.8), person.uniform(0.2, 0.5)
        depth = person.uniform(0.45, 1.1) * np.clip(1 - ((level - middle) / length) ** 2, 0, 1) ** 0.5
        depth = depth * _bump(angle, where, width) * (1 + 0.25 * smooth_noise(canvas.signal.shape, texture, 2))
        bright = c.blood * scanner.uniform(1.2, 2.2)
        canvas.paint(radius - cavity - wall * depth + dead, bright, opacity=np.clip(depth * 4, 0, 1))
        if person.random() < 0.3:  # microvascular obstruction: a dark core that touches the cavity
            core = radius - cavity - 0.5 * wall * depth + dead
            canvas.paint(core, c.myocardium, opacity=np.clip(depth * 4 - 2, 0, 1))


def _bend(grid: Grid, person: np.random.Generator, scanner: np.random.Generator) -> tuple[Field, Field]:
    """Coordinates after a smooth non-rigid deformation and a small shift of each slice (breathing)."""
    u = np.broadcast_to(grid.u, (grid.level.shape[0], *grid.u.shape[1:])).copy()
    v = np.broadcast_to(grid.v, u.shape).copy()
    for _ in range(4):
        wave = person.uniform(-1, 1, 2) / person.uniform(25, 60)
        phase, size = person.uniform(0, 2 * np.pi), person.uniform(0, 2.5, 2)
        swing = np.sin(wave[0] * grid.u + wave[1] * grid.v + phase + person.uniform(-2, 2) * grid.level)
        u += (size[0] * swing).astype(np.float32)
        v += (size[1] * swing).astype(np.float32)
    breath = scanner.normal(0, 1.2, (2, u.shape[0], 1, 1)).astype(np.float32)
    return u + breath[0], v + breath[1]


def _lobes(angle: Field, level: Field, rng: np.random.Generator, size: float) -> Field:
    """A factor around 1 that varies slowly along the contour and along the axis."""
    factor = np.ones_like(angle)
    for order in (2, 3, 4):
        factor += (
            size * rng.normal() / (order - 1) * np.cos(order * angle + rng.uniform(0, 2 * np.pi) + rng.normal() * level)
        )
    return factor


def _bump(angle: Field, where: float, width: float) -> Field:
    """1 at the angle `where`, falling to 0 over about `width` radians."""
    return np.exp(-((np.angle(np.exp(1j * (angle - where))) / width) ** 2)).astype(np.float32)


def _ellipse(x: Field, y: Field, half_width: float, half_height: float) -> Field:
    """Approximate distance to an ellipse in mm, negative inside."""
    return (np.hypot(x / half_width, y / half_height) - 1) * min(half_width, half_height)


def smooth_noise(shape: tuple[int, ...], rng: np.random.Generator, smooth: float) -> Field:
    """Gaussian noise with a correlation of `smooth` voxels in plane, zero mean and unit variance."""
    field = rng.standard_normal(shape, dtype=np.float32)
    field = ndimage.gaussian_filter(field, (0.6, smooth, smooth), mode="wrap")
    return (field - field.mean()) / field.std()
