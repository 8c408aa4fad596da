from __future__ import annotations

import logging
import sys

import pytest
import torch
from matplotlib.image import imread

from nnunet_ext.errors import StageError
from translation.sampling import Batch
from translation.watch import PATIENCE, Board, Watch, image_grid, spread

FINE = {"discriminator": 0.25, "spread_output": 0.2, "spread_target": 0.3}


def test_spread_by_hand():
    assert spread(torch.tensor([[0.0, 1.0], [2.0, 1.0]])) == pytest.approx((2**0.5 + 0) / 2)
    assert spread(torch.ones(3, 1, 4, 4)) == 0
    assert spread(torch.randn(1, 1, 4, 4)) > 0


def test_winning_discriminator_is_told_once_and_again_after_recovery(caplog):
    caplog.set_level(logging.WARNING)
    watch, certain = Watch(), FINE | {"discriminator": 0.001}
    for epoch in range(PATIENCE - 1):
        assert watch.check(epoch, certain) == []
    assert "the discriminator wins" in watch.check(5, certain)[0]
    assert watch.check(6, certain)
    assert len(caplog.records) == 1
    assert watch.check(7, FINE) == []
    for epoch in range(PATIENCE):
        watch.check(8 + epoch, certain)
    assert len(caplog.records) == 2


def test_collapse_is_told():
    assert "collapses" in Watch().check(0, FINE | {"spread_output": 0.01})[0]
    assert Watch().check(0, FINE) == []


def test_nan_stops_the_fit():
    with pytest.raises(StageError, match="cycle is nan"):
        Watch().check(3, FINE | {"cycle": float("nan")})


def test_image_grid_is_written(tmp_path):
    labels = torch.zeros(2, 16, 16, dtype=torch.long)
    labels[0, 4:8, 4:8] = 2
    batch = Batch(torch.zeros(2, 3, 16, 16), torch.ones(2, 3, 16, 16), labels)
    image_grid(batch, batch.source, tmp_path / "grid.png")
    assert imread(tmp_path / "grid.png").std() > 0


def test_tensorboard_shows_terms_and_images(tmp_path):
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    board = Board(tmp_path)
    board.write(0, {"cycle": 0.5, "discriminator": 0.25}, None)
    board.write(1, {"cycle": 0.125, "discriminator": 0.25}, torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8))
    written = events.EventAccumulator(str(tmp_path))
    written.Reload()
    assert sorted(written.Tags()["scalars"]) == ["cycle", "discriminator"]
    assert [(e.step, e.value) for e in written.Scalars("cycle")] == [(0, 0.5), (1, 0.125)]
    (tag,) = written.Tags()["images"]
    assert [(e.step, e.width) for e in written.Images(tag)] == [(1, 8)]


def test_without_tensorboard_nothing_is_written(tmp_path, monkeypatch):
    # None makes an import fail as that of a missing package does.
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    Board(tmp_path).write(0, {"cycle": 0.5}, None)
    assert list(tmp_path.iterdir()) == []
