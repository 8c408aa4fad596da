"""Progress off a terminal: silence, but for a line a minute."""

from __future__ import annotations

import pytest

from nnunet_ext import progress as module
from nnunet_ext.progress import duration, progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands where its one number says."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def work(clock: list[float], seconds: float, **options: int) -> list[int]:
    done = []
    for item in progress(options.pop("items", range(10)), "predicting", **options):
        clock[0] += seconds
        done.append(item)
    return done


def test_a_short_step_says_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    assert work(clock, 5.9) == list(range(10))
    assert capsys.readouterr().err == ""


def test_a_long_step_has_a_line_a_minute_with_what_is_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert work(clock, 25) == list(range(10))
    # Told when the next item begins: after 75, 150 and 225 s.
    assert capsys.readouterr().err.splitlines() == [
        "predicting: 3/10, about 2 min 55 s left",
        "predicting: 6/10, about 1 min 40 s left",
        "predicting: 9/10, about 25 s left",
    ]


def test_without_a_length_it_tells_what_is_done(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    assert work(clock, 70, items=iter(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err.splitlines() == [
        "predicting: 1 done in 1 min 10 s",
        "predicting: 2 done in 2 min 20 s",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (75, "1 min 15 s"), (3600, "1 h 0 min"), (7384, "2 h 3 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
