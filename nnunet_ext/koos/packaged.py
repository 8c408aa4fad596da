"""The Koos model of a model package: it grades what the package's networks have segmented."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import SimpleITK as sitk
import torch

from nnunet_ext.data.images import read_scan
from nnunet_ext.errors import InputError
from nnunet_ext.inference.folder import Case
from nnunet_ext.inference.memory import require_room
from nnunet_ext.inference.model import Model
from nnunet_ext.inference.sockets import DEFAULT_KOOS_PATH, Output, Sockets
from nnunet_ext.koos.box import CUT_BYTES
from nnunet_ext.koos.cohort import View
from nnunet_ext.koos.grades import Grade
from nnunet_ext.koos.model import grade, model_file, read_model
from nnunet_ext.koos.predict import grade_views

#: in a folder of masks, with a JSON of the same name; as the submissions to crossMoDA called it
PREDICTIONS = "predictions.csv"
# Bytes of a scan's voxel as it is read from a file, at most.
LARGEST_VOXEL = 8


def attach(model: Model, source: Path) -> tuple[Model, str]:
    """A segmentation model together with a fitted Koos model, and words that say whose grades it gives.

    A socket map that was not given gets an output for the grade.

    Args:
        model: what segments.
        source: folder that `koos fit` wrote, or its koos.pth.

    Raises:
        InputError: when there is no Koos model, or the segmentation has no tumour for it to grade or several channels.
    """
    path = model_file(source)
    content = path.read_bytes()
    koos = read_model(content, str(path))
    if model.first.channels != 1:
        raise InputError(
            f"--koos {source}: grades scans of one channel, the segmentation model has {model.first.channels}"
        )
    names = {label: name for name, label in model.class_names.items() if isinstance(label, int)}
    if unknown := [label for label in koos.tumour if label not in names]:
        there = ", ".join(f"{label} {name}" for label, name in names.items())
        raise InputError(
            f"--koos {source}: fitted to a tumour of label {unknown[0]}, a label of the segmentation model is needed"
            f" (there: {there or 'regions only'})"
        )
    sockets = model.sockets
    if sockets == Sockets():
        sockets = Sockets(outputs=(*sockets.outputs, Output(kind="koos", path=DEFAULT_KOOS_PATH)))
    told = f"; Koos grades {', '.join(map(str, koos.settings.classes))} of {' + '.join(names[i] for i in koos.tumour)}"
    return replace(model, koos=content, sockets=sockets), told


class Grader:
    """The Koos model of a package, loaded once, for one case after the other.

    Args:
        model: the package; it holds a Koos model.
        device: where to grade.

    Raises:
        InputError: when what it holds is none.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        if model.koos is None:
            raise InputError("the package: holds no Koos model, one packaged with --koos is needed")
        self.koos = read_model(model.koos, "the package's Koos model", device)

    def require_room(self, scan: str, size: Sequence[int]) -> None:
        """Raise `NoRoom` for a scan of `size` voxels that could not be graded once it is segmented."""
        require_room(scan, size, (LARGEST_VOXEL + CUT_BYTES) * math.prod(size))

    def grade(self, scan: Path, mask: sitk.Image) -> Grade:
        """Grade a scan with a label map on its grid. It is read anew: prediction gives up its voxels to save memory."""
        return grade(read_scan(scan), mask, self.koos, str(scan))

    def grade_folder(self, cases: Sequence[Case], masks: Path) -> dict[str, str]:
        """Grade predicted cases; `predictions.csv` and `.json` beside the masks replace those of an earlier run.

        Args:
            cases: whose masks were written to `masks`, in this run or an earlier one.

        Returns:
            case -> the line that says what was wrong with it.
        """
        views = [View(case.name, case.files[0], masks / case.output) for case in cases]
        return grade_views(views, self.koos, masks / PREDICTIONS) if views else {}
