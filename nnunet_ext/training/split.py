"""Which cases train and which validate, when some of them have no labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_ext.data.folds import FOLDS, cross_validation
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, write_json


@dataclass(frozen=True)
class Cases:
    """The cases of one fold, sorted; `note` says in words what is trained and validated on."""

    labelled: list[str]
    unlabelled: list[str]
    validation: list[str]
    note: str


def split_cases(
    identifiers: Iterable[str],
    unlabelled: Iterable[str],
    fold: int | str,
    splits_file: Path,
    subjects: Mapping[str, str] | None = None,
) -> Cases:
    """Split a dataset for one fold; validation cases are labelled in every fold.

    A stored split is respected, except that an unlabelled case in `val` moves to `train`. Without one, nnU-Net's
    five folds over the labelled cases are made and stored, with the unlabelled cases in each `train`, so that
    nnU-Net's own trainers go on with the same split.

    Args:
        identifiers: the preprocessed cases.
        unlabelled: those without labels; names that were not preprocessed are ignored.
        fold: a fold's number, or `all`: every case trains and every labelled one validates.
        splits_file: nnU-Net's `splits_final.json`, which may not exist yet.
        subjects: case -> person, for cases that share one; new folds keep a person's cases together.

    Raises:
        InputError: no labelled case, too few for folds, a fold that does not exist, a stored split that names
            missing cases or leaves a fold without labelled cases on either side.
    """
    known = sorted(identifiers)
    without = set(unlabelled)
    labelled = [k for k in known if k not in without]
    bare = [k for k in known if k in without]
    if not labelled:
        raise InputError(f"{splits_file.parent}: none of {len(known)} cases is labelled, at least one is needed")
    if fold == "all":
        note = f"all {len(labelled)} labelled and {len(bare)} unlabelled cases, the labelled ones also validate"
        return Cases(labelled, bare, labelled, f"Fold all trains on {note}: not a measure of generalisation.")

    if not splits_file.is_file():
        _write_splits(known, without, splits_file, subjects or {})
    train, validation = _stored(splits_file, int(fold), set(known))
    moved = [k for k in validation if k in without]
    cases = Cases(
        labelled=[k for k in train if k not in without],
        unlabelled=sorted({k for k in train if k in without}.union(moved)),
        validation=[k for k in validation if k not in without],
        note="",
    )
    for name, there in (("train", cases.labelled), ("val", cases.validation)):
        if not there:
            raise InputError(
                f"{splits_file}: fold {fold} has no labelled case in {name}, use fold all or a split with one"
            )
    note = (
        f"Fold {fold} trains on {len(cases.labelled)} labelled and {len(cases.unlabelled)} unlabelled cases"
        f" and validates on {len(cases.validation)} labelled cases."
    )
    return Cases(cases.labelled, cases.unlabelled, cases.validation, note)


def _write_splits(known: list[str], unlabelled: set[str], splits_file: Path, subjects: Mapping[str, str]) -> None:
    persons = {case: subjects.get(case, case) for case in known}
    people = len({person for case, person in persons.items() if case not in unlabelled})
    if people < FOLDS:
        raise InputError(
            f"{splits_file}: not there, and {people} labelled cases or subjects are too few for {FOLDS} folds,"
            " use fold all or write a split"
        )
    write_json(splits_file, cross_validation(persons, unlabelled, FOLDS))


def _stored(splits_file: Path, fold: int, known: set[str]) -> tuple[list[str], list[str]]:
    splits = read_json(splits_file)
    try:
        if fold >= len(splits):
            raise InputError(f"{splits_file}: has {len(splits)} folds, fold {fold} was asked for")
        train, validation = sorted(splits[fold]["train"]), sorted(splits[fold]["val"])
    except (TypeError, KeyError):
        raise InputError(f"{splits_file}: not a split, a list of folds with train and val is needed") from None
    missing = sorted(set(train + validation) - known)
    if missing:
        raise InputError(f"{splits_file}: fold {fold} names {missing[0]}, which is not among the preprocessed cases")
    return train, validation
