"""One case: from the platform's input to the platform's output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from container.inputs import case_files
from container.outputs import all_or_nothing, clear
from nnunet_ext.errors import InputError
from nnunet_ext.inference.images import Scan, mask_image, read_scan, write_mask
from nnunet_ext.inference.model import Model
from nnunet_ext.inference.predictor import Prediction, Predictor
from nnunet_ext.inference.sockets import Output
from nnunet_ext.koos.grades import Grade, as_json

# Grading brings further libraries, which a package without it need not wait for.
if TYPE_CHECKING:
    from nnunet_ext.koos.packaged import Grader

MASK_NAME = "segmentation.mha"
CUBIC_MM_PER_ML = 1000.0


def process_case(predictor: Predictor, source: Path, target: Path, grader: Grader | None = None) -> list[str]:
    """Predict the case in `source` and write its outputs to `target`; returns their paths relative to it.

    Args:
        grader: of a package with a Koos model; it grades the scan with the mask just found.

    Raises:
        InputError: for bad input or an output that cannot be written; nothing of this case is left in `target`.
    """
    outputs = predictor.model.sockets.outputs
    names = [output_name(output) for output in outputs]
    try:
        clear(target, names)
    except OSError as error:
        raise InputError(f"{target}: not writable ({error.strerror}), a folder for the output is needed") from None
    files = case_files(source, predictor.model.sockets, predictor.model.first.channels)
    scan = read_scan(files, predictor.model.reorient)
    if grader is not None:
        grader.require_room(scan.name, scan.grid.size)
    prediction = predictor.predict(scan, probabilities=any(output.kind == "probabilities" for output in outputs))
    grade = grader.grade(files[0], mask_image(prediction.mask, scan)) if grader is not None else None
    with all_or_nothing(target, names) as staging:
        for output, name in zip(outputs, names, strict=True):
            if output.kind == "segmentation":
                write_mask(prediction.mask, scan, staging / name)
                continue
            content = _content(output, prediction, scan, predictor.model, grade)
            (staging / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return names


def output_name(output: Output) -> str:
    """The file of an output, relative to the output folder."""
    return f"{output.path}/{MASK_NAME}" if output.kind == "segmentation" else output.path


def _content(output: Output, prediction: Prediction, scan: Scan, model: Model, grade: Grade | None) -> Any:
    """What a JSON output holds."""
    if output.kind == "volumes":
        return volumes(prediction.mask, scan, model)
    if output.kind == "probabilities":
        return prediction.probability or {}
    if grade is None:
        raise ValueError(f"{output.path}: a Koos grade is wanted of a case that was not graded")
    return grade.grade if output.kind == "koos_class" else as_json(grade)


def volumes(mask: np.ndarray, scan: Scan, model: Model) -> dict[str, float]:
    """Volume of each class or region in millilitres."""
    voxel = float(np.prod(scan.spacing)) / CUBIC_MM_PER_ML
    counts = np.bincount(mask.ravel(), minlength=max(model.first.labels.all_labels) + 1)
    return {
        name: float(sum(counts[label] for label in (labels if isinstance(labels, list) else [labels])) * voxel)
        for name, labels in model.class_names.items()
    }
