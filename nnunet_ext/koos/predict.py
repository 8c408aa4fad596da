"""Grading a folder of scans."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from nnunet_ext.data.images import scans
from nnunet_ext.errors import InputError, one_line
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
    if failed := grade_views([View(case.name, case.files[0], found[case.name]) for case in cases], model, output):
        raise InputError(f"{images}: {len(failed)} of {len(cases)} cases failed, the others are in {output}")
    return len(cases)


def grade_views(views: Sequence[View], model: KoosModel, output: Path) -> dict[str, str]:
    """Grade scans with their masks; one that fails costs only itself.

    Args:
        output: the CSV; the JSON with probabilities goes beside it. Both are written at the end.

    Returns:
        case -> the line that says what was wrong with it; empty when all went well.
    """
    predictions: dict[str, Grade] = {}
    failed: dict[str, str] = {}
    for view in progress(views, "grading"):
        try:
            predictions[view.case] = grade(*view.read(), model, str(view.image))
        except Exception as error:  # whatever one scan brings up must not cost the others
            failed[view.case] = str(error) if isinstance(error, InputError) else f"{view.image}: {one_line(error)}"
            log.error("%s", failed[view.case])
            continue
        if not predictions[view.case].probabilities:
            log.warning("%s: no tumour found, graded %d", view.mask, predictions[view.case].grade)
    write_predictions(predictions, model.settings.classes, output)
    return failed
