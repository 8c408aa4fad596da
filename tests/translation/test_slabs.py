from __future__ import annotations

import pytest
import torch

from translation.volume.consistency import consistency, slice_jump
from translation.volume.slabs import blend_weights, slab_indices, translate_volume


def test_indices_repeat_the_outermost_slice():
    assert slab_indices(3, 3).tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 2]]


def test_weights_are_a_triangle():
    assert blend_weights(3).tolist() == [0.5, 1.0, 0.5]
    assert blend_weights(1).tolist() == [1.0]


@pytest.mark.parametrize("slices", [1, 3, 5])
@pytest.mark.parametrize("depth", [1, 2, 7])
def test_identity_stays_identity(slices, depth):
    volume = torch.randn(depth, 6, 5)
    assert torch.allclose(translate_volume(lambda slab, _: slab, volume, None, slices), volume, atol=1e-6)


def test_blend_by_hand(monkeypatch):
    # A slab says of each of its slices the number of its own middle slice: slice 1 of 3 hears 0, 1 and 2 with
    # weights 1/2, 1, 1/2; slice 0 hears itself and 1 with weights 1, 1/2.
    volume = torch.arange(3.0)[:, None, None].expand(3, 2, 2)
    monkeypatch.setattr("translation.volume.slabs.PIXELS", 1)
    out = translate_volume(lambda slab, _: slab[:, 1:2].expand(-1, 3, -1, -1), volume, None, 3)
    assert out[:, 0, 0].tolist() == pytest.approx([(0 + 0.5) / 1.5, (0 + 1 + 1) / 2, (1 * 0.5 + 2) / 1.5])


def test_labels_of_the_middle_slices_go_along():
    labels = torch.arange(4)[:, None, None].expand(4, 2, 2)
    seen = []

    def translate(slab, middle):
        seen.extend(middle[:, 0, 0].tolist())
        return slab

    translate_volume(translate, torch.zeros(4, 2, 2), labels, 3)
    assert seen == [0, 1, 2, 3]


def test_jumps_are_measured_and_blending_reduces_them():
    torch.manual_seed(0)
    rows = torch.linspace(0, 6.28, 40)
    volume = torch.sin(rows[None, :, None] + 0.1 * torch.arange(8)[:, None, None]).expand(8, 40, 40)
    gains = torch.tensor([1.0, 2.0] * 4)

    def jumpy(slab, _):
        # What a 2D method does: the gain depends on the slab.
        return slab * gains[: len(slab), None, None, None]

    one = translate_volume(jumpy, volume, None, 1).numpy()
    three = translate_volume(jumpy, volume, None, 3).numpy()
    assert consistency(volume.numpy(), volume.numpy()) == 1
    assert consistency(one, volume.numpy()) > 2
    assert consistency(three, volume.numpy()) < 0.7 * consistency(one, volume.numpy())


def test_jump_does_not_depend_on_the_unit():
    volume = torch.randn(5, 20, 20).numpy()
    assert slice_jump(volume) == pytest.approx(slice_jump(-30 * volume + 7), rel=1e-4)
    assert slice_jump(volume[:1]) == 0
    assert slice_jump(0 * volume) == 0
