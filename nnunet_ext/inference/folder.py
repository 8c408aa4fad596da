"""A folder of scans through one resident predictor: cases, output names, overlap, and errors that cost one case."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from nnunet_ext.data.images import NNUNET_ENDINGS, ending, natural, stem
from nnunet_ext.errors import InputError, one_line
from nnunet_ext.files import atomic_path, make_folder
from nnunet_ext.inference.images import read_scan, write_mask
from nnunet_ext.inference.memory import NoRoom
from nnunet_ext.inference.predictor import Logits, Predictor, Prepared
from nnunet_ext.progress import progress

log = logging.getLogger(__name__)

CASE, CHANNEL = "{case}", "{channel}"


@dataclass(frozen=True)
class Case:
    """One case of a folder: its files by channel, in order, and the name of its output."""

    name: str
    channels: Mapping[int, Path]
    output: str

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self.channels.values())


def find_cases(folder: Path, channels: int, pattern: str | None = None, output: str | None = None) -> list[Case]:
    """The cases that lie directly in a folder.

    Without a pattern, `NAME_0000.nii.gz`, `NAME_0001.nii.gz`, ... are the channels of `NAME`, and for a model of one
    channel any other scan is a case of its own. The output has the case's name and its first file's ending.

    Args:
        channels: number of the model's channels.
        pattern: file name with `{case}` in it and, for several channels, `{channel}` (a number from 0, zeros in front
            are allowed), such as `{case}_hrT2.nii.gz`.
        output: name of the output with `{case}` in it, such as `{case}_Label.nii.gz`.

    Raises:
        InputError: for a missing folder, one without cases, a malformed pattern, or two cases of one output.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, a folder of scans is needed")
    if output is not None and (CASE not in output or "/" in output or not output.endswith(NNUNET_ENDINGS)):
        raise InputError(f"--output {output}: {CASE} and an ending of {', '.join(NNUNET_ENDINGS)} are needed")
    files = sorted((p for p in folder.iterdir() if p.is_file() and ending(p)), key=lambda p: natural(p.name))
    groups = _by_pattern(files, pattern, channels) if pattern else _by_convention(files, channels)
    cases = []
    for name, group in groups.items():
        first = group[min(group)]
        out = output.replace(CASE, name) if output else name + _output_ending(first)
        cases.append(Case(name, dict(sorted(group.items())), out))
    if not cases:
        wanted = f"files like {pattern}" if pattern else f"scans ending in {', '.join(NNUNET_ENDINGS)}"
        raise InputError(f"{folder}: no cases, {wanted} are needed ({len(files)} other scans there)")
    seen: dict[str, Case] = {}
    for case in cases:
        other = seen.setdefault(case.output, case)
        if other is not case:
            raise InputError(f"{case.files[0]}: its mask would replace that of {other.files[0]} ({case.output})")
    return cases


def require_apart(cases: Sequence[Case], target: Path) -> None:
    """No mask may take the place of a scan.

    Raises:
        InputError: when one would, as its name is that of a scan in the same folder.
    """
    scans = {file.resolve() for case in cases for file in case.files}
    for case in cases:
        if (target / case.output).resolve() in scans:
            raise InputError(f"{target / case.output}: a scan, its mask would replace it; another folder is needed")


