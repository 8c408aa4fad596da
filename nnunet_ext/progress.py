"""Progress with an estimate: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 60.0


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items`, telling on stderr how far it is and how long it will take.

    Args:
        items: anything iterable; its length is used where it has one.
        what: what is being done, as a person would say it ("predicting").
        total: number of items where `items` has no length.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, unit="", dynamic_ncols=True)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and done:
            last = now
            print(f"{what}: {_state(done, total, now - start)}", file=sys.stderr, flush=True)
        yield item


def _state(done: int, total: int | None, seconds: float) -> str:
    if not total:
        return f"{done} done in {duration(seconds)}"
    return f"{done}/{total}, about {duration(seconds / done * (total - done))} left"


def duration(seconds: float) -> str:
    """`75` -> `1 min 15 s`; whole seconds, hours from 60 minutes on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
