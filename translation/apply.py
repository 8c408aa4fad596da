"""From a labelled source to a labelled pseudo-target dataset."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from nnunet_ext.data.dataset import Case, write_dataset
from nnunet_ext.data.selection import subject_folds
from nnunet_ext.device import pick_device
from nnunet_ext.errors import InputError
from nnunet_ext.files import atomic_path, sha256, write_json
from nnunet_ext.paths import new_dataset_name
from nnunet_ext.progress import progress
from translation.cohort import Cohort, label_table, read_cohort
from translation.gate import GateSettings, Loss, Verdict, coverage, judge, losses
from translation.model import Model, default_folder, load_model
from translation.registry import METHODS
from translation.volume.consistency import TOLERANCE, consistency
from translation.volume.preparation import RECORD

log = logging.getLogger(__name__)


def apply(
    source: str,
    views: str,
    dataset: str,
    *,
    target: str | None = None,
    keep_source: bool = False,
    force: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    gate: GateSettings | None = None,
) -> Path:
    """Translate a source's labelled cases and write them as a raw nnU-Net dataset.

    Images are float32 on the source's grid, in the target's units; label files are the source's, byte for byte.
    `dataset.json` records under `nnunet_ext.translation` which case came from which by which checkpoint, and what the
    gate said. The folds keep a patient's frames and views on one side.

    Args:
        source: the cohort to translate, as for `fit`.
        views: comma-separated methods (fitted to `target`) or model folders; one case is written per view.
        dataset: id or full name of the dataset to write.
        target: the cohort that methods named in `views` were fitted to.
        keep_source: also write the source's own images.
        force: write even when the gate fails.
        overwrite: replace a dataset of that name with other content.
        device: e.g. `cpu`, `cuda:1`.
        gate: when a structure counts as lost.

    Returns:
        the dataset's folder.

    Raises:
        InputError: for whatever is wrong with the input, and when the gate fails.
    """
    gate = gate or GateSettings()
    cohort = read_cohort(source, "--source", labelled=True)
    name = new_dataset_name(dataset, f"{cohort.name[11:]}Translated")
    on = pick_device(device)
    models = [load_model(folder, on) for folder in _folders(views, cohort, target)]
    for model in models:
        _same_labels(model, cohort)
    channel = models[0].preparation.channel_name
    if keep_source:
        _same_normalisation(cohort, channel)
    names = _view_names(models)
    cases: list[Case] = []
    reports: dict[str, dict[str, dict[str, Any]]] = {}
    for view, model in zip(names, models, strict=True):
        reports[view] = {}
        for case in progress(cohort.cases, f"translating by {view}"):
            path, report = _translated(cohort, case, model, on, gate)
            reports[view][case] = report
            cases.append(
                Case(
                    name=f"{case}_{view}",
                    images=(path,),
                    label=cohort.label_path(case),
                    subject=cohort.subject.get(case, case),
                    domain=model.preparation.channel_name,
                )
            )
    _check(reports, gate, force)
    if keep_source:
        cases += [
            Case(c, (cohort.image_path(c),), cohort.label_path(c), cohort.subject.get(c, c), cohort.channel_name)
            for c in cohort.cases
        ]
    return write_dataset(
        name,
        cases,
        [channel],
        label_table(cohort.labels, cohort.ignore),
        file_ending=cohort.ending,
        split=subject_folds(cases, set()),
        notes={"translation": _manifest(cohort, names, models, reports)},
        overwrite=overwrite,
    )


def _folders(views: str, cohort: Cohort, target: str | None) -> list[Path]:
    folders = []
    for view in filter(None, views.split(",")):
        if view in METHODS:
            if target is None:
                raise InputError(f"--views {view}: fitted to what? --target is needed, or a model folder")
            folders.append(default_folder(cohort, read_cohort(target, "--target", labelled=False), view))
        elif Path(view).is_dir():
            folders.append(Path(view))
        else:
            raise InputError(f"--views {view}: neither a method ({', '.join(METHODS)}) nor the folder of a fit")
    if not folders:
        raise InputError(f"--views {views!r}: names nothing, methods or model folders are needed")
    return folders


def _same_labels(model: Model, cohort: Cohort) -> None:
    """Masks and gate go by the values of the fit: the source must mean the same by them."""
    own = label_table(cohort.labels, cohort.ignore)
    # A source without ignored voxels may be translated by a model that knows how to leave them out.
    wanted = label_table(model.preparation.labels, model.preparation.ignore if cohort.ignore is not None else None)
    if wanted != own:
        raise InputError(
            f"--views: {model.folder} was fitted to the labels {wanted}, {cohort.name} has {own}; the same names and"
            " values are needed"
        )


def _same_normalisation(cohort: Cohort, channel: str) -> None:
    """nnU-Net normalises by the channel's name: under `CT` by the dataset's intensities, otherwise scan by scan."""
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme

    own, theirs = (get_normalization_scheme(name).__name__ for name in (cohort.channel_name, channel))
    if own != theirs:
        raise InputError(
            f"--keep-source: nnU-Net normalises {cohort.name}'s channel {cohort.channel_name} by {own} and the target's"
            f" channel {channel} by {theirs}; a dataset has one channel name, so leave --keep-source out"
        )


def _view_names(models: list[Model]) -> list[str]:
    """The method's name, with a number where several models share one."""
    names = [model.name for model in models]
    return [n if names.count(n) == 1 else f"{n}{names[: i + 1].count(n)}" for i, n in enumerate(names)]


