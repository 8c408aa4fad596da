from __future__ import annotations

import math

import pytest
import torch

from nnunet_ext.losses.registration_contrastive import cell_keys, combined_positives, registered_positives

ORIGIN = torch.zeros(3)


def brute_force(frame, position, case, b_frame, b_position, b_case, b_features, cell):
    def place(f, p):
        return (f, *(math.floor(x / cell) for x in p.tolist()))

    means, found = [], []
    for f, p, c in zip(frame.tolist(), position, case.tolist(), strict=True):
        by_volume: dict[int, list[torch.Tensor]] = {}
        for bf, bp, bc, feature in zip(b_frame.tolist(), b_position, b_case.tolist(), b_features, strict=True):
            if f >= 0 and place(bf, bp) == place(f, p) and bc != c:
                by_volume.setdefault(bc, []).append(feature)
        volumes = [torch.stack(v).mean(0) for v in by_volume.values()]
        found.append(bool(volumes))
        means.append(torch.stack(volumes).mean(0) if volumes else torch.zeros(b_features.shape[1], dtype=p.dtype))
    return torch.stack(means), torch.tensor(found)


def test_agrees_with_the_sum_written_out():
    g = torch.Generator().manual_seed(0)

    def side(n):
        return (
            torch.randint(-1, 2, (n,), generator=g),
            20 * torch.rand(n, 3, dtype=torch.float64, generator=g) - 10,
            torch.randint(0, 4, (n,), generator=g),
        )

    anchors, bank = side(50), side(200)
    features = torch.randn(200, 5, dtype=torch.float64, generator=g)
    mean, found = brute_force(*anchors, *bank, features, 6.0)
    assert 5 < found.sum() < 45
    keys, bank_keys = (cell_keys(s[0], s[1], 6.0, ORIGIN) for s in (anchors, bank))
    got, got_found = registered_positives(keys, anchors[2], bank_keys, bank[2], features)
    assert torch.equal(got_found, found)
    assert torch.allclose(got, mean)


def key(x: float, frame: int = 0, offset: float = 0.0) -> torch.Tensor:
    return cell_keys(torch.tensor([frame]), torch.tensor([[x, 0.5, 0.5]]), 2.0, torch.full((3,), offset))


@pytest.mark.parametrize(
    ("bank_x", "bank_frame", "bank_case", "expected"),
    [(1.9, 0, 2, True), (2.1, 0, 2, False), (-0.1, 0, 2, False), (1.9, 1, 2, False), (1.9, 0, 1, False)],
)
def test_partners_share_frame_and_cell_but_not_the_volume(bank_x, bank_frame, bank_case, expected):
    _, found = registered_positives(
        key(0.1), torch.tensor([1]), key(bank_x, bank_frame), torch.tensor([bank_case]), torch.ones(1, 4)
    )
    assert found.item() is expected


def test_the_grid_can_be_shifted():
    assert key(1.9) != key(2.1)
    assert key(1.9, offset=1.0) == key(2.1, offset=1.0)


def test_a_pixel_without_a_frame_has_no_partner_even_among_its_like():
    assert key(0.1, frame=-1) < 0
    _, found = registered_positives(key(0.1, -1), torch.tensor([1]), key(0.1, -1), torch.tensor([2]), torch.ones(1, 4))
    assert not found.any()


def test_an_empty_bank_finds_nobody():
    empty = torch.zeros(0, dtype=torch.long)
    mean, found = registered_positives(torch.arange(3), torch.zeros(3), empty, empty, torch.zeros(0, 4))
    assert mean.shape == (3, 4)
    assert not found.any()


def test_keys_are_mixed_only_where_a_partner_was_found():
    keys = combined_positives(
        torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([True, False]), 0.25, 0.75
    )
    assert keys.tolist() == [[0.25, 0.75], [1.0, 0.0]]
