"""Raw nnU-Net datasets: written whole or not at all, with unlabelled cases and domains recorded.

An unlabelled case is one whose label file is filled with nnU-Net's `ignore` label, so plain nnU-Net plans, preprocesses
and trains the dataset unchanged. `dataset.json` also carries
`"nnunet_ext": {"unlabelled": [case, ...], "domain": {case: name}, "subject": {case: name}}`.
"""

from __future__ import annotations

import filecmp
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_ext.data import images as io
from nnunet_ext.data.case import IGNORE, Case, write_case
from nnunet_ext.data.fingerprint import write_fingerprint
from nnunet_ext.errors import InputError
from nnunet_ext.files import atomic_folder, make_folder, read_json, write_json
from nnunet_ext.paths import dataset_name, new_dataset_name, preprocessed_root, raw_root
from nnunet_ext.progress import progress

log = logging.getLogger(__name__)

Fold = Mapping[str, Sequence[str]]
__all__ = ["IGNORE", "Case", "domains", "read_description", "subjects", "unlabelled_cases", "write_dataset"]


def read_description(dataset: str | int, flag: str = "-d") -> tuple[Path, dict[str, Any]]:
    """Folder and `dataset.json` of a raw dataset.

    Args:
        dataset: id or full name.
        flag: that it was given by, for messages.

    Raises:
        InputError: when there is no such dataset or its `dataset.json` is not one.
    """
    folder = raw_root() / dataset_name(dataset, flag)
    content = read_json(folder / "dataset.json")
    found = content if isinstance(content, dict) else {}
    if absent := [key for key in ("file_ending", "channel_names", "labels") if key not in found]:
        raise InputError(f"{folder / 'dataset.json'}: no {absent[0]}, which every nnU-Net dataset needs")
    return folder, found


def unlabelled_cases(dataset_json: Mapping[str, Any]) -> set[str]:
    """The cases of a `dataset.json` whose labels are nothing but `ignore`."""
    return set(dataset_json.get("nnunet_ext", {}).get("unlabelled", ()))


def domains(dataset_json: Mapping[str, Any]) -> dict[str, str]:
    """Case -> domain, for the cases of a `dataset.json` that have one."""
    return dict(dataset_json.get("nnunet_ext", {}).get("domain", {}))


def subjects(dataset_json: Mapping[str, Any]) -> dict[str, str]:
    """Case -> subject, for the cases of a `dataset.json` that share one with others."""
    return dict(dataset_json.get("nnunet_ext", {}).get("subject", {}))