def predict_folder(predictor: Predictor, cases: Sequence[Case], target: Path, again: bool = False) -> dict[str, str]:
    """Predict cases to `target`; one that fails costs only itself.

    Reading and preprocessing the next case and writing the one before go on while the network runs. A case whose
    output is there is skipped.

    Args:
        again: predict cases whose output is there, too.

    Returns:
        case -> the line that says what was wrong with it; empty when all went well.
    """
    make_folder(target)
    todo = [case for case in cases if again or not (target / case.output).exists()]
    if len(todo) < len(cases):
        log.info("%d of %d cases are there already", len(cases) - len(todo), len(cases))
    failed: dict[str, str] = {}

    def prepare(case: Case) -> Prepared:
        needed = predictor.model.first.channels
        if list(case.channels) != list(range(needed)):
            there = ", ".join(str(channel) for channel in case.channels)
            raise InputError(
                f"{case.files[0]}: of {case.name} the channels {there} are there, the model needs 0 to {needed - 1}"
            )
        return predictor.prepare(read_scan(case.files, predictor.model.reorient))

    def write(logits: Logits, case: Case) -> None:
        mask = predictor.finish(logits).mask
        with atomic_path(target / case.output) as partial:
            write_mask(mask, logits.scan, partial)

    def note(case: Case, error: BaseException) -> None:
        line = str(error) if isinstance(error, InputError) else f"{case.files[0]}: {one_line(error)}"
        failed[case.name] = line
        log.error("%s", line)

    def settle(writing: Future[None] | None, case: Case | None) -> None:
        if writing is not None and case is not None and (error := writing.exception()) is not None:
            note(case, error)

    with ThreadPoolExecutor(1, "prepare") as preparer, ThreadPoolExecutor(1, "write") as writer:
        writing: Future[None] | None = None
        before: Case | None = None
        for case, preparing in progress(_one_ahead(preparer, prepare, todo), "predicting", len(todo)):
            logits = None
            try:
                try:
                    prepared = preparing.result()
                except NoRoom:
                    # The case before shared the memory with it: once more, alone.
                    wait([writing] if writing else [])
                    prepared = prepare(case)
                logits = predictor.logits(prepared)
            except Exception as error:  # whatever one scan brings up must not cost the others
                note(case, error)
            settle(writing, before)
            writing, before = (writer.submit(write, logits, case), case) if logits is not None else (None, None)
        settle(writing, before)
    return failed


def _output_ending(scan: Path) -> str:
    """The scan's own, but for a header whose voxels lie in a second file: a mask is one file."""
    own = str(ending(scan))
    return own if own in NNUNET_ENDINGS else ".mha"


def _one_ahead(
    executor: Executor, function: Callable[[Case], Prepared], cases: Sequence[Case]
) -> Iterator[tuple[Case, Future[Prepared]]]:
    """Each case with its finished future, the next one already under way unless this one found no room."""
    future = executor.submit(function, cases[0]) if cases else None
    for case, following in zip_longest(cases, cases[1:]):
        assert future is not None
        wait([future])
        current, crowded = future, isinstance(future.exception(), NoRoom)
        if following is not None and not crowded:
            future = executor.submit(function, following)
        yield case, current
        if following is not None and crowded:
            future = executor.submit(function, following)


def _by_convention(files: Sequence[Path], channels: int) -> dict[str, dict[int, Path]]:
    groups: dict[str, dict[int, Path]] = defaultdict(dict)
    for file in files:
        match = re.fullmatch(r"(.+)_(\d{4})", stem(file))
        # `scan_2023` is a name, not channel 2023, where there is but one channel.
        if match and (channels > 1 or int(match[2]) == 0):
            _add(groups[match[1]], int(match[2]), file)
        elif channels == 1:
            _add(groups[stem(file)], 0, file)
    return groups


def _by_pattern(files: Sequence[Path], pattern: str, channels: int) -> dict[str, dict[int, Path]]:
    parts = re.split(r"(\{case\}|\{channel\})", pattern)
    if parts.count(CASE) != 1 or parts.count(CHANNEL) != (1 if channels > 1 else parts.count(CHANNEL)):
        needed = CASE if channels == 1 else f"{CASE} and {CHANNEL}"
        raise InputError(f"--pattern {pattern}: {needed}, once, is needed for a model of {channels} channels")
    expression = {CASE: "(?P<case>.+)", CHANNEL: r"(?P<channel>\d+)"}
    regex = re.compile("".join(expression.get(part, re.escape(part)) for part in parts))
    groups: dict[str, dict[int, Path]] = defaultdict(dict)
    for file in files:
        if match := regex.fullmatch(file.name):
            _add(groups[match["case"]], int(match.groupdict().get("channel") or 0), file)
    return groups


def _add(group: dict[int, Path], channel: int, file: Path) -> None:
    if other := group.get(channel):
        raise InputError(f"{file}: a second file for one channel of one case beside {other}, exactly one is needed")
    group[channel] = file
