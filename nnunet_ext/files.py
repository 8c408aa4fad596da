"""Writing files and folders so that a reader sees all of them or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError

# Asking for it means setting it for a moment, which files that another thread makes would show: so once, at import.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


def make_folder(folder: Path) -> None:
    """Make a folder that a user named, and those above it.

    Raises:
        InputError: when something else lies there or the place is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}), a folder of your own is needed") from None


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it replaces `target`, on an error it is removed.

    The temporary name keeps the target's full suffix (`.nii.gz`), because writers choose the format by it.

    Raises:
        InputError: when `target` is a folder or its folder cannot be made.
    """
    target = Path(target)
    if target.is_dir():
        raise InputError(f"{target}: is a folder, the name of a file is needed")
    make_folder(target.parent)
    suffix = "".join(target.suffixes[-2:]) if target.name.endswith(".gz") else target.suffix
    handle, name = tempfile.mkstemp(prefix=".partial-", suffix=suffix, dir=target.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_UMASK)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path | str) -> Iterator[Path]:
    """Yield an empty temporary folder beside `target`; on success it becomes `target`, on an error it is removed.

    An existing `target` is replaced as a whole, and stays where that fails.
    """
    target = Path(target)
    make_folder(target.parent)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_UMASK)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=".old-", dir=target.parent))
            try:
                os.replace(target, old / target.name)
                os.replace(partial, target)
            finally:
                if not target.exists():
                    os.replace(old / target.name, target)
                shutil.rmtree(old)
        else:
            os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(target: Path | str, content: Any) -> None:
    """Write `content` as indented JSON, atomically. Key order is kept."""
    with atomic_path(target) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(source: Path | str) -> Any:
    """Read a JSON file that a user named; what is wrong with it is an `InputError`."""
    source = Path(source)
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{source}: no such file, a JSON file is needed") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{source}: not readable as JSON ({error})") from None


def sha256(source: Path | str) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with Path(source).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
