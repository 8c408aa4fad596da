"""The table of loss terms."""

from __future__ import annotations

import torch

from nnunet_ext.training.terms import Terms


def test_means_of_an_epoch_from_floats_and_tensors(tmp_path):
    terms = Terms(tmp_path)
    terms.add(loss=1.0, dice=torch.tensor(0.5, requires_grad=True))
    terms.add(loss=torch.tensor(2.0), extra=4)
    assert terms.means() == {"loss": 1.5, "dice": 0.5, "extra": 4.0}
    assert terms.means() == {}


def test_table_has_a_row_per_epoch_and_gaps_where_a_term_was_absent(tmp_path):
    terms = Terms(tmp_path)
    terms.close_epoch(0, {"loss": 1.5})
    terms.close_epoch(1, {"loss": 0.25, "late": 2.0})
    assert (tmp_path / "terms.csv").read_text().split() == ["epoch,loss,late", "0,1.5,", "1,0.25,2.0"]
    assert (tmp_path / "terms.png").read_bytes().startswith(b"\x89PNG")


def test_resuming_keeps_what_was_before_the_epoch(tmp_path):
    terms = Terms(tmp_path)
    for epoch in range(3):
        terms.close_epoch(epoch, {"loss": epoch + 0.125})
    table = (tmp_path / "terms.csv").read_text()
    again = Terms(tmp_path)
    again.resume(2)
    assert [row["loss"] for row in again.rows] == [0.125, 1.125]
    again.close_epoch(2, {"loss": 2.125})
    assert (tmp_path / "terms.csv").read_text() == table


def test_a_fresh_start_does_not_take_over_an_old_table(tmp_path):
    Terms(tmp_path).close_epoch(0, {"loss": 9.0})
    fresh = Terms(tmp_path)
    fresh.close_epoch(0, {"loss": 1.0})
    assert (tmp_path / "terms.csv").read_text().split() == ["epoch,loss", "0,1.0"]


def test_resuming_without_a_table(tmp_path):
    terms = Terms(tmp_path)
    terms.resume(5)
    assert terms.rows == []
