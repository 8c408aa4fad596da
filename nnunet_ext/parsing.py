"""From arguments to the call that they ask for, and to one line where they do not fit."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from contextlib import redirect_stderr
from itertools import dropwhile, takewhile
from textwrap import dedent
from typing import Any

import tyro

from nnunet_ext.errors import InputError


def parse(verbs: dict[str, Any], prog: str, arguments: list[str]) -> Callable[[], None]:
    """The call that the arguments ask for.

    Raises:
        InputError: for arguments that do not fit; tyro would show them in a box of many lines.
    """

    if arguments and not arguments[0].startswith("-") and arguments[0] not in verbs:
        raise InputError(f"{arguments[0]}: no such command, one of {', '.join(verbs)} is needed; see {prog} --help")

    def later(verb: Callable[..., None]) -> Callable[..., Callable[[], None]]:
        @functools.wraps(verb)
        def bound(*given: Any, **named: Any) -> Callable[[], None]:
            return functools.partial(verb, *given, **named)

        return bound

    calls = {n: later(_table_help(n, verb) if isinstance(verb, dict) else verb) for n, verb in verbs.items()}
    shown = io.StringIO()
    # Only the parsing has its stderr caught, not what the verb does.
    try:
        with redirect_stderr(shown):
            return tyro.extras.subcommand_cli_from_dict(calls, prog=prog, args=arguments)
    except SystemExit as stop:
        if stop.code != 2:
            raise
    verb = f" {arguments[0]}" if arguments and arguments[0] in verbs else ""
    raise InputError(f"{_message(shown.getvalue())}; see {prog}{verb} --help")


def _message(box: str) -> str:
    """What tyro's box says above its first rule, in one line and without the help of flags, which is indented most."""

    def is_rule(row: str) -> bool:
        return not row.strip(" ─╰╯-")

    rows = [row.strip("│") for row in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:]]  # the first is its title
    rows = list(takewhile(lambda row: not is_rule(row), dropwhile(is_rule, rows)))
    rows = dedent("\n".join(rows)).splitlines()
    said = " ".join(row.strip() for row in rows if not row.startswith(" "))
    flags = "; ".join(row.strip() for row in rows if re.match(r" {4}\S", row))
    return f"{said} {flags}".strip().rstrip(".")


def _table_help(name: str, verbs: dict[str, Any]) -> Callable[[], None]:
    """What a table of verbs says of itself in the listing above it."""

    def table() -> None:
        raise InputError(f"{name}: one of {', '.join(verbs)} is needed")

    table.__doc__ = f"One of: {', '.join(verbs)}."
    return table
