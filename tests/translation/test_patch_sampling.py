from __future__ import annotations

import numpy as np
import torch

from translation.sampling import Batches
from translation.settings import TranslationSettings
from translation.volume.cache import CachedCase
from translation.volume.intensity import Curve

SETTINGS = TranslationSettings(batch_size=3, crop=(64, 72), slices=3, flips=False)


def case(shape, region=None, labels=True, name="a"):
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return CachedCase(
        name=name,
        image=image,
        labels=(image % 3).astype(np.int16) if labels else None,
        voxel=(5.0, 1.0, 1.0),
        curve=Curve((0.0, float(image.max())), (-1.0, 1.0)),
        region=region or tuple(slice(0, n) for n in shape),
    )


def batches(source, target=None, settings=SETTINGS, rank=0):
    return Batches([source], [target or case((4, 80, 80), labels=False)], settings, rank)


def test_shapes_and_range():
    batch = batches(case((5, 90, 100))).batch(0)
    assert batch.source.shape == batch.target.shape == (3, 3, 64, 72)
    assert batch.labels.shape == (3, 64, 72)
    assert batch.labels.dtype == torch.int64
    assert -1 <= batch.source.min() < batch.source.max() <= 1


def test_a_batch_depends_on_seed_rank_and_index_only():
    one, two = batches(case((5, 90, 100))), batches(case((5, 90, 100)))
    one.batch(0)
    assert torch.equal(one.batch(7).source, two.batch(7).source)
    assert not torch.equal(one.batch(7).source, one.batch(8).source)
    assert not torch.equal(one.batch(7).source, batches(case((5, 90, 100)), rank=1).batch(7).source)
    other = SETTINGS.model_copy(update={"seed": 1})
    assert not torch.equal(one.batch(7).source, batches(case((5, 90, 100)), settings=other).batch(7).source)


def test_sample_to_look_at_is_always_the_same():
    one, two = batches(case((5, 90, 100))), batches(case((5, 90, 100)), rank=1)
    assert one.sample(5).source.shape[0] == 5
    assert torch.equal(one.sample(5).source, two.sample(5).source)


def test_labels_belong_to_the_middle_slice_also_when_flipped():
    source = case((5, 90, 100))
    settings = SETTINGS.model_copy(update={"flips": True})
    top = source.image.max()
    for index in range(5):
        batch = batches(source, settings=settings).batch(index)
        values = ((batch.source[:, 1] + 1) / 2 * top).round().long()
        assert torch.equal(values % 3, batch.labels)


def test_slices_beyond_the_ends_repeat():
    source = case((2, 64, 72))
    for index in range(4):
        for slab in batches(source).batch(index).source:
            first, middle, last = slab
            assert torch.equal(first, middle) or torch.equal(middle, last)


def test_small_scan_is_centred_in_background():
    batch = batches(case((3, 20, 30))).batch(0)
    assert (batch.source[:, :, :22] == -1).all()
    assert (batch.source[:, :, 42:] == -1).all()
    assert (batch.source[:, :, 22:42, 21:51] > -1).any()
    assert (batch.labels[:, :22] == 0).all()


def test_crops_stay_in_the_region():
    region = (slice(1, 3), slice(10, 80), slice(20, 95))
    source = case((6, 200, 200), region)
    for index in range(10):
        values = (batches(source).batch(index).source[:, 1] + 1) / 2 * source.image.max()
        z, rest = values.round().long() // 40000, values.round().long() % 40000
        assert set(z.flatten().tolist()) <= {1, 2}
        # float32 keeps the row exactly up to the rounding of the scaling
        assert (rest // 200).min() >= 9
        assert (rest // 200).max() <= 80


def test_epoch_is_the_source_slices_of_the_region():
    assert batches(case((6, 90, 90), (slice(1, 4), slice(0, 90), slice(0, 90)))).source_slices == 3


def test_further_label_sets_are_cut_alike():
    source = case((5, 90, 100))
    assert source.labels is not None
    both = Batches([source], [source], SETTINGS, further={"parts": [source.labels + 10]}).batch(0)
    assert torch.equal(both.further["parts"], both.labels + 10)
