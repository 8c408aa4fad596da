from __future__ import annotations

import pytest
import torch

from nnunet_ext.losses.contrastive import balanced_contrastive_loss
from nnunet_ext.losses.sampling import patch_groups, sample_per_class, spread_draws


def test_every_class_gets_its_share_and_a_rare_one_is_taken_whole():
    labels = torch.tensor([0] * 90 + [2] * 7 + [5] * 3 + [-1] * 20)
    index, weight = sample_per_class(labels, 15)
    assert torch.bincount(labels[index]).tolist() == [6, 0, 6, 0, 0, 3]
    assert weight[labels[index] == 0].tolist() == [15.0] * 6
    assert weight[labels[index] == 5].tolist() == [1.0] * 3
    assert weight.sum().item() == pytest.approx(100)
    assert len(index.unique()) == 15


def test_fewer_pixels_than_asked_for():
    index, weight = sample_per_class(torch.tensor([-1, 4, -1, 0]), 10)
    assert sorted(index.tolist()) == [1, 3]
    assert weight.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("labels", [[], [-1, -1]])
def test_nothing_to_draw(labels):
    index, weight = sample_per_class(torch.tensor(labels, dtype=torch.long), 10)
    assert index.shape == weight.shape == (0,)


def test_more_classes_than_draws():
    index, _ = sample_per_class(torch.arange(10), 4)
    assert len(index) == 4


def test_within_a_class_the_draw_is_even():
    torch.manual_seed(0)
    hits = torch.zeros(10)
    for _ in range(2000):
        drawn = spread_draws(10, 3)
        assert len(drawn.unique()) == 3
        hits[drawn] += 1
    assert hits.sum() == 6000
    # Stretches of 3, 3 and 4: each number is drawn in a third or a quarter of the rounds.
    assert hits.min() > 2000 * 0.2
    assert hits.max() < 2000 * 0.4


def test_weighted_draws_estimate_the_loss_of_all_pixels():
    torch.manual_seed(0)
    labels = torch.tensor([0] * 300 + [1] * 60 + [2] * 20)[torch.randperm(380)]
    features = torch.randn(380, 8, dtype=torch.float64) + torch.eye(8, dtype=torch.float64)[labels]
    full = balanced_contrastive_loss(features, labels, 0.5)
    draws = []
    for _ in range(60):
        index, weight = sample_per_class(labels, 120)
        draws.append(balanced_contrastive_loss(features[index], labels[index], 0.5, weight))
    assert torch.stack(draws).mean().item() == pytest.approx(full.item(), rel=0.02)


def test_groups_cover_every_pixel_of_every_map_once():
    groups = patch_groups((5, 7), 3, maps=4, groups=None)
    assert groups.shape == (6, 4, 9)
    for m in range(4):
        seen = groups[:, m].flatten()
        assert torch.equal(seen[seen >= 0].sort().values, torch.arange(35))


def test_a_patch_is_a_square_of_neighbours():
    groups = patch_groups((4, 6), 2, maps=1, groups=None)
    patches = sorted(tuple(g.flatten().tolist()) for g in groups)
    assert patches == [(y * 6 + x, y * 6 + x + 1, y * 6 + x + 6, y * 6 + x + 7) for y in (0, 2) for x in (0, 2, 4)]


def test_maps_are_grouped_at_random():
    torch.manual_seed(0)
    groups = patch_groups((8, 8), 2, maps=2, groups=None)
    assert (groups[:, 0, 0] != groups[:, 1, 0]).any()


def test_three_axes_and_a_limit_on_groups():
    groups = patch_groups((4, 4, 2), 4, maps=3, groups=5)
    assert groups.shape == (1, 3, 32)
    groups = patch_groups((8, 8, 8), 4, maps=2, groups=5)
    assert groups.shape == (5, 2, 64)
    first = groups[0, 0]
    for axis in (first // 64, first // 8 % 8, first % 8):
        assert (axis.max() - axis.min()).item() == 3
