"""Logits on the scan's grid: the slab path against nnU-Net's full one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from made_models import configuration
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunet_ext.inference.resampling import Resampling, resample_by_class, resampling, slabs


def manager(**changes: Any) -> ConfigurationManager:
    return ConfigurationManager({**configuration((8, 16, 16), (2.0, 1.0, 1.0), (4, 8), 1), **changes})


def by_slabs(how: Resampling, logits: torch.Tensor, planes: int) -> torch.Tensor:
    starts = range(0, how.shape[0], planes)
    return torch.cat([how.slab(logits, s, min(s + planes, how.shape[0])) for s in starts], dim=1)


CASES = [
    ((7, 9, 11), (14, 20, 5), (2.0, 1.0, 1.0), (1.0, 0.45, 2.2), "all axes"),
    ((5, 9, 11), (12, 20, 25), (8.0, 1.0, 1.0), (3.3, 0.45, 0.44), "coarse slices"),
    ((9, 5, 11), (20, 12, 25), (1.0, 8.0, 1.0), (0.45, 3.3, 0.44), "coarse along the second axis"),
    ((6, 8, 8), (6, 13, 17), (9.0, 2.0, 2.0), (9.0, 1.2, 0.9), "slices stay"),
    ((6, 8, 8), (6, 8, 8), (9.0, 2.0, 2.0), (9.0, 2.0, 2.0), "nothing"),
    ((1, 8, 8), (3, 4, 16), (2.0, 2.0, 2.0), (1.0, 4.0, 1.0), "one slice"),
]


@pytest.mark.parametrize(("old", "new", "current", "target", "name"), CASES, ids=[c[-1] for c in CASES])
@pytest.mark.parametrize("order_z", [0, 1])
def test_slabs_equal_nnunet_s_resampling(
    old: tuple[int, ...], new: tuple[int, ...], current: Any, target: Any, name: str, order_z: int
) -> None:
    options = {"is_seg": False, "order": 1, "order_z": order_z, "force_separate_z": None}
    conf = manager(resampling_fn_probabilities_kwargs=options)
    logits = (torch.randn((3, *old), generator=torch.Generator().manual_seed(0)) * 4).half()
    expected = np.asarray(conf.resampling_fn_probabilities(logits.clone(), new, current, target))
    how = resampling(conf, new, current, target)
    assert how is not None
    for planes in (1, 4, 100):
        found = by_slabs(how, logits, planes).numpy()
        assert found.dtype == expected.dtype == np.float16
        # float32 here and float64 there: at most the last bit of float16, where a value lies between two of them.
        assert np.allclose(found, expected, rtol=2**-10, atol=1e-6)
        assert (found.argmax(0) == expected.argmax(0)).mean() > 0.998


def test_torch_resampling_of_nnunet_is_equal_too() -> None:
    conf = manager(
        resampling_fn_probabilities="resample_torch_fornnunet",
        resampling_fn_probabilities_kwargs={"is_seg": False, "force_separate_z": None},
    )
    logits = torch.randn((2, 5, 9, 11), generator=torch.Generator().manual_seed(1)).half()
    spacings = ((8.0, 1.0, 1.0), (3.3, 0.45, 0.44))
    how = resampling(conf, (12, 20, 25), *spacings)
    assert how is not None
    expected = conf.resampling_fn_probabilities(logits.clone(), (12, 20, 25), *spacings)
    assert torch.allclose(by_slabs(how, logits, 3), torch.as_tensor(expected).float(), atol=1e-5)


def test_another_order_goes_through_nnunet_class_by_class() -> None:
    options = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    conf = manager(resampling_fn_probabilities_kwargs=options)
    spacings = ((2.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    assert resampling(conf, (10, 6, 6), *spacings) is None
    logits = torch.randn((3, 5, 6, 6), generator=torch.Generator().manual_seed(2)).half()
    expected = np.asarray(conf.resampling_fn_probabilities(logits.clone(), (10, 6, 6), *spacings))
    found = resample_by_class(logits, conf.resampling_fn_probabilities, (10, 6, 6), spacings)
    assert np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize("shape", [(1, 2, 2), (7, 10, 10), (600, 512, 512)])
def test_slabs_cover_every_plane_once(shape: tuple[int, ...]) -> None:
    ranges = list(slabs(shape, 10, slab_bytes=1 << 20))
    assert [r[0] for r in ranges] == [0, *[r[1] for r in ranges[:-1]]]
    assert ranges[-1][1] == shape[0]
    assert all(a < b for a, b in ranges)
