"""Pseudo-labels of real target scans: predicting, filtering and comparing them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import label as connected_components

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.metrics import case_metrics
from nnunet_ext.files import atomic_path, make_folder, write_json
from nnunet_ext.inference.images import read_scan, write_mask
from nnunet_ext.inference.predictor import Predictor
from nnunet_ext.inference.trained import read_trained
from nnunet_ext.progress import progress
from translation.cohort import Cohort


@dataclass(frozen=True)
class Filters:
    """Which pseudo-labels are good enough to learn from.

    Attributes:
        confidence: least mean probability that each structure found must have; a case below it is left out.
        components: keep the largest connected component of each structure only.
        complete: leave out cases in which a structure is missing.
    """

    confidence: float = 0.0
    components: bool = False
    complete: bool = False

    def check(self) -> None:
        """Raises `InputError` for a confidence that no probability can have."""
        if not 0 <= self.confidence <= 1:
            raise InputError(f"--confidence {self.confidence}: not a probability, 0 to 1 is needed")

    def reason(self, probability: Mapping[str, float | None]) -> str | None:
        """Why a case is left out, or None."""
        for name, value in probability.items():
            if value is None and self.complete:
                return f"{name} was not found"
            if value is not None and value < self.confidence:
                return f"{name} has a mean probability of {value:.2f}"
        return None


def predict_cohort(
    models: Sequence[Path], folds: Sequence[str], cohort: Cohort, folder: Path, filters: Filters, device: str | None
) -> dict[str, dict[str, Any]]:
    """Predict every case of a cohort into `folder`; cases that are there already are not predicted again.

    Args:
        models: trained model folders; the probabilities of several are averaged.
        folds: of each model.
        cohort: its scans are read, its labels are not.
        folder: gets CASE + ending, and CASE.json with the structures' mean probabilities.
        filters: components are removed before writing; cases are only judged.
        device: e.g. `cpu`.

    Returns:
        case -> {"probability": {structure: mean or None}, "left_out": reason or None}.
    """
    make_folder(folder)
    missing = [c for c in cohort.cases if not (folder / f"{c}.json").exists()]
    if missing:
        predictor = Predictor(read_trained(models, folds), device)
        for case in progress(missing, "predicting the target"):
            scan = read_scan([cohort.image_path(case)], predictor.model.reorient)
            prediction = predictor.predict(scan, probabilities=True)
            mask = largest_components(prediction.mask) if filters.components else prediction.mask
            with atomic_path(folder / f"{case}{cohort.ending}") as partial:
                write_mask(mask, scan, partial)
            write_json(folder / f"{case}.json", prediction.probability)
    found = {case: json.loads((folder / f"{case}.json").read_text()) for case in cohort.cases}
    return {case: {"probability": p, "left_out": filters.reason(p)} for case, p in found.items()}


def largest_components(mask: NDArray) -> NDArray:
    """Each label's largest connected component (faces, edges and corners connect); the rest becomes background."""
    out = np.zeros_like(mask)
    for value in np.unique(mask[mask > 0]):
        parts, count = connected_components(mask == value, np.ones((3, 3, 3)))
        if count:
            sizes = np.bincount(parts.ravel())[1:]
            out[parts == int(np.argmax(sizes)) + 1] = value
    return out


def agreement(
    cohort: Cohort, masks: Path, references: Mapping[str, Path], labels: Mapping[str, int]
) -> dict[str, float | None]:
    """Mean Dice of each structure between the masks in a folder and reference files.

    A structure that is in neither file of a case does not count for that case.

    Args:
        cohort: names the files' ending.
        masks: folder of CASE + ending.
        references: case -> file.
        labels: structure -> value.

    Returns:
        structure -> mean, None where it occurs nowhere.
    """
    scores: dict[str, list[float]] = {name: [] for name in labels}
    for case, reference in references.items():
        first, second = (sitk.ReadImage(str(p)) for p in (masks / f"{case}{cohort.ending}", reference))
        arrays = [sitk.GetArrayFromImage(image) for image in (first, second)]
        for name, value in labels.items():
            if any((array == value).any() for array in arrays):
                spacing = first.GetSpacing()[::-1]
                scores[name].append(case_metrics(arrays[0], arrays[1], {name: value}, spacing)[name].dice)
    return {name: round(float(np.mean(values)), 4) if values else None for name, values in scores.items()}