def write_dataset(
    name: str,
    cases: Iterable[Case],
    channel_names: Sequence[str],
    labels: Mapping[str, int],
    *,
    file_ending: str | None = None,
    unlabelled: Collection[str] = (),
    split: Sequence[Fold] | None = None,
    notes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write `nnUNet_raw/<name>` and, in `nnUNet_preprocessed/<name>`, what nnU-Net would not get right by itself.

    That is `splits_final.json` for a given split, and the fingerprint of the labelled cases where some are unlabelled.

    Everything is checked and written into a temporary folder first, which is renamed at the end. Files are copied byte
    for byte where nothing about them changes. Writing the same content again leaves the dataset's files alone.

    Args:
        name: full dataset name (`Dataset027_ACDC`).
        cases: the cases, in any order.
        channel_names: one name per channel ("CT" means Hounsfield units to nnU-Net).
        labels: name -> value; values 1..n without gaps. `background` and, where `unlabelled` needs it, `ignore` are
            added.
        file_ending: ending of all files; without it the input's where nnU-Net can read that, `.mha` for a mixture.
        unlabelled: names of the cases whose label is not to be read. Cases without a label must be among them.
        split: folds of case names, each {"train": [...], "val": [...]}.
        notes: further entries for `dataset.json`'s "nnunet_ext".
        overwrite: replace a dataset of this name that has other content.

    Returns:
        The dataset's folder.

    Raises:
        InputError: for whatever is wrong with the files or the names; nothing has then been written or changed.
    """
    name = new_dataset_name(name, name)
    cases = sorted(cases, key=lambda case: io.natural(case.name))
    unlabelled = set(unlabelled)
    values = _check(name, cases, channel_names, labels, unlabelled)
    allowed = set(values.values())
    if unlabelled and IGNORE not in values:
        values[IGNORE] = max(values.values()) + 1
    where = {c.name: c.domain for c in cases if c.domain}
    names = {c.name for c in cases}
    if strangers := sorted((set(where) | unlabelled | {n for f in split or () for k in f for n in f[k]}) - names):
        raise InputError(f"{name}: {strangers[0]} is named as unlabelled, in a domain or in the split, but is no case")
    suffix = file_ending or _common_ending(cases, unlabelled)
    content = {
        "channel_names": {str(i): channel for i, channel in enumerate(channel_names)},
        "labels": values,
        "numTraining": len(cases),
        "file_ending": suffix,
        "name": name,
        "nnunet_ext": {
            "unlabelled": [c.name for c in cases if c.name in unlabelled],
            "domain": {c.name: where[c.name] for c in cases if c.name in where},
            "subject": {c.name: c.subject for c in cases if c.subject and c.subject != c.name},
            **(notes or {}),
        },
    }
    target = raw_root() / name
    splits_file = preprocessed_root() / name / "splits_final.json"
    folds = [{part: list(fold[part]) for part in ("train", "val")} for fold in split or ()]
    write_split = _split_is_new(splits_file, folds, overwrite)
    make_folder(raw_root())
    for abandoned in raw_root().glob(f".partial-{name}-*"):  # of a run that was killed
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".partial-{name}-", dir=raw_root()) as temporary:
        built = Path(temporary)
        (built / "imagesTr").mkdir()
        (built / "labelsTr").mkdir()
        for case in progress(cases, f"writing {name}"):
            write_case(case, built, suffix, values, allowed, case.name in unlabelled)
        write_json(built / "dataset.json", content)
        changed = _put(built, target, overwrite)
    if write_split:
        write_json(splits_file, folds)
    fingerprint = splits_file.with_name("dataset_fingerprint.json")
    if changed:
        fingerprint.unlink(missing_ok=True)  # of a dataset that is no more
    labelled = [c.name for c in cases if c.name not in unlabelled]
    if unlabelled and labelled and not fingerprint.exists():
        write_fingerprint(target, labelled, fingerprint)
    return target


def _check(
    name: str, cases: Sequence[Case], channel_names: Sequence[str], labels: Mapping[str, int], unlabelled: set[str]
) -> dict[str, int]:
    """What can be known without opening a file; returns the labels with background, sorted by value."""
    if not cases:
        raise InputError(f"{name}: no cases, at least one is needed")
    seen: dict[str, Case] = {}
    for case in cases:
        if other := seen.get(case.name):
            raise InputError(
                f"{case.images[0]}: a second case {case.name} beside {other.images[0]}, exactly one is needed"
            )
        seen[case.name] = case
        if len(case.images) != len(channel_names):
            raise InputError(
                f"{case.images[0] if case.images else case.name}: {len(case.images)} channels for case {case.name}, "
                f"{len(channel_names)} are needed ({', '.join(channel_names)})"
            )
        if case.label is None and case.name not in unlabelled:
            raise InputError(f"{case.images[0]}: no label for case {case.name}, one is needed for a labelled case")
    values = {"background": 0} | {k: int(v) for k, v in labels.items()}
    ordered = dict(sorted(values.items(), key=lambda item: item[1]))
    if list(ordered.values()) != list(range(len(ordered))) or ordered["background"] != 0:
        raise InputError(f"{name}: label values {dict(labels)}, 1 to {len(ordered) - 1} without gaps are needed")
    if IGNORE in ordered and ordered[IGNORE] != len(ordered) - 1:
        raise InputError(f"{name}: label ignore has the value {ordered[IGNORE]}, the highest value is needed")
    if len(ordered) < 2:
        raise InputError(f"{name}: no labels declared, at least one is needed")
    return ordered


def _common_ending(cases: Sequence[Case], unlabelled: set[str]) -> str:
    files = [p for c in cases for p in c.images]
    files += [c.label for c in cases if c.label is not None and c.name not in unlabelled]
    endings = {io.ending(p) for p in files}
    only = next(iter(endings)) if len(endings) == 1 else None
    return only if only in io.NNUNET_ENDINGS else io.EXACT_ENDING


def _split_is_new(splits_file: Path, folds: list[dict[str, list[str]]], overwrite: bool) -> bool:
    """Whether the split has to be written; a different one that is already there is the user's to give up."""
    if not folds:
        return False
    if not splits_file.exists():
        return True
    if read_json(splits_file) == folds:
        return False
    if not overwrite:
        raise InputError(f"{splits_file}: holds another split, --overwrite is needed to replace it")
    return True


def _put(built: Path, target: Path, overwrite: bool) -> bool:
    """Rename the finished dataset into place; False when the same is there already."""
    if not target.exists():
        with atomic_folder(target) as partial:
            _move(built, partial)
        log.info("%s: written", target)
        return True
    if _same(built, target):
        log.info("%s: already there and up to date, nothing changed", target)
        return False
    if not overwrite:
        raise InputError(f"{target}: exists with other content, --overwrite is needed to replace it")
    if others := sorted(p.name for p in target.iterdir() if p.name not in {q.name for q in built.iterdir()}):
        raise InputError(f"{target}: also holds {others[0]}, which would be lost; move it away before --overwrite")
    with atomic_folder(target) as partial:
        _move(built, partial)
    log.info("%s: replaced; what nnU-Net preprocessed from the old content is out of date", target)
    return True


def _move(built: Path, partial: Path) -> None:
    for entry in built.iterdir():
        os.replace(entry, partial / entry.name)


def _same(built: Path, target: Path) -> bool:
    """Equal files in the parts that are ours; what a user added beside them (`imagesTs`) does not matter."""
    for folder in ("imagesTr", "labelsTr"):
        names = sorted(p.name for p in (built / folder).iterdir())
        there = target / folder
        if not there.is_dir() or sorted(p.name for p in there.iterdir()) != names:
            return False
        _, differing, unreadable = filecmp.cmpfiles(built / folder, there, names, shallow=False)
        if differing or unreadable:
            return False
    described = target / "dataset.json"
    return described.is_file() and json.loads(described.read_text()) == json.loads((built / "dataset.json").read_text())
