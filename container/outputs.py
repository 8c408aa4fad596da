"""Writing to `/output` so that a case's files appear complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nnunet_ext.errors import InputError

PARTIAL = ".partial-"
# Where the files of a case are being moved to: what a signal handler has to remove of them.
_moving: list[Path] = []


def check_output(folder: Path) -> None:
    """Remove what a killed run has left, and make sure that the folder can be written.

    Raises:
        InputError: when it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder}: not writable ({_reason(error)}), a folder for the output is needed") from None


def clear(folder: Path, names: Sequence[str]) -> None:
    """Remove the outputs of an earlier case."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


@contextmanager
def all_or_nothing(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield a staging folder; what was written there under `names` is then moved into `folder`, file by file.

    When anything fails, or the program is told to stop, none of the names exists afterwards.

    Raises:
        InputError: when the disk is full or not writable.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=folder) as staging:
            root = Path(staging)
            for name in names:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
            yield root
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _moving.extend(folder / name for name in names)
            try:
                for name in names:
                    os.replace(root / name, folder / name)
            except BaseException:
                clear(folder, names)
                raise
            finally:
                _moving.clear()
    except OSError as error:
        raise InputError(f"{folder}: writing failed ({_reason(error)}), room for the output is needed") from None


def remove_unfinished(folder: Path) -> None:
    """What a signal handler can still do: remove the files of a case that is not there as a whole."""
    with suppress(OSError):
        for left in folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()
    # After the staging folder, from which another thread may just be moving them.
    for path in _moving:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
