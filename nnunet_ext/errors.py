"""The one error a user causes and can mend."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input from the user: exit code 2 and one line on stderr.

    The message names the file or flag, says what was found and what is needed, on a single line.
    """


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
