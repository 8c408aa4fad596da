"""Which cases count as labelled, and which train and validate: what `--labelled` and `--split` say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nnunet_ext.data.dataset import Case
from nnunet_ext.data.folds import FOLDS, cross_validation
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json


def read_names(spec: str, flag: str = "--labelled") -> list[str]:
    """Names from a plain text file (one per line, # comments), a JSON list, or `FILE:KEY` with KEY's JSON list.

    Args:
        spec: what the user wrote.
        flag: where, for the message.

    Raises:
        InputError: when the file or the key is not there, or no name in it.
    """
    names = _read_names(spec, flag)
    if not names:
        raise InputError(f"{flag} {spec}: holds no names, at least one is needed")
    return names


def _read_names(spec: str, flag: str) -> list[str]:
    path, key = Path(spec), ""
    if not path.is_file() and ":" in spec:
        text, key = spec.rsplit(":", 1)
        path = Path(text)
    if not path.is_file():
        raise InputError(f"{flag} {spec}: no such file, FILE or FILE:KEY with a list of names is needed")
    if path.suffix != ".json" and not key:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not readable as text ({error}), one name per line is needed") from None
        return [name for line in lines if (name := line.split("#")[0].strip())]
    content = read_json(path)
    if key:
        if not isinstance(content, dict) or key not in content:
            keys = ", ".join(content) if isinstance(content, dict) else "none"
            raise InputError(f"{flag} {spec}: no key {key} in {path}, one of its keys is needed: {keys}")
        content = content[key]
    elif isinstance(content, dict):
        raise InputError(f"{flag} {spec}: the file holds several lists, FILE:KEY is needed: {', '.join(content)}")
    return _names(content, f"{flag} {spec}")


def read_split(path: Path) -> dict[str, list[str]]:
    """The `train` and `val` lists of a JSON file; other keys are left alone.

    Raises:
        InputError: when a list is missing or empty, or a name is in both.
    """
    content = read_json(path)
    if isinstance(content, list) and len(content) == 1:
        content = content[0]
    if not isinstance(content, dict) or not {"train", "val"} <= set(content):
        raise InputError(f"{path}: no train and val lists, a JSON object with both is needed")
    split = {part: _names(content[part], f"{path}: {part}") for part in ("train", "val")}
    for part, names in split.items():
        if not names:
            raise InputError(f"{path}: {part} is empty, at least one name is needed")
    if both := sorted(set(split["train"]) & set(split["val"])):
        raise InputError(f"{path}: {both[0]} is in train and in val, one of them is needed")
    return split


def resolve(names: Iterable[str], cases: Sequence[Case], origin: str) -> list[str]:
    """Case names for names of cases or of subjects, in the order given.

    Raises:
        InputError: for a name that is neither.
    """
    own = {c.name: [c.name] for c in cases}
    shared: dict[str, list[str]] = {}
    for case in cases:
        shared.setdefault(case.group, []).append(case.name)
    found: list[str] = []
    for name in names:
        if name not in own and name not in shared:
            example = cases[0].name if cases[0].name == cases[0].group else f"{cases[0].name} or {cases[0].group}"
            raise InputError(f"{origin}: {name} is no case and no subject here, names such as {example} are needed")
        found += own.get(name) or shared[name]
    return list(dict.fromkeys(found))


def fold_of(path: Path, cases: Sequence[Case]) -> dict[str, list[str]]:
    """The fold that a `--split` file describes, in case names."""
    split = read_split(path)
    fold = {part: resolve(names, cases, str(path)) for part, names in split.items()}
    if both := sorted(set(fold["train"]) & set(fold["val"])):
        raise InputError(f"{path}: {both[0]} is in train and in val, one of them is needed")
    return fold


def choose_unlabelled(cases: Sequence[Case], labelled: str | None, validation: Iterable[str]) -> set[str]:
    """The cases whose label is not to be read.

    Args:
        cases: all cases.
        labelled: the text of `--labelled`; None makes every case that has a label a labelled one.
        validation: case names that are labelled whenever they have a label, because they are what is scored.

    Raises:
        InputError: when a case named as labelled has no label.
    """
    without = {c.name for c in cases if c.label is None}
    if labelled is None:
        return without
    named = resolve(read_names(labelled), cases, f"--labelled {labelled}")
    for name in named:
        if name in without:
            raise InputError(f"--labelled {labelled}: {name} has no label file, only cases with one can be labelled")
    return {c.name for c in cases} - set(named) - (set(validation) - without)


def subject_folds(cases: Sequence[Case], unlabelled: set[str]) -> list[dict[str, list[str]]] | None:
    """Cross-validation by subject over the labelled cases; unlabelled cases always train.

    nnU-Net's own folds would put frames of one person on both sides and unlabelled cases into validation.

    Returns:
        Up to five folds; None where nnU-Net's own are right, or where fewer than two labelled subjects leave only
        fold `all`.
    """
    if not unlabelled and all(c.group == c.name for c in cases):
        return None
    people = len({c.group for c in cases if c.name not in unlabelled})
    if people < 2:
        return None
    return cross_validation({c.name: c.group for c in cases}, unlabelled, min(FOLDS, people))


def _names(content: Any, origin: str) -> list[str]:
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise InputError(f"{origin}: {json.dumps(content)[:60]} is not a list of names, one is needed")
    return content
