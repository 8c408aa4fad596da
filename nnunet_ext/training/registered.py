"""Registered labels and places, brought onto the grid that nnU-Net trains on and kept beside its preprocessed data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.configuration import ANISO_THRESHOLD
from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch.nn import functional as F

from nnunet_ext.errors import InputError
from nnunet_ext.files import atomic_path, read_json, write_json
from nnunet_ext.progress import progress
from nnunet_ext.registration.fusion import propagate
from nnunet_ext.registration.store import RegistrationStore

Choice = Literal["best", "random", "fused"]


@dataclass(frozen=True)
class Registered:
    """What registration says of one volume, on the grid of its image file.

    Attributes:
        frame: name of the space that the volume was registered to: a labelled volume's, or the template's. Places of
            two volumes can be compared where their frames are the same.
        position: (3, z, y, x) where each voxel lies in that space, mm, in any fixed order of axes.
        label: (z, y, x) the label map carried over from labelled volumes; None for a volume that has its own.
    """

    frame: str
    position: np.ndarray
    label: np.ndarray | None


def from_store(
    store: RegistrationStore, choice: Choice, seed: int, fold: int | str = "all"
) -> Callable[[str], Registered | None]:
    """What a store says of a case.

    In the scheme of pairs an unlabelled case's frame is the labelled volume that suits it best and a labelled case's is
    its own; in the scheme of a template all are in the template's.

    Args:
        store: of this dataset and fold.
        choice: whose labels an unlabelled case gets: those of the best labelled volume (best registration selection,
            section 6.3.3), of one drawn at random among those that could be registered, or fused from all.
        seed: of the draw.
        fold: of the training, for the message.

    Raises:
        InputError: when cases have not been registered yet.
    """
    if missing := store.missing():
        raise InputError(
            f"{store.root}: {len(missing)} cases are not registered, {missing[0]} the first; run nnunet_ext register"
            f" -d {store.cases.folder.name} -f {fold} {store.settings.flags()} first"
        )
    common = store.template() if store.settings.scheme == "template" else None

    def load(case: str) -> Registered | None:
        labelled = case in store.cases.labelled
        frame = common or (case if labelled else store.best(case))
        position = None if frame is None else store.coordinates(case, frame)
        if frame is None or position is None:
            return None
        return Registered(frame, position, None if labelled else label(case))

    def label(case: str) -> np.ndarray | None:
        if choice != "random":
            carried = store.propagated_label(case, fusion="best" if choice == "best" else None)
        else:
            transforms = {q: t for q in store.cases.labelled if (t := store.transform(q, case)) is not None}
            drawn = sorted(transforms)[np.random.default_rng((seed, crc32(case.encode()))).integers(len(transforms))]
            carried = propagate(store.cases.labels(drawn), store.cases.image(case), transforms[drawn])
        return None if carried is None else sitk.GetArrayFromImage(carried)

    return load


def to_preprocessed(
    volume: np.ndarray,
    properties: Mapping[str, Any],
    shape: Sequence[int],
    transpose: Sequence[int],
    *,
    linear: bool,
    thick: int | None = None,
) -> np.ndarray:
    """Bring channels from an image file's grid onto that of the preprocessed image, as nnU-Net did with the image.

    Args:
        volume: (C, z, y, x) as read from the file.
        properties: nnU-Net's, of the preprocessed case.
        shape: of the preprocessed image, without channels.
        transpose: `transpose_forward` of the plans.
        linear: interpolate linearly; nearest neighbour otherwise.
        thick: the axis of the preprocessed image along which nnU-Net repeats slices instead of interpolating.

    Returns:
        (C, *shape) of the volume's type.
    """
    turned = volume.transpose(0, *(1 + axis for axis in transpose))
    box = tuple(slice(low, high) for low, high in properties["bbox_used_for_cropping"])
    cropped = np.ascontiguousarray(turned[(slice(None), *box)])
    if cropped.shape[1:] == tuple(shape):
        return cropped
    values = torch.from_numpy(cropped).float()[None]
    if linear:
        within = [cropped.shape[1 + axis] if axis == thick else shape[axis] for axis in range(3)]
        values = F.interpolate(values, size=within, mode="trilinear", align_corners=False)
    return F.interpolate(values, size=tuple(shape), mode="nearest-exact")[0].numpy().astype(volume.dtype)


def thick_axis(spacing: Sequence[float], configuration: ConfigurationManager, transpose: Sequence[int]) -> int | None:
    """The axis of the preprocessed image along which nnU-Net repeats a scan's slices; None where it interpolates.

    Args:
        spacing: of the scan's file, mm, z, y, x.
        configuration: that the scan is preprocessed for.
        transpose: `transpose_forward` of the plans.
    """
    own = [spacing[axis] for axis in transpose]
    wanted = list(configuration.spacing)
    wanted = [own[0], *wanted] if len(wanted) == 2 else wanted
    words = configuration.configuration["resampling_fn_data_kwargs"]
    threshold = words.get("separate_z_anisotropy_threshold", ANISO_THRESHOLD)
    return determine_do_sep_z_and_axis(words.get("force_separate_z"), own, wanted, threshold)[1]


def keep_registered(
    folder: Path,
    cases: Sequence[str],
    load: Callable[[str], Registered | None],
    shape: Callable[[str], tuple[int, ...]],
    onto_grid: Callable[[str, np.ndarray, bool], np.ndarray],
) -> None:
    """Write registered labels and places of preprocessed cases where they are not kept yet, one case after another.

    Args:
        folder: where they are kept, as a whole case or not at all. Another one is needed for other registrations.
        cases: the cases to keep.
        load: gives what registration says of a case; None where it has nothing.
        shape: of a case's preprocessed image, without channels.
        onto_grid: brings channels (C, z, y, x) of a case's image file onto that image; the third argument tells whether
            they may be interpolated.
    """
    # Preprocessing again with another spacing changes the shapes.
    shapes = {case: list(shape(case)) for case in cases}
    missing = [case for case in cases if _kept(folder, case).get("shape") != shapes[case]]
    for case in progress(missing, "registered labels onto the training grid"):
        registered = load(case)
        # Signed: cropping marks what lies outside a volume with -1.
        position, label = np.zeros((3, *shapes[case]), np.float32), np.zeros(shapes[case], np.int16)
        if registered is not None:
            position = onto_grid(case, registered.position.astype(np.float32), True)
            if registered.label is not None:
                label = onto_grid(case, registered.label.astype(np.int16)[None], False)[0]
        for name, array in (("position", position), ("label", label)):
            with atomic_path(folder / f"{case}_{name}.npy") as partial:
                np.save(partial, array)
        # Last: this says that the case is there.
        write_json(
            folder / f"{case}.json",
            {"frame": None if registered is None else registered.frame, "shape": shapes[case]},
        )


def _kept(folder: Path, case: str) -> dict[str, Any]:
    path = folder / f"{case}.json"
    return read_json(path) if path.is_file() else {}


class RegisteredCases:
    """Registered labels and places of preprocessed cases, read patch by patch.

    Attributes:
        frames: case -> number of its frame; -1 where registration has nothing to say.
        numbers: case -> its number.

    Args:
        folder: what `keep_registered` wrote.
        cases: those wanted.
    """

    def __init__(self, folder: Path, cases: Sequence[str]) -> None:
        self.folder = folder
        frames = {case: _kept(folder, case)["frame"] for case in cases}
        names = sorted({frame for frame in frames.values() if frame is not None})
        self.frames = {case: -1 if frame is None else names.index(frame) for case, frame in frames.items()}
        self.numbers = {case: number for number, case in enumerate(sorted(cases))}

    def __call__(self, case: str, shape: tuple[int, ...]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """What follows a case's image through augmentation.

        Returns:
            Position in three channels and a mask of ones, and the registered label; a pixel whose mask is below 1
            after augmentation lies outside the volume and has no place.
        """
        position = np.load(self.folder / f"{case}_position.npy", mmap_mode="r")
        label = np.load(self.folder / f"{case}_label.npy", mmap_mode="r")
        return [*position, np.broadcast_to(np.float32(1), shape)], [label]
