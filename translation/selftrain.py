"""Self-training: real target scans with the labels that the last model gave them join the training (TANQ, "Segmentation
model construction and self-training").
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ext.data.dataset import Case, write_dataset
from nnunet_ext.data.folds import FOLDS
from nnunet_ext.data.selection import subject_folds
from nnunet_ext.device import pick_device
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, write_json
from nnunet_ext.inference.network import trainer_class
from nnunet_ext.paths import new_dataset_name, preprocessed_root, raw_root, results_root
from nnunet_ext.training.configure import check_assignments, check_preset, configure
from nnunet_ext.workspace import run_logged
from translation.cohort import Cohort, label_table, read_cohort
from translation.pseudo_labels import Filters, agreement, predict_cohort

log = logging.getLogger(__name__)

REPORT = "selftrain.json"
PROCESSES = "2"
FOLD_NAMES = (*map(str, range(FOLDS)), "all")
CONFIGURATIONS = ("2d", "3d_lowres", "3d_fullres")
PLANNER, PLANS = "ExperimentPlanner", "nnUNetPlans"


@dataclass(frozen=True)
class Training:
    """How nnU-Net is to train in every round."""

    configurations: tuple[str, ...] = ("2d",)
    trainer: str = "nnUNetTrainer"
    plans: str = PLANS
    fold: str = "all"
    preset: str | None = None
    settings: tuple[str, ...] = ()
    device: str | None = None
    planner: str = PLANNER

    def check(self) -> None:
        """Refuse what nnU-Net would only stumble over after hours, and plans under the name of others.

        Raises:
            InputError: for a fold, configuration, trainer, preset, setting or device that there is not, a residual
                encoder's plans under the plain plans' name, and the reverse.
        """
        if self.fold not in FOLD_NAMES:
            raise InputError(f"--fold {self.fold}: no such fold, one of {', '.join(FOLD_NAMES)} is needed")
        for configuration in self.configurations:
            if configuration not in CONFIGURATIONS:
                raise InputError(f"-c {configuration}: no such configuration, of {', '.join(CONFIGURATIONS)} is needed")
        trainer_class(self.trainer)
        if self.preset is not None:
            check_preset(self.preset)
        check_assignments(self.settings)
        if pick_device(self.device).index is not None:
            raise InputError(
                f"--device {self.device}: nnU-Net trains on cpu or cuda; CUDA_VISIBLE_DEVICES chooses a GPU"
            )
        if "ResEnc" in self.planner and self.plans == PLANS:
            raise InputError(
                f"--planner {self.planner}: its plans would be called {PLANS}, another name is needed, such as"
                " -p nnUNetResEncUNetMPlans"
            )
        if self.planner == PLANNER and "ResEnc" in self.plans:
            raise InputError(
                f"--plans {self.plans}: {PLANNER} would write plain plans under that name, a planner such as"
                " --planner nnUNetPlannerResEncM is needed"
            )

    def model(self, dataset: str, configuration: str) -> Path:
        return results_root() / dataset / f"{self.trainer}__{self.plans}__{configuration}"

    def models(self, dataset: str) -> list[Path]:
        return [self.model(dataset, c) for c in self.configurations]


def selftrain(
    dataset: str,
    target: str,
    into: int,
    *,
    rounds: int = 2,
    training: Training | None = None,
    filters: Filters | None = None,
    validation: str | None = None,
) -> Path:
    """Train on a pseudo-target dataset, then `rounds` times on it and the real target scans with predicted labels.

    Every step that is finished is skipped when the same call is made again, and an interrupted training continues.

    Args:
        dataset: the pseudo-target dataset that `translate apply` wrote.
        target: the cohort of real scans, as for `fit`; labels are never read.
        into: dataset id of the first round; round r is written to id into + r - 1.
        rounds: how often to predict, pool and retrain.
        training: configurations (several are averaged for the pseudo-labels), trainer, planner, fold, preset.
        filters: which pseudo-labels count.
        validation: labelled cohort that the best round is chosen on; the last round without it.

    Returns:
        the report `selftrain.json`: each round's dataset, cases left out, change of pseudo-labels and validation
        Dice, and the best round's models.

    Raises:
        InputError: for whatever is wrong with the input.
    """
    if rounds < 1:
        raise InputError(f"--rounds {rounds}: no round, 1 or more is needed")
    training, filters = training or Training(), filters or Filters()
    training.check()
    filters.check()
    source = read_cohort(dataset, "-d", labelled=True)
    scans = read_cohort(target, "--target", labelled=False)
    held_out = read_cohort(validation, "--validation", labelled=True) if validation else None
    if held_out and held_out.folder == scans.folder and (both := set(held_out.cases) & set(scans.cases)):
        raise InputError(f"--validation {validation}: {min(both)} is also trained on, cases apart are needed")
    if held_out and held_out.labels != source.labels:
        raise InputError(
            f"--validation {validation}: its labels are {held_out.labels}, those of {source.name} are needed:"
            f" {source.labels}"
        )
    if clash := set(source.cases) & set(scans.cases):
        raise InputError(f"--target {target}: case {min(clash)} is also in {source.name}, other names are needed")
    names = [
        source.name,
        *(
            new_dataset_name(f"Dataset{into + r:03d}_{source.name[11:]}Round{r + 1}", "", "--into")
            for r in range(rounds)
        ),
    ]
    folder = results_root() / "translation" / "selftrain" / names[1]
    _same_as_before(folder, names, source, scans, training, filters)
    _trained_on_the_same(training, source.name)
    report: dict[str, Any] = {"target": scans.name, "filters": vars(filters), "rounds": []}
    for number, name in enumerate(names):
        row: dict[str, Any] = {"round": number, "dataset": name}
        if number:
            labels = folder / f"round_{number}"
            models = training.models(names[number - 1])
            found = predict_cohort(models, [training.fold], scans, labels, filters, training.device)
            left_out = {case: f["left_out"] for case, f in found.items() if f["left_out"]}
            row |= {"pseudo_labelled": len(scans.cases) - len(left_out), "left_out": left_out}
            if number > 1:
                before = {c: folder / f"round_{number - 1}" / f"{c}{scans.ending}" for c in scans.cases}
                row["agreement_with_round_before"] = agreement(scans, labels, before, _foreground(source))
            _pool(name, source, scans, labels, set(scans.cases) - set(left_out))
        _train(name, training, folder)
        if held_out:
            row["validation_dice"] = _validate(training, name, held_out, folder / f"validation_{number}")
        log.info("round %d: %s", number, {k: v for k, v in row.items() if k not in ("round", "left_out")})
        report["rounds"].append(row)
        report["best"] = _best(report["rounds"])
        report["models"] = [str(m) for m in training.models(names[report["best"]])]
        write_json(folder / REPORT, report)
    return folder / REPORT


def _made_from(source: Cohort, scans: Cohort) -> str:
    """A digest of what every round learns from: both cohorts' files (of the target its images only) and checkpoints."""
    content = [
        source.digest(labels=True),
        scans.digest(labels=False),
        _checkpoints(source.folder / "dataset.json"),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _checkpoints(dataset_json: Path) -> Any:
    """Which checkpoint made which case, as `translate apply` noted it; None in other datasets."""
    return read_json(dataset_json).get("nnunet_ext", {}).get("translation", {}).get("cases")


def _same_as_before(
    folder: Path, names: list[str], source: Cohort, scans: Cohort, training: Training, filters: Filters
) -> None:
    """Record what this self-training is, or refuse to continue another one in its place."""
    path = folder / "settings.json"
    content = json.loads(
        json.dumps(
            {
                "dataset": [source.name, source.domain],
                "target": [scans.name, scans.domain, scans.cases],
                "training": vars(training) | {"device": None},
                "filters": vars(filters),
                "made_from": _made_from(source, scans),
            }
        )
    )
    rounds = [p for name in names[1:] for root in (results_root(), preprocessed_root()) if (p := root / name).exists()]
    if path.exists():
        there = read_json(path)
        different = [key for key in content if there.get(key) != content[key]]
        if different == ["made_from"]:
            stale = [folder, *(model for model in training.models(names[0]) if model.exists()), *rounds]
            raise InputError(
                f"{path}: the cases of {source.name} or {scans.name} have changed since; to train all rounds again,"
                f" remove {', '.join(map(str, stale))}"
            )
        if different:
            told = ", ".join(_differences(there, content, different))
            raise InputError(
                f"{path}: was begun with other {told}; the same are needed to go on, or another --into, or remove"
                f" {', '.join(map(str, [folder, *rounds]))}"
            )
    elif rounds:
        raise InputError(
            f"{rounds[0]}: of a self-training that {path} no longer tells about; remove {', '.join(map(str, rounds))},"
            " or give another --into"
        )
    write_json(path, content)


def _differences(there: dict[str, Any], now: dict[str, Any], parts: list[str]) -> list[str]:
    """`fold (0, now all)` of each setting that is another one; the name alone of what is not a table of settings."""
    told = []
    for part in parts:
        before, after = there.get(part), now[part]
        if not (isinstance(before, dict) and isinstance(after, dict)):
            told.append(part)
            continue
        told += [f"{key} ({before.get(key)}, now {after[key]})" for key in after if before.get(key) != after[key]]
    return told


def _trained_on_the_same(training: Training, name: str) -> None:
    """Refuse a model of round 0 that was trained before the dataset was translated again.

    nnU-Net copies dataset.json beside a model when it starts to train, under any --into or without this command.
    """
    now = _checkpoints(raw_root() / name / "dataset.json")
    for model in training.models(name):
        if (model / "dataset.json").exists() and _checkpoints(model / "dataset.json") != now:
            raise InputError(
                f"{model}: trained on {name} as another translation made it; remove the folder to train again"
            )


def _foreground(cohort: Cohort) -> dict[str, int]:
    return {name: value for name, value in cohort.labels.items() if value != 0}


def _pool(name: str, source: Cohort, scans: Cohort, labels: Path, kept: set[str]) -> None:
    """Write the pseudo-target cases and the pseudo-labelled real ones as one dataset; the latter never validate."""
    if not kept:
        raise InputError(f"{labels}: no pseudo-label passes the filters, a lower --confidence is needed")
    made = [
        Case(c, (source.image_path(c),), source.label_path(c), source.subject.get(c, c), "translated")
        for c in source.cases
    ]
    real = [
        Case(c, (scans.image_path(c),), labels / f"{c}{scans.ending}", scans.subject.get(c, c), "real")
        for c in scans.cases
        if c in kept
    ]
    values = label_table(source.labels, source.ignore)
    write_dataset(
        name,
        [*made, *real],
        [scans.channel_name],
        values,
        file_ending=source.ending,
        split=subject_folds([*made, *real], {c.name for c in real}),
        notes={"pseudo_labelled": sorted(kept)},
        overwrite=True,
    )


def _train(name: str, training: Training, folder: Path) -> None:
    """Plan, preprocess, configure and train by nnU-Net's own commands, as far as that is not done."""
    number = name[7:10]
    log_file = folder / "log.txt"
    for configuration in training.configurations:
        fold = training.model(name, configuration) / f"fold_{training.fold}"
        if (fold / "checkpoint_final.pth").exists():
            continue
        # nnU-Net copies dataset.json when it starts to preprocess, so a mark of our own tells that it finished.
        mark = folder / f"{name}_{training.plans}_{configuration}.preprocessed"
        if not mark.exists():
            if not _planned(name, training):
                _run(log_file, "nnUNetv2_extract_fingerprint", "-d", number, "-np", PROCESSES)
                planner = ("-pl", training.planner, "-overwrite_plans_name", training.plans)
                _run(log_file, "nnUNetv2_plan_experiment", "-d", number, *planner)
            plans = ("-plans_name", training.plans)
            _run(log_file, "nnUNetv2_preprocess", "-d", number, "-c", configuration, *plans, "-np", PROCESSES)
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        if training.preset or training.settings:
            configure(name, configuration, training.plans, training.preset, training.settings)
        command = [
            "nnUNetv2_train",
            number,
            configuration,
            training.fold,
            "-tr",
            training.trainer,
            "-p",
            training.plans,
            "-device",
            pick_device(training.device).type,
        ]
        if list(fold.glob("checkpoint_*.pth")):
            command.append("--c")
        _run(log_file, *command)


def _planned(name: str, training: Training) -> bool:
    """Whether there are plans, made from the dataset as it is now: nnU-Net copies dataset.json when it plans."""
    folder = preprocessed_root() / name
    copy = folder / "dataset.json"
    if not (folder / f"{training.plans}.json").exists():
        return False
    return not copy.exists() or _checkpoints(copy) == _checkpoints(raw_root() / name / "dataset.json")


def _run(log_file: Path, *command: str) -> None:
    """Run one of nnU-Net's commands with its output in a log; `StageError` when it fails."""
    log.info("$ %s", shlex.join(command))
    run_logged(command, log_file, {})


def _validate(training: Training, name: str, held_out: Cohort, folder: Path) -> dict[str, float | None]:
    predict_cohort(training.models(name), [training.fold], held_out, folder, Filters(), training.device)
    references = {case: held_out.label_path(case) for case in held_out.cases}
    return agreement(held_out, folder, references, _foreground(held_out))


def _best(rounds: list[dict[str, Any]]) -> int:
    """The round of the highest mean validation Dice, the earlier one of equals; without validation the last."""
    if "validation_dice" not in rounds[-1]:
        return len(rounds) - 1
    means = [np.mean([v or 0.0 for v in row["validation_dice"].values()]) for row in rounds]
    return int(np.argmax(means))
