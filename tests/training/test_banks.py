from __future__ import annotations

import pytest
import torch

from nnunet_ext.training.banks import Bank


def bank(capacity: int) -> Bank:
    return Bank(capacity, {"feature": ((2,), torch.float32), "label": ((), torch.int16)})


def push(target: Bank, *values: int) -> None:
    numbers = torch.tensor(values)
    target.push(feature=torch.stack((numbers, -numbers), 1).float(), label=numbers)


def test_first_in_first_out():
    b = bank(4)
    push(b, 1, 2, 3)
    assert len(b) == 3
    assert b.fill == 0.75
    push(b, 4, 5)
    assert sorted(b.rows()["label"].tolist()) == [2, 3, 4, 5]
    push(b, 6, 7, 8)
    assert sorted(b.rows()["label"].tolist()) == [5, 6, 7, 8]
    assert torch.equal(b.rows()["feature"][:, 0], b.rows()["label"].float())


def test_more_rows_than_room():
    b = bank(3)
    push(b, 1, 2)
    push(b, *range(10, 20))
    assert sorted(b.rows()["label"].tolist()) == [17, 18, 19]
    push(b, 20)
    assert sorted(b.rows()["label"].tolist()) == [18, 19, 20]


def test_sample_has_no_row_twice_and_keeps_columns_together():
    b = bank(50)
    push(b, *range(40))
    rows = b.sample(25)
    assert len(rows["label"].unique()) == 25
    assert torch.equal(rows["feature"][:, 0], rows["label"].float())
    assert len(b.sample(100)["label"]) == 40
    assert len(bank(5).sample(3)["label"]) == 0


def test_keeps_no_gradient():
    b = bank(4)
    feature = torch.ones(1, 2, requires_grad=True)
    b.push(feature=2 * feature, label=torch.tensor([1]))
    assert not b.rows()["feature"].requires_grad


@pytest.mark.parametrize("filled", [0, 3, 7])
def test_goes_on_from_its_state(filled):
    one, other = bank(5), bank(5)
    push(one, *range(filled))
    other.load_state_dict(one.state_dict())
    for b in (one, other):
        push(b, 100, 101, 102)
    assert torch.equal(one.rows()["label"], other.rows()["label"])
    assert torch.equal(one.rows()["feature"], other.rows()["feature"])


@pytest.mark.parametrize(("capacity", "filled"), [(9, 9), (5, 5), (5, 7), (9, 6)])
def test_a_state_of_another_size_is_refused(capacity, filled):
    """Fewer rows in a larger bank too, where the ring has come round: rows never written would count as remembered."""
    other = bank(capacity)
    push(other, *range(filled))
    with pytest.raises(ValueError, match=f"{min(filled, capacity)} rows"):
        bank(5 if capacity == 9 else 9).load_state_dict(other.state_dict())
