"""Synthetic tumours of the cerebellopontine angle in two modalities, graded as on the Koos scale.

The porus of the inner ear canal lies at the origin, the brainstem medial to it beyond a cistern of cerebrospinal fluid.
What decides the grade is where the tumour ends: 1 inside the canal; 2 in the cistern, short of the brainstem; 3 on the
brainstem, which keeps its shape; 4 in the brainstem's place, which is dented and pushed away. The cistern's width
differs from person to person and independently of the tumour, so that tumours of one volume have different grades.

`ceT1` shows the tumour bright and fluid dark; `hrT2` shows fluid bright and the tumour about as grey as the brain. No
curve maps one to the other: tumour, brain, fluid and vessels are in another order.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from nnunet_ext.data.phantom_anatomy import Field, smooth_noise
from nnunet_ext.errors import InputError
from nnunet_ext.files import atomic_path

Modality = Literal["ceT1", "hrT2"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
LABELS = {"VS": 1, "cochlea": 2}
GRADES = (1, 2, 3, 4)

EDGE_MM = 0.5
#: bone, brain, brainstem, fluid, tumour, cochlea, vessel; bright is about 1
_SIGNAL = {
    "ceT1": (0.12, 0.45, 0.52, 0.18, 0.95, 0.25, 0.85),
    "hrT2": (0.08, 0.42, 0.36, 0.95, 0.48, 0.9, 0.15),
}


@dataclass(frozen=True)
class Anatomy:
    """One person's angle, lengths in mm.

    Attributes:
        cistern: from the porus to the surface of a brainstem at rest.
        reach: how far the tumour comes out of the porus, medially; 0 for one inside the canal.
        canal: radius of the canal, which a tumour fills and widens.
        filled: how much of the canal is filled, from the porus outwards.
    """

    grade: int
    cistern: float
    reach: float
    canal: float
    filled: float


def anatomy(grade: int, rng: np.random.Generator) -> Anatomy:
    """A person with a tumour of that grade. Tumours of grades 2 to 4 are drawn from one range of sizes."""
    canal, filled = rng.uniform(2.2, 3.6), rng.uniform(6, 12)
    if grade == 1:
        return Anatomy(1, rng.uniform(5, 20), 0.0, rng.uniform(2.6, 4.2), rng.uniform(8, 14))
    reach = rng.uniform(7, 20)
    beyond = {2: rng.uniform(-7, -2.5), 3: rng.uniform(0, 0.6), 4: rng.uniform(4, 8)}[grade]
    return Anatomy(grade, max(reach - beyond, 3.0), reach, canal, filled)


def tumour(seed: int, modality: Modality, grade: int | None = None) -> tuple[sitk.Image, sitk.Image, int]:
    """A scan, its label map and its grade.

    Args:
        seed: fixes everything. One seed gives the same person on the same grid in both modalities.
        modality: `ceT1` or `hrT2`.
        grade: 1 to 4; drawn from the seed without it.

    Returns:
        Image (int16, arbitrary units), label map (uint8; 1 VS, 2 cochlea), about 18 slices of 72 x 72 voxels of about
        0.9 x 0.9 x 2 mm, half of them oblique and half of the tumours on either side; and the grade.
    """
    if modality not in MODALITIES:
        raise InputError(f"modality {modality}: unknown, one of {', '.join(MODALITIES)} is needed")
    if grade is not None and grade not in GRADES:
        raise InputError(f"grade {grade}: unknown, one of {', '.join(map(str, GRADES))} is needed")
    person = np.random.default_rng([seed, 0])
    scanner = np.random.default_rng([seed, 1, zlib.crc32(modality.encode())])
    drawn = int(person.choice(GRADES))
    a = anatomy(grade or drawn, person)
    spacing = (float(person.uniform(1.8, 2.2)), *[float(person.uniform(0.8, 1.0))] * 2)
    shape = (int(person.integers(16, 21)), 72, 72)
    signal, labels = _paint(a, shape, spacing, person, scanner, _SIGNAL[modality])
    image = sitk.GetImageFromArray(_acquire(signal, scanner))
    label = sitk.GetImageFromArray(labels)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(person.uniform(-100, 100, 3).tolist())
    oblique = person.random() < 0.5
    turn = Rotation.from_euler("xyz", person.uniform(-15, 15, 3) if oblique else (0, 0, 0), degrees=True)
    image.SetDirection(turn.as_matrix().ravel().tolist())
    label.CopyInformation(image)
    return image, label, a.grade


def write_tumours(
    folder: Path, n: int, modalities: Sequence[Modality] = MODALITIES, seed: int = 0, file_ending: str = ".nii.gz"
) -> dict[str, int]:
    """Write `images/<modality>_NNN` and `labels/<modality>_NNN` for `n` persons, grades in turn.

    The layout is what `nnunet_ext dataset folder` reads. Person i depends on `seed` and i alone.

    Returns:
        case -> grade.
    """
    if n < 1:
        raise InputError(f"{folder}: {n} tumours asked for, at least one is needed")
    grades = {}
    for i in range(n):
        own = int(np.random.SeedSequence([seed, i]).generate_state(1)[0])
        for modality in modalities:
            image, label, grade = tumour(own, modality, GRADES[i % len(GRADES)])
            grades[f"{modality}_{i:03d}"] = grade
            for part, volume in (("images", image), ("labels", label)):
                with atomic_path(Path(folder) / part / f"{modality}_{i:03d}{file_ending}") as partial:
                    sitk.WriteImage(volume, str(partial), useCompression=True)
    return grades


def _paint(
    a: Anatomy,
    shape: tuple[int, int, int],
    spacing: tuple[float, ...],
    person: np.random.Generator,
    scanner: np.random.Generator,
    tissue: tuple[float, ...],
) -> tuple[Field, NDArray[np.uint8]]:
    bone, brain, stem, fluid, vs, cochlea, vessel = (t * scanner.uniform(0.9, 1.1) for t in tissue)
    # x runs medially from the porus, y backwards, z upwards.
    z, y, x = np.meshgrid(
        *((np.arange(n) - n / 2) * s + person.uniform(-4, 4) for n, s in zip(shape, spacing, strict=True)),
        indexing="ij",
    )
    side = 1.0 if person.random() < 0.5 else -1.0
    x = (side * x).astype(np.float32) - np.float32(person.uniform(-3, 3))
    wobble = person.normal(0, 0.05, 3)
    y, z = (y + wobble[0] * x).astype(np.float32), (z + wobble[1] * x).astype(np.float32)
    x = x + np.float32(1.5) * np.sin(y / 9 + person.uniform(0, 6)) * np.float32(wobble[2] * 10)

    canal = np.maximum(np.hypot(y, z) - a.canal, np.maximum(x - 1.5, -x - 15))
    plug = np.maximum(np.hypot(y, z) - a.canal, np.maximum(x - 1.0, -x - a.filled))
    lobes = 0.12 * smooth_noise(shape, person, 6)
    half = a.reach / 2
    if a.reach:
        across = half * person.uniform(0.8, 1.25)
        up = across * person.uniform(0.8, 1.1)
        # Smooth where it meets the brainstem, so that `reach` is where the tumour ends.
        bumps = 1 + lobes * np.clip(1 - x / a.reach, 0, 1)
        ball = (np.sqrt(((x - half) / half) ** 2 + (y / across) ** 2 + (z / up) ** 2) - bumps) * min(half, across, up)
        mass = np.minimum(plug, ball)
    else:
        mass = plug

    # A brainstem as wide as an elliptic tube along z; a tumour in its place pushes all of it away, and dents it.
    pressed = max(a.reach - a.cistern, 0.0)
    width, depth = person.uniform(15, 18), person.uniform(13, 16)
    away = a.cistern + width + 0.2 * pressed
    tube = (np.hypot((x - away) / width, (y - person.uniform(-2, 2)) / depth) - 1) * min(width, depth)
    tube = tube + 0.3 * smooth_noise(shape, person, 9)
    near = np.exp(-(y**2 + z**2) / (2 * (0.7 * half + 3) ** 2)).astype(np.float32)
    tube = tube + near * 0.15 * pressed * (x < away)

    petrous = x + 1.5 + 2 * smooth_noise(shape, person, 10)
    cerebellum = -(y - person.uniform(16, 20)) + 1.5 * smooth_noise(shape, person, 7)

    signal = np.full(shape, fluid, np.float32) * (1 + 0.05 * smooth_noise(shape, scanner, 3))

    def cover(distance: Field, value: float | Field) -> None:
        nonlocal signal
        opacity = np.clip(0.5 - distance / (2 * EDGE_MM), 0, 1)
        signal = signal + opacity * (value - signal)

    for _ in range(3):
        line = np.hypot(y - person.uniform(-14, 14), z - person.uniform(-14, 14) - 0.4 * x) - person.uniform(0.6, 1.1)
        cover(np.maximum(line, -petrous), vessel)
    cover(cerebellum, brain * (1 + 0.08 * smooth_noise(shape, scanner, 2)))
    cover(tube, stem * (1 + 0.06 * smooth_noise(shape, scanner, 2)))
    cover(petrous, bone * (1 + 0.2 * smooth_noise(shape, scanner, 2)))
    cover(canal, fluid)
    ear = np.sqrt((x + 19) ** 2 + (y + 3) ** 2 + z**2) - person.uniform(2.2, 3.0)
    cover(ear, cochlea)
    cover(mass, vs * (1 + 0.15 * smooth_noise(shape, scanner, 3)))
    labels = np.zeros(shape, np.uint8)
    labels[ear < 0] = LABELS["cochlea"]
    labels[mass < 0] = LABELS["VS"]
    return signal.astype(np.float32), labels


def _acquire(signal: Field, scanner: np.random.Generator) -> NDArray[np.int16]:
    """Point spread, coil shading, Rician noise of the magnitude, and the scanner's gain."""
    signal = ndimage.gaussian_filter(signal, (0.25, 0.5, 0.5))
    signal = signal * np.exp(0.2 * smooth_noise(signal.shape, scanner, 30))
    real, imaginary = (0.03 * scanner.standard_normal(signal.shape, dtype=np.float32) for _ in "ri")
    return np.clip(np.hypot(signal + real, imaginary) * scanner.uniform(250, 900), 0, 32767).astype(np.int16)
