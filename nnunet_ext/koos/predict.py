"""Grading a folder of scans."""

from __future__ import annotations

import logging
from pathlib import Path

from nnunet_ext.data.images import scans
from nnunet_ext.errors import InputError
from nnunet_ext.inference.folder import find_cases
from nnunet_ext.koos.cohort import View
from nnunet_ext.koos.grades import Grade, write_predictions
from nnunet_ext.koos.model import KoosModel, grade
from nnunet_ext.progress import progress

log = logging.getLogger(__name__)


def predict_folder(images: Path, masks: Path, model: KoosModel, output: Path, pattern: str | None = None) -> int:
    """Grade every scan of a folder; one that fails costs only itself.

    Args:
        images: folder of scans, `CASE_0000.nii.gz` or `CASE.nii.gz`.
        masks: folder of label maps named CASE, such as `nnunet_ext predict` writes.
        model: from `load_model`.
        output: the CSV; the JSON with probabilities goes beside it under the same name.
        pattern: file names to take, such as `{case}_hrT2.nii.gz`.

    Returns:
        the number of graded cases.

    Raises:
        InputError: for a scan without a mask, before anything is graded; and when any case failed, after the files
            of all others were written.
    """
    if output.suffix != ".csv":
        raise InputError(f"-o {output}: a file ending in .csv is needed")
    cases = find_cases(images, 1, pattern)
    found = scans(masks)
    if missing := [case.name for case in cases if case.name not in found]:
        raise InputError(f"{masks}: no mask of {missing[0]} ({len(missing)} of {len(cases)} lack one), one is needed")
    predictions: dict[str, Grade] = {}
    for case in progress(cases, "grading"):
        try:
            view = View(case.name, case.files[0], found[case.name])
            predictions[case.name] = grade(*view.read(), model)
        except InputError as error:
            log.error("%s", error)
            continue
        if not predictions[case.name].probabilities:
            log.warning("%s: no tumour found, graded %d", view.mask, predictions[case.name].grade)
    write_predictions(predictions, model.settings.classes, output)
    if failed := len(cases) - len(predictions):
        raise InputError(f"{images}: {failed} of {len(cases)} cases failed, the others are in {output}")
    return len(predictions)
