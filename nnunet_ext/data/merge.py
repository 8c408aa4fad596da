"""One dataset from a labelled source and an unlabelled target dataset, for trainers that adapt between domains."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_ext.data.dataset import IGNORE, Case, domains, read_description, subjects, unlabelled_cases, write_dataset
from nnunet_ext.data.selection import read_names, resolve, subject_folds
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json
from nnunet_ext.paths import new_dataset_name, preprocessed_root

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RawDataset:
    """A raw dataset on disk, as far as merging needs it."""

    name: str
    description: Mapping[str, Any]
    cases: Sequence[Case]
    fold: Mapping[str, Sequence[str]] | None

    @property
    def unlabelled(self) -> set[str]:
        return unlabelled_cases(self.description)

    @property
    def labels(self) -> dict[str, int]:
        return {name: value for name, value in self.description["labels"].items() if name != IGNORE}

    @property
    def title(self) -> str:
        return self.name.split("_", 1)[1]


def load(dataset: str, flag: str) -> RawDataset:
    """A raw dataset by id or name, with the one fold that its `splits_final.json` describes (several count as none).

    Cases that the fold names in neither part are set aside, to be neither trained nor validated on. `flag` is what
    named the dataset, for messages.

    Raises:
        InputError: when the dataset, its `dataset.json` or a file of a case is missing.
    """
    folder, description = read_description(dataset, flag)
    name = folder.name
    suffix, channels = description["file_ending"], len(description["channel_names"])
    if any(isinstance(value, list) for value in description["labels"].values()):
        raise InputError(f"{folder / 'dataset.json'}: labels are regions, plain labels are needed")
    where, who = domains(description), subjects(description)
    cases = []
    for first in sorted((folder / "imagesTr").glob(f"*_0000{suffix}")):
        case = first.name.removesuffix(f"_0000{suffix}")
        images = tuple(first.with_name(f"{case}_{i:04d}{suffix}") for i in range(channels))
        cases.append(
            Case(case, images, folder / "labelsTr" / f"{case}{suffix}", who.get(case, ""), where.get(case, ""))
        )
    if not cases:
        raise InputError(f"{folder / 'imagesTr'}: holds no cases, at least one is needed")
    splits_file = preprocessed_root() / name / "splits_final.json"
    splits = read_json(splits_file) if splits_file.exists() else []
    fold = splits[0] if len(splits) == 1 else None
    if fold is not None:
        used = [case for case in cases if case.name in {*fold["train"], *fold["val"]}]
        if len(used) < len(cases):
            log.info("%s: %d cases are in neither part of its fold and left out", name, len(cases) - len(used))
        cases = used
    return RawDataset(name, description, cases, fold)


def merge(
    dataset: str, source: str, target: str, *, target_labelled: str | None = None, overwrite: bool = False
) -> Path:
    """Write `dataset` from both and return its folder.

    The source's cases keep their labels; where the source has a fold of its own and the target validates, the source's
    validation cases are left out. Cases that a fold names in neither part are left out as well. The target's training
    cases become unlabelled, save those that `target_labelled` names; the validation cases of its fold stay labelled and
    alone make up the new fold's validation. A target without validation cases leaves the source's.

    Args:
        dataset: id or full name of the dataset to write.
        source: id or name of the dataset that labels come from.
        target: id or name of the dataset to adapt to.
        target_labelled: text of `--target-labelled` (see `selection.read_names`).
        overwrite: replace a dataset of that name that has other content.

    Raises:
        InputError: when the datasets do not go together.
    """
    a, b = load(source, "--source"), load(target, "--target")
    if a.name == b.name:
        raise InputError(f"--target {target}: the same dataset as --source, another one is needed")
    channels_a, channels_b = (list(d.description["channel_names"].values()) for d in (a, b))
    if len(channels_a) != len(channels_b):
        raise InputError(f"--target {target}: {len(channels_b)} channels, {len(channels_a)} are needed as in {a.name}")
    if strangers := sorted(set(b.labels) - set(a.labels)):
        raise InputError(
            f"--target {target}: label {strangers[0]}, only those of {a.name} are allowed: {sorted(a.labels)}"
        )
    validation = [n for n in (b.fold or {}).get("val", ()) if n not in b.unlabelled]
    flag = "--target-labelled"
    named = resolve(read_names(target_labelled, flag), b.cases, flag) if target_labelled else []
    if blind := [n for n in named if n in b.unlabelled]:
        raise InputError(
            f"--target-labelled {target_labelled}: {blind[0]} is unlabelled in {b.name}, a label is needed"
        )
    if target_labelled is None and not validation:
        log.info("%s has no validation fold with labels, so all of its cases become unlabelled", b.name)

    left_out = set((a.fold or {}).get("val", ())) if validation else set()
    clash = {c.name for c in a.cases} & {c.name for c in b.cases}
    own = _Renamer(a, clash), _Renamer(b, clash)
    labels = dict(a.labels)
    if IGNORE in a.description["labels"] or IGNORE in b.description["labels"]:
        labels[IGNORE] = max(labels.values()) + 1
    cases_a = [own[0](c, labels) for c in a.cases if c.name not in left_out]
    cases_b = [own[1](c, labels) for c in b.cases]
    unlabelled = {own[0](c).name for c in a.cases if c.name in a.unlabelled - left_out}
    unlabelled |= {own[1](c).name for c in b.cases if c.name not in {*named, *validation}}
    cases = cases_a + cases_b
    if validation:
        val = [own[1](c).name for c in b.cases if c.name in validation]
    elif a.fold:
        val = [own[0](c).name for c in a.cases if c.name in a.fold["val"]]
    else:
        val = []
    fold = {"train": [c.name for c in cases if c.name not in val], "val": val}
    return write_dataset(
        new_dataset_name(dataset, f"{a.title}_to_{b.title}"),
        cases,
        [x if x == y else f"{x}+{y}" for x, y in zip(channels_a, channels_b, strict=True)],
        {name: value for name, value in labels.items() if name != "background"},
        unlabelled=unlabelled,
        split=[fold] if val else subject_folds(cases, unlabelled),
        notes={"source": a.name, "target": b.name},
        overwrite=overwrite,
    )


class _Renamer:
    """A dataset's cases under names, subjects and label values that fit the merged one."""

    def __init__(self, dataset: RawDataset, clash: set[str]) -> None:
        self.dataset, self.prefix = dataset, f"{dataset.title}_" if clash else ""

    def __call__(self, case: Case, labels: Mapping[str, int] | None = None) -> Case:
        known = self.dataset.description["labels"]
        mapping = {value: labels[name] for name, value in known.items()} if labels else None
        return replace(
            case,
            name=self.prefix + case.name,
            subject=self.prefix + case.group if case.subject or self.prefix else "",
            domain=case.domain or self.dataset.title,
            label_map=mapping,
        )
