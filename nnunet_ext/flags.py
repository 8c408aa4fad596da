"""Flags that take several values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from tyro.conf import UseAppendAction

from nnunet_ext.errors import InputError

T = TypeVar("T")
# Values of a flag that may follow one another or each have the flag before it: `--label A=1 B=2 --label C=3`. Without
# the marker the last flag would silently replace those before it.
Several = UseAppendAction[tuple[list[T], ...]]


def flat(groups: Iterable[Iterable[T]]) -> tuple[T, ...]:
    """The values of `Several` in the order given."""
    return tuple(value for group in groups for value in group)


def required(flag: str, groups: Iterable[Iterable[T]], needed: str) -> tuple[T, ...]:
    """As `flat`, for a flag that has to be given: the parser takes its absence for no values.

    Raises:
        InputError: when there is no value.
    """
    if not (values := flat(groups)):
        raise InputError(f"{flag}: none given, {needed} is needed")
    return values
