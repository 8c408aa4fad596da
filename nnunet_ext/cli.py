"""The command line: one verb per stage, nothing but arguments and a lazy call."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from nnunet_ext.errors import InputError


def env(root: Path | None = None) -> None:
    """Print the export lines for nnU-Net's four variables.

    Use it as: eval "$(nnunet_ext env --root DIR)"

    Args:
        root: folder that holds raw, preprocessed and results; without it, what the variables say now, or ./nnunet.
    """
    from nnunet_ext.environment import export_lines

    print(export_lines(root))


# A verb is a function, or a table of verbs of its own (`nnunet_ext dataset acdc`).
VERBS: dict[str, Any] = {
    "env": env,
}


def main(arguments: list[str] | None = None) -> None:
    """Run one verb. Exit codes: 0 done, 2 the user's input is wrong, 1 anything else."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    prog, verbs = "nnunet_ext", VERBS
    while arguments and isinstance(verbs.get(arguments[0]), dict):
        verbs = verbs[arguments[0]]
        prog += f" {arguments.pop(0)}"
    try:
        tyro.extras.subcommand_cli_from_dict(
            {name: _table_help(name, verb) if isinstance(verb, dict) else verb for name, verb in verbs.items()},
            prog=prog,
            args=arguments,
        )
    except InputError as error:
        print(f"nnunet_ext: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _table_help(name: str, verbs: dict[str, Any]) -> Callable[[], None]:
    """What a table of verbs says of itself in the listing above it."""

    def table() -> None:
        raise InputError(f"{name}: one of {', '.join(verbs)} is needed")

    table.__doc__ = f"One of: {', '.join(verbs)}."
    return table
