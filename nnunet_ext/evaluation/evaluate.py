"""Score one or more folders of predictions against one ground truth."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from joblib import Parallel, delayed

from nnunet_ext.data.dataset import subjects as known_subjects
from nnunet_ext.data.dataset import unlabelled_cases
from nnunet_ext.data.images import require_same_grid
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.masks import (
    Labels,
    labels_from_dataset,
    labels_from_text,
    mask_files,
    read_mask,
)
from nnunet_ext.evaluation.metrics import ClassMetrics, case_metrics
from nnunet_ext.evaluation.result import Evaluation
from nnunet_ext.files import read_json
from nnunet_ext.progress import progress

log = logging.getLogger(__name__)


def evaluate(
    predictions: Sequence[Path],
    truth: Path,
    *,
    names: Sequence[str] = (),
    dataset_json: Path | None = None,
    label: Sequence[str] = (),
    subject_pattern: str | None = None,
    partial: bool = False,
    jobs: int = 1,
    seed: int = 0,
) -> Evaluation:
    """Score every case of `truth` in every folder of `predictions`.

    Args:
        predictions: folders of masks, one file per case; the first is what the others are compared with.
        truth: folder of ground truth masks; a case is a file name without its ending.
        names: what to call the prediction folders; their own names by default.
        dataset_json: nnU-Net's file that names the labels; looked for beside the masks where it is not given.
        label: `NAME=VALUE` or `NAME=VALUE,VALUE`; only these are scored.
        subject_pattern: regular expression; what its first group (or all of it) matches in a case name is the subject.
            Without it, the subjects that `dataset_json` records, or else every case is one.
        partial: score the cases that have a prediction in every folder instead of refusing an incomplete folder.
        jobs: cases at a time.
        seed: of the bootstrap.

    Raises:
        InputError: folders that do not fit together, geometry that differs, values that are not declared.
    """
    if jobs == 0:
        raise InputError("--jobs 0: a positive number is needed, or -1 for every core")
    if seed < 0:
        raise InputError(f"--seed {seed}: 0 or a positive number is needed")
    folders = dict(zip(_method_names(predictions, names), predictions, strict=True))
    truth_files = mask_files(truth)
    files = {method: mask_files(folder) for method, folder in folders.items()}
    notes: list[str] = []
    dataset_json = dataset_json or _find_dataset_json([truth.parent, truth, *predictions])
    labels = labels_from_dataset(dataset_json) if dataset_json else None
    if label:
        labels = labels_from_text(label, labels)
    content = read_json(dataset_json) if dataset_json else {}
    cases = _cases_to_score(truth, truth_files, folders, files, unlabelled_cases(content), partial, notes)
    subjects = _subjects(cases, subject_pattern, known_subjects(content))
    if labels is None:
        labels = _labels_of_files([truth_files[c] for c in cases] + [f[c] for f in files.values() for c in cases])
        names_found = ", ".join(labels.classes)
        notes.append(f"No dataset.json and no --label given: the structures are the values found ({names_found}).")

    tasks = (delayed(_score_case)(truth_files[c], [f[c] for f in files.values()], labels) for c in cases)
    # Threads: reading and the tree of surface voxels run outside Python's lock, a process would first import torch.
    results = Parallel(n_jobs=jobs, return_as="generator", prefer="threads")(tasks)
    scored = dict(zip(cases, progress(results, "evaluating", total=len(cases)), strict=True))
    if empty := [case for case, result in scored.items() if result is None]:
        notes.append(f"Left out, because the ground truth is nothing but the ignore label: {_some(empty)}.")
    kept = {case: result for case, result in scored.items() if result is not None}
    if not kept:
        raise InputError(f"{truth}: every case holds nothing but the ignore label, a labelled case is needed")
    for name, values in labels.classes.items():
        if all(scores[name].outcome == "absent" for result in kept.values() for scores in result):
            value = " or ".join(map(str, values))
            notes.append(f"{name}: its value {value} is in no mask, of the ground truth or of a prediction.")
    for note in notes:
        log.warning(note)
    return Evaluation(
        truth=truth,
        folders=folders,
        labels=labels,
        scores={m: {case: result[i] for case, result in kept.items()} for i, m in enumerate(folders)},
        subjects={case: subjects[case] for case in kept},
        notes=notes,
        seed=seed,
    )


def _score_case(truth_path: Path, paths: list[Path], labels: Labels) -> list[dict[str, ClassMetrics]] | None:
    """The scores of each prediction, or None where the ground truth says nothing."""
    truth = read_mask(truth_path, labels.declared)
    truth_array = sitk.GetArrayViewFromImage(truth)
    if labels.ignore is not None and (truth_array == labels.ignore).all():
        return None
    results = []
    for path in paths:
        prediction = read_mask(path, labels.declared)
        require_same_grid(truth, prediction, truth_path, path)
        array = sitk.GetArrayViewFromImage(prediction)
        results.append(case_metrics(array, truth_array, labels.classes, truth.GetSpacing()[::-1], labels.ignore))
    return results


def _method_names(predictions: Sequence[Path], names: Sequence[str]) -> list[str]:
    if names:
        if len(names) != len(predictions):
            raise InputError(f"--names: {len(names)} given, one for each of {len(predictions)} folders is needed")
        chosen = list(names)
    else:
        chosen = [path.resolve().name for path in predictions]
        if len(set(chosen)) < len(chosen):  # fold_0/validation of two trainers: call them by where they differ
            chosen = _differing_parts(predictions)
    if double := next((name for name in chosen if chosen.count(name) > 1), None):
        raise InputError(f"--names: {double!r} stands for two folders, different names are needed")
    return chosen


def _differing_parts(paths: Sequence[Path]) -> list[str]:
    """The paths without the folders that they all begin with and all end with."""
    parts = [list(path.resolve().parts) for path in paths]
    for end in (0, -1):
        while all(parts) and len({part[end] for part in parts}) == 1:
            for part in parts:
                part.pop(end)
    return ["/".join(part) or str(path) for part, path in zip(parts, paths, strict=True)]


def _cases_to_score(
    truth: Path,
    truth_files: dict[str, Path],
    folders: dict[str, Path],
    files: dict[str, dict[str, Path]],
    unlabelled: set[str],
    partial: bool,
    notes: list[str],
) -> list[str]:
    cases = [case for case in truth_files if case not in unlabelled]
    for method, folder in folders.items():
        lacking = [case for case in cases if case not in files[method]]
        if lacking and not partial:
            raise InputError(
                f"{folder}: no prediction for {_some(lacking)} (of {len(cases)} in {truth}), a mask of each is needed "
                "(--partial scores only the cases that have one)"
            )
        if lacking:
            notes.append(f"{method} has no prediction for {_some(lacking)}; left out for every method.")
        cases = [case for case in cases if case in files[method]]
        if extra := [case for case in files[method] if case not in truth_files]:
            notes.append(f"{method} has predictions without a ground truth, which are not scored: {_some(extra)}.")
    if not cases:
        raise InputError(f"{truth}: no case has a prediction in {_some([str(f) for f in folders.values()])}")
    return cases


def _find_dataset_json(folders: Sequence[Path]) -> Path | None:
    return next((f / "dataset.json" for f in folders if (f / "dataset.json").is_file()), None)


def _subjects(cases: Sequence[str], pattern: str | None, known: dict[str, str]) -> dict[str, str]:
    if pattern is None:
        return {case: known.get(case, case) for case in cases}
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--subject-pattern: {pattern!r} is not a regular expression ({error})") from None
    subjects = {}
    for case in cases:
        match = expression.search(case)
        if match is None:
            raise InputError(f"--subject-pattern: {pattern!r} does not match case {case}, a match in each is needed")
        subjects[case] = match.group(1) if expression.groups else match.group()
    return subjects


def _labels_of_files(paths: Sequence[Path]) -> Labels:
    values: set[int] = set()
    for path in paths:
        values |= set(np.unique(sitk.GetArrayFromImage(read_mask(path))).astype(int).tolist())
    if not values - {0}:
        raise InputError(f"{paths[0].parent}: only background found and no labels given, --labels or --label is needed")
    return Labels({f"label {value}": (value,) for value in sorted(values - {0})}, declared=frozenset(values | {0}))


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
