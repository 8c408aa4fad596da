"""One case: from the platform's input to the platform's output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from container.inputs import case_files
from container.outputs import all_or_nothing, clear
from nnunet_ext.errors import InputError
from nnunet_ext.inference.images import Scan, read_scan, write_mask
from nnunet_ext.inference.model import Model
from nnunet_ext.inference.predictor import Prediction, Predictor
from nnunet_ext.inference.sockets import Output

MASK_NAME = "segmentation.mha"
CUBIC_MM_PER_ML = 1000.0


def process_case(predictor: Predictor, source: Path, target: Path) -> list[str]:
    """Predict the case in `source` and write its outputs to `target`; returns their paths relative to it.

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
    prediction = predictor.predict(scan, probabilities=any(output.kind == "probabilities" for output in outputs))
    with all_or_nothing(target, names) as staging:
        for output, name in zip(outputs, names, strict=True):
            _write(output, staging / name, prediction, scan, predictor.model)
    return names


def output_name(output: Output) -> str:
    """The file of an output, relative to the output folder."""
    return f"{output.path}/{MASK_NAME}" if output.kind == "segmentation" else output.path


def _write(output: Output, path: Path, prediction: Prediction, scan: Scan, model: Model) -> None:
    if output.kind == "segmentation":
        write_mask(prediction.mask, scan, path)
        return
    content: dict[str, Any] = prediction.probability or {}
    if output.kind == "volumes":
        content = volumes(prediction.mask, scan, model)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def volumes(mask: np.ndarray, scan: Scan, model: Model) -> dict[str, float]:
    """Volume of each class or region in millilitres."""
    voxel = float(np.prod(scan.spacing)) / CUBIC_MM_PER_ML
    counts = np.bincount(mask.ravel(), minlength=max(model.first.labels.all_labels) + 1)
    return {
        name: float(sum(counts[label] for label in (labels if isinstance(labels, list) else [labels])) * voxel)
        for name, labels in model.class_names.items()
    }
