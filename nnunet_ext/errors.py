"""The errors that end the program with one line: what the user can mend, and a stage that cannot go on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input from the user: exit code 2 and one line on stderr.

    The message names the file or flag, says what was found and what is needed, on a single line.
    """


class StageError(RuntimeError):
    """A stage cannot go on although its input is right: exit code 1 and one line on stderr."""


@contextmanager
def exit_on_input_error(who: str) -> Iterator[None]:
    """Turn an `InputError` into its line on stderr and exit code 2, where the program around is not ours.

    nnU-Net's programs know nothing of `InputError`: they would show a traceback and exit with 1.
    """
    try:
        yield
    except InputError as error:
        sys.stderr.write(f"{who}: {error}\n")
        raise SystemExit(2) from None


def reason(error: BaseException) -> str:
    """What another library's error says in its last line: ITK's come with a page about where in its code they arose."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith("Reason:")]
    return lines[-1] if lines else type(error).__name__


def opening(error: BaseException) -> str:
    """What another library's error says in its first line: torch's go on with pages of advice."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """Kind and last line of an error that is not the user's."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"