def _translated(
    cohort: Cohort, case: str, model: Model, device: torch.device, gate: GateSettings
) -> tuple[Path, dict[str, Any]]:
    """One case's translated image and its report, from the model folder where an earlier run left them."""
    folder = model.folder / "translated" / (cohort.name + (f"-{cohort.domain}" if cohort.domain else ""))
    path, report_path = folder / f"{case}{cohort.ending}", folder / f"{case}.json"
    files = [cohort.image_path(case), cohort.label_path(case)]
    made_from = {
        "checkpoint_sha256": model.sha256,
        "preparation_sha256": sha256(model.folder / RECORD),
        "files": [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files if p.exists()],
        "gate": gate.model_dump(mode="json"),
    }
    if path.exists() and report_path.exists():
        report = json.loads(report_path.read_text())
        if report["made_from"] == made_from:
            return path, report
    image = cohort.image(case)
    label = cohort.label(case, image)
    result, report = translate_case(model, image, label, device, case, gate)
    with atomic_path(path) as partial:
        sitk.WriteImage(result, str(partial), useCompression=True)
    report = {"made_from": made_from, **report}
    write_json(report_path, report)
    return path, report


def translate_case(
    model: Model, image: sitk.Image, label: sitk.Image, device: torch.device, case: str, gate: GateSettings
) -> tuple[sitk.Image, dict[str, Any]]:
    """Translate one scan.

    Returns:
        a float32 scan on exactly the grid of `image`, and its report: `consistency` (see there) and the gate's
        `verdicts`.
    """
    prepared = model.preparation.prepare(image, label, "source", model.folder)
    labels = prepared.labels
    assert labels is not None  # a label was given
    with torch.inference_mode():
        volume = torch.from_numpy(prepared.volume).to(device)
        out = model.method.translate(volume, torch.from_numpy(labels.astype(np.int64)).to(device)).cpu().numpy()
    names = model.preparation.labels
    covered = coverage(label, labels, prepared.placement, names, gate)
    verdicts = judge(case, prepared.volume, out, labels, names, gate, covered)
    report = {
        "consistency": round(consistency(out, prepared.volume), 3),
        "verdicts": [asdict(verdict) for verdict in verdicts],
    }
    return model.preparation.restore(out, prepared.placement), report


def _check(reports: dict[str, dict[str, dict[str, Any]]], gate: GateSettings, force: bool) -> None:
    """Log the consistency of each view and what it lost; raise when that is too much."""
    problems = []
    for view, cases in reports.items():
        mean = float(np.mean([report["consistency"] for report in cases.values()]))
        log.info("%s: inter-slice consistency %.2f of the source's (1.1 is the limit)", view, mean)
        if mean > TOLERANCE:
            problems.append(f"{view} makes slices jump {mean:.2f} times as much as the source's, {TOLERANCE} is needed")
        for loss in losses(_verdicts(cases), gate):
            text = _in_words(view, loss)
            if loss.tolerated:
                log.warning("%s; tolerated, up to %.0f %% of the cases may", text, 100 * gate.tolerated)
            else:
                problems.append(text)
    if problems and not force:
        raise InputError(f"--views: {'; '.join(problems)}; fit longer or by another method, or --force to write it")
    for problem in problems:
        log.warning("written in spite of it: %s", problem)


def _verdicts(cases: dict[str, dict[str, Any]]) -> list[Verdict]:
    return [Verdict(**v) for report in cases.values() for v in report["verdicts"]]


def _in_words(view: str, loss: Loss) -> str:
    """What a view does to a structure, and in which cases."""
    parts = []
    for what, outside in (
        (f"washes out {loss.structure}", False),
        (f"leaves most of {loss.structure} outside the working grid", True),
    ):
        if cases := [v.case for v in loss.lost if v.outside == outside]:
            shown = ", ".join(cases[:8]) + (f" and {len(cases) - 8} more" if len(cases) > 8 else "")
            parts.append(f"{what} in {len(cases)} of {loss.judged} cases ({shown})")
    return f"{view} {' and '.join(parts)}"


def _gate_manifest(cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The gate's verdicts of one view: first the cases that lost each structure, then every figure."""
    lost: dict[str, list[str]] = {}
    figures: dict[str, dict[str, Any]] = {}
    for verdict in _verdicts(cases):
        row = asdict(verdict)
        figures.setdefault(row.pop("case"), {})[row.pop("structure")] = row
        if verdict.lost:
            lost.setdefault(verdict.structure, []).append(verdict.case)
    return {"lost": lost, "verdicts": figures}


def _manifest(
    cohort: Cohort, names: list[str], models: list[Model], reports: dict[str, dict[str, dict[str, Any]]]
) -> dict[str, Any]:
    """What `dataset.json` says of the translation."""
    return {
        "source": cohort.name + (f":{cohort.domain}" if cohort.domain else ""),
        "views": {
            view: {
                "method": model.name,
                "checkpoint_sha256": model.sha256,
                "intensity": {
                    "formula": "(network output + 1) / 2 * (high - low) + low",
                    "low": model.preparation.target_range[0],
                    "high": model.preparation.target_range[1],
                },
                "consistency": round(float(np.mean([r["consistency"] for r in reports[view].values()])), 3),
                "gate": _gate_manifest(reports[view]),
            }
            for view, model in zip(names, models, strict=True)
        },
        "cases": {
            f"{case}_{view}": {"source": case, "view": view, "checkpoint_sha256": model.sha256}
            for view, model in zip(names, models, strict=True)
            for case in cohort.cases
        },
    }
