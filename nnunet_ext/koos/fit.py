"""Fitting MSF-Koos-Net to datasets and grades, with cross-validation by subject."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from nnunet_ext.errors import InputError
from nnunet_ext.files import make_folder, read_json, write_json
from nnunet_ext.koos.batches import Batches
from nnunet_ext.koos.cohort import Exam, View, read_exams, without
from nnunet_ext.koos.encoder import LowLevel, low_level
from nnunet_ext.koos.grades import COLUMNS, Grade, read_grades, write_predictions
from nnunet_ext.koos.model import FILE, KoosModel, grade, load_model, save_model
from nnunet_ext.koos.prepared import Boxes
from nnunet_ext.koos.report import write_scores
from nnunet_ext.koos.scores import score
from nnunet_ext.koos.settings import KoosSettings
from nnunet_ext.koos.train import LATEST, train
from nnunet_ext.progress import progress

log = logging.getLogger(__name__)

DESCRIPTION = "fit.json"
CROSS_VALIDATION = "crossvalidation"


def fit(
    datasets: Sequence[str],
    grades: Path,
    output: Path,
    encoder: str,
    settings: KoosSettings,
    *,
    masks: Path | None = None,
    tumour: Sequence[str] = (),
    columns: tuple[str, str] = COLUMNS,
    folds: int = 0,
    device: torch.device | None = None,
) -> Path:
    """Fit a model, or continue where an interrupted fit stopped.

    Cases without a grade take part in the pre-training. With `folds`, each part of the subjects is first graded by a
    model that was fitted without them, and `crossvalidation/` holds predictions, scores and a report; the model itself
    is then fitted on all. The low-level encoder is the same in all folds, whatever it was fitted to.

    Args:
        datasets, masks, tumour: see `read_exams`.
        grades: CSV of grades.
        output: the model folder.
        encoder: a fitted MSF-Net or `none`; see `low_level`.
        settings: see `KoosSettings`.
        columns: names of the CSV's columns of cases and grades.
        folds: parts of the cross-validation; 0 does without.
        device: where to train.

    Returns:
        the model folder.

    Raises:
        InputError: for whatever is wrong with the input.
    """
    device = device or torch.device("cpu")
    given = read_grades(grades, settings.classes, columns)
    exams, values = read_exams(datasets, given, str(grades), masks, tumour)
    low = low_level(encoder, settings)
    spacing = low.working_spacing(settings)
    parts = split(exams, folds, settings.seed) if folds else []
    _describe(output, exams, low, settings, values, folds)
    boxes = Boxes(output / "prepared", [v for e in exams for v in e.views], settings, spacing, values)
    if boxes.empty:
        log.warning(
            "%d masks hold no tumour and are not learned from: %s", len(boxes.empty), ", ".join(boxes.empty[:8])
        )
    fit_one = partial(_fit_one, boxes=boxes, low=low, settings=settings, tumour=values, spacing=spacing, device=device)
    if parts and not (output / CROSS_VALIDATION / "scores.json").exists():
        _cross_validate(parts, fit_one, settings.classes, output / CROSS_VALIDATION)
    fit_one(exams, output)
    log.info("%s: fitted", output)
    return output


def split(exams: Sequence[Exam], folds: int, seed: int) -> list[tuple[list[Exam], list[Exam]]]:
    """Train and held-out exams of every fold: no subject on both sides, grades spread evenly, the ungraded in training.

    Raises:
        InputError: for fewer than 2 folds, or more than there are graded subjects.
    """
    graded = [exam for exam in exams if exam.grade is not None]
    subjects = {exam.subject for exam in graded}
    if not 2 <= folds <= len(subjects):
        raise InputError(f"--folds {folds}: from 2 to the number of graded subjects is needed, {len(subjects)}")
    parting = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    grades, groups = [exam.grade for exam in graded], [exam.subject for exam in graded]
    parts = []
    for _, held_out in parting.split(np.zeros(len(graded)), grades, groups):
        held = [graded[i] for i in held_out]
        hidden = {exam.subject for exam in held}
        parts.append(([exam for exam in exams if exam.subject not in hidden], held))
    return parts


def _fit_one(
    exams: Sequence[Exam],
    folder: Path,
    *,
    boxes: Boxes,
    low: LowLevel,
    settings: KoosSettings,
    tumour: tuple[int, ...],
    spacing: tuple[float, float, float],
    device: torch.device,
) -> KoosModel:
    if (folder / FILE).exists():
        log.info("%s: already fitted", folder / FILE)
        return load_model(folder, device)
    usable = without(exams, boxes.empty)
    _tell(usable, settings)
    make_folder(folder)
    network = train(Batches(usable, boxes, settings, spacing), low, settings, folder, device)
    model = KoosModel(settings, low.spec, spacing, tumour, network)
    save_model(model, folder / FILE)
    (folder / LATEST).unlink(missing_ok=True)
    return model


def _tell(exams: Sequence[Exam], settings: KoosSettings) -> None:
    """Say who takes part, or that nobody does.

    Raises:
        InputError: when fewer than two classes are left to learn.
    """
    counts = Counter(exam.grade for exam in exams)
    graded = {c: counts[c] for c in settings.classes}
    if sum(n > 0 for n in graded.values()) < 2:
        raise InputError(f"grades: cases with a tumour per class are {graded}, at least two classes are needed")
    log.info("cases per class: %s; without a grade: %d", graded, counts[None])
    if settings.pretraining and (single := sum(len(exam.views) == 1 for exam in exams)):
        log.info(
            "%d of %d exams have one modality only: their second view is an augmented copy, not a translation",
            single,
            len(exams),
        )


def _cross_validate(
    parts: Sequence[tuple[list[Exam], list[Exam]]],
    fit_one: Callable[[Sequence[Exam], Path], KoosModel],
    classes: tuple[int, ...],
    folder: Path,
) -> None:
    predictions: dict[str, Grade] = {}
    truth: dict[str, int] = {}
    subjects: dict[str, str] = {}
    for number, (training, held_out) in enumerate(parts):
        log.info("fold %d of %d", number + 1, len(parts))
        model = fit_one(training, folder / f"fold_{number}")
        views: list[tuple[View, Exam]] = [(view, exam) for exam in held_out for view in exam.views]
        for view, exam in progress(views, "grading"):
            predictions[view.case] = grade(*view.read(), model)
            assert exam.grade is not None  # held out because it has one
            truth[view.case], subjects[view.case] = exam.grade, exam.subject
    write_predictions(predictions, classes, folder / "predictions.csv")
    scores = score({c: p.grade for c, p in predictions.items()}, truth, classes, subjects=subjects)
    log.info("cross-validation: MA-MAE %.3f, MA-MSE %.3f", scores.ma_mae, scores.ma_mse)
    # Last, because the file says that the cross-validation is done.
    write_scores(scores, predictions, folder / "scores.json", folder / "report.html")


def _describe(
    folder: Path,
    exams: Sequence[Exam],
    low: LowLevel,
    settings: KoosSettings,
    tumour: tuple[int, ...],
    folds: int,
) -> None:
    """Record what is fitted, or check that the folder holds the same fit.

    Raises:
        InputError: when it holds another.
    """
    content: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "encoder": low.spec.model_dump(mode="json"),
        "tumour": list(tumour),
        "folds": folds,
        "exams": {
            exam.name: {"grade": exam.grade, "subject": exam.subject, "views": [view.case for view in exam.views]}
            for exam in exams
        },
    }
    path = folder / DESCRIPTION
    if not path.exists():
        write_json(path, content)
        return
    there = read_json(path)
    if different := [part for part, value in content.items() if there.get(part) != value]:
        raise InputError(
            f"-o {folder}: holds a fit with other {', '.join(different)}, the same are needed to continue it,"
            " or another folder"
        )
