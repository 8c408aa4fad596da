"""Made short-axis hearts in two modalities, for the demo and for tests.

`cine` looks like balanced SSFP: bright blood, grey myocardium, dark lungs, bright fat. `lge` looks like late gadolinium
enhancement: grey uneven blood, nulled myocardium with bright scar patches in some segments (some with a dark core),
strong noise and coil shading. The two differ in kind: no curve that maps one's intensities gives the other's, because
scar is as bright as blood or fat and liver changes its order relative to muscle.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from nnunet_ext.data.images import ending
from nnunet_ext.data.phantom_anatomy import LABELS, Contrast, Field, Grid, scan, smooth_noise
from nnunet_ext.errors import InputError
from nnunet_ext.files import atomic_path

Modality = Literal["cine", "lge"]
__all__ = ["LABELS", "Modality", "heart", "write_hearts"]


def heart(seed: int, modality: Modality) -> tuple[sitk.Image, sitk.Image]:
    """A heart and its label map.

    Args:
        seed: fixes everything. One seed gives the same person in both modalities, scanned with different grids.
        modality: `cine` or `lge`.

    Returns:
        Image (int16, arbitrary units) and label map (uint8; 1 RV, 2 MYO, 3 LV), 6 to 12 slices of about 128 x 120
        voxels of about 1.5 x 1.5 x 9 mm, half of them oblique.
    """
    if modality not in get_args(Modality):
        raise InputError(f"modality {modality}: unknown, one of {', '.join(get_args(Modality))} is needed")
    # The person's generator draws the same numbers whatever the grid; texture takes as many as there are voxels.
    person = np.random.default_rng([seed, 0])
    scanner, texture = (np.random.default_rng([seed, i, zlib.crc32(modality.encode())]) for i in (1, 2))
    grid, contrast = _grid(scanner), _contrast(modality, scanner)
    signal, labels = scan(grid, person, scanner, texture, contrast, scars=modality == "lge")
    image = sitk.GetImageFromArray(_acquire(signal, grid, scanner, contrast))
    label = sitk.GetImageFromArray(labels)
    _place(image, grid.spacing, scanner)
    label.CopyInformation(image)
    return image, label


def write_hearts(
    folder: Path, n: int, modality: Modality, seed: int = 0, file_ending: str = ".nii.gz", *, labelled: bool = True
) -> list[str]:
    """Write `images/<modality>_NNN` and, if `labelled`, `labels/<modality>_NNN` for `n` hearts; returns the case names.

    The layout is what `nnunet_ext dataset folder` reads. Heart i depends on `seed` and i alone.
    """
    if n < 1:
        raise InputError(f"{folder}: {n} hearts asked for, at least one is needed")
    if ending(Path(f"a{file_ending}")) is None:
        raise InputError(f"{folder}: file ending {file_ending} is unknown, one such as .nii.gz is needed")
    names = [f"{modality}_{i:03d}" for i in range(n)]
    parts = ("images", "labels") if labelled else ("images",)
    for i, name in enumerate(names):
        pair = heart(int(np.random.SeedSequence([seed, i]).generate_state(1)[0]), modality)
        for part, volume in zip(parts, pair, strict=False):
            with atomic_path(Path(folder) / part / f"{name}{file_ending}") as partial:
                sitk.WriteImage(volume, str(partial), useCompression=True)
    return names


def _grid(rng: np.random.Generator) -> Grid:
    rows, columns, slices = (int(rng.integers(*span)) for span in ((112, 133), (112, 133), (6, 13)))
    in_plane = rng.uniform(1.35, 1.7)
    # The ventricles are about 85 mm long; the first slice lies near the valves, the last near or beyond the apex.
    thickness = np.clip(rng.uniform(80, 95) / slices, 6.5, 12.0)
    level = (np.arange(slices) + rng.uniform(-0.3, 0.4)) * thickness / 88
    shift = rng.uniform(-14, 14, 2)
    v, u = np.meshgrid(
        (np.arange(rows) - rows / 2) * in_plane + shift[0],
        (np.arange(columns) - columns / 2) * in_plane + shift[1],
        indexing="ij",
    )
    return Grid(
        u[None].astype(np.float32),
        v[None].astype(np.float32),
        level[:, None, None].astype(np.float32),
        (in_plane, in_plane, float(thickness)),
    )


def _contrast(modality: Modality, rng: np.random.Generator) -> Contrast:
    def about(mean: float, spread: float = 0.12) -> float:
        return float(mean * rng.uniform(1 - spread, 1 + spread))

    if modality == "cine":
        blood = about(0.85)
        return Contrast(
            blood=blood,
            rv_blood=blood * rng.uniform(0.75, 1.0),
            myocardium=about(0.32),
            muscle=about(0.28),
            fat=about(1.0),
            liver=about(0.33, 0.25),
            stomach=about(0.5, 0.4),
            lung=about(0.06),
            noise=rng.uniform(0.02, 0.04),
            texture=0.1,
            shading=rng.uniform(0.2, 0.45),
        )
    blood = about(0.36, 0.2)
    return Contrast(
        blood=blood,
        rv_blood=blood * rng.uniform(0.75, 1.1),
        myocardium=blood * rng.uniform(0.28, 0.5),
        muscle=about(0.2),
        fat=about(0.75),
        liver=about(0.3, 0.3),
        stomach=about(0.4, 0.5),
        lung=about(0.07),
        noise=rng.uniform(0.035, 0.06),
        texture=0.22,
        shading=rng.uniform(0.45, 0.8),
    )


def _acquire(signal: Field, grid: Grid, scanner: np.random.Generator, c: Contrast) -> NDArray[np.int16]:
    """Point spread, coil shading, Rician noise of the magnitude, and the scanner's gain."""
    signal = ndimage.gaussian_filter(signal, (0, 0.45, 0.45))
    toward = scanner.uniform(-np.pi, np.pi)
    ramp = (grid.u * np.cos(toward) + grid.v * np.sin(toward)) / 90
    patch = smooth_noise(signal.shape, scanner, 30)
    signal = signal * np.exp(c.shading * (ramp + 0.3 * patch))
    # Per-slice gain: breath-holds differ.
    signal = signal * scanner.uniform(0.92, 1.08, (signal.shape[0], 1, 1)).astype(np.float32)
    real, imaginary = (
        ndimage.gaussian_filter(scanner.standard_normal(signal.shape, dtype=np.float32), (0, 0.4, 0.4)) for _ in "ri"
    )
    spread = c.noise / real.std()
    magnitude = np.hypot(signal + spread * real, spread * imaginary)
    return np.clip(magnitude * scanner.uniform(250, 900), 0, 32767).astype(np.int16)


def _place(image: sitk.Image, spacing: tuple[float, float, float], rng: np.random.Generator) -> None:
    """Spacing, and an origin and direction as scanners give them: half of the scans are oblique."""
    image.SetSpacing(spacing)
    image.SetOrigin([float(x) for x in rng.uniform(-160, 160, 3)])
    if rng.random() < 0.5:
        turn = Rotation.from_euler("xyz", rng.uniform(-50, 50, 3), degrees=True).as_matrix()
    else:
        turn = np.diag([-1.0, -1.0, 1.0])
    image.SetDirection([float(x) for x in turn.ravel()])
