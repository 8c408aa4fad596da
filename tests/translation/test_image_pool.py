from __future__ import annotations

import torch

from translation.image_pool import ImagePool


def test_fills_first_and_then_swaps_about_half():
    torch.manual_seed(0)
    pool = ImagePool(10)
    first = torch.arange(10.0)[:, None]
    assert torch.equal(pool.query(first), first)
    new = torch.arange(100.0, 300.0)[:, None]
    out = pool.query(new)
    swapped = (out != new).sum().item()
    assert 70 < swapped < 130
    assert len(pool.images) == 10
    # Nothing is invented: what comes out went in.
    assert set(out.flatten().tolist()) <= set(first.flatten().tolist()) | set(new.flatten().tolist())


def test_size_zero_passes_through():
    images = torch.randn(3, 1)
    assert ImagePool(0).query(images) is images


def test_state_continues_exactly():
    one, two = ImagePool(3), ImagePool(3)
    one.query(torch.randn(5, 2))
    two.load_state_dict(one.state_dict())
    images = torch.randn(20, 2)
    torch.manual_seed(1)
    first = one.query(images)
    torch.manual_seed(1)
    assert torch.equal(first, two.query(images))
