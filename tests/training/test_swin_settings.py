"""Networks of the supervised Transformers as the plans ask for them."""

from __future__ import annotations

import pytest
import torch

from nnunet_ext.training.settings import SECTIONS, section_class
from nnunet_ext.training.swin import CSUNetSettings, SwinSettings, build_network, planned_strides

DEEP_2D = [[1, 1]] + [[2, 2]] * 6


@pytest.mark.parametrize(
    ("patch_size", "pooling", "merges", "patch", "expected"),
    [
        # As published: 4 x 4 patches and three halvings.
        ([224, 224], DEEP_2D, 3, (4, 4), ((2, 2), (2, 2), (2, 2))),
        # Five stages plan four poolings: the last merging goes on, down to 4 tokens.
        ([128, 128], DEEP_2D[:5], 3, (4, 4), ((2, 2), (2, 2), (2, 2))),
        ([64, 128], DEEP_2D[:5], 3, (4, 4), ((2, 2), (2, 2), (1, 2))),
        # An anisotropic volume keeps its slices as long as the plans do.
        (
            [20, 256, 224],
            [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 2]],
            3,
            (2, 4, 4),
            ((2, 2, 2), (1, 2, 2), (1, 2, 2)),
        ),
        ([32, 32], [[1, 1], [2, 2]], 1, (2, 2), ((2, 2),)),
        ([6, 6], [[1, 1]], 2, (1, 1), ((1, 1), (1, 1))),
    ],
)
def test_strides_follow_the_plans(patch_size, pooling, merges, patch, expected):
    assert planned_strides(patch_size, pooling, merges) == (patch, expected)


class Configuration:
    patch_size = (8, 40, 32)
    pool_op_kernel_sizes = ([1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2])


SMALL = {"embed_dim": 8, "depths": [1, 1], "decoder_depths": [1], "num_heads": [1, 2], "window_size": 4}


@pytest.mark.parametrize("settings", [SwinSettings, CSUNetSettings])
def test_network_of_the_settings(settings):
    network = build_network(settings(**SMALL), Configuration, 2, 3)
    assert network(torch.zeros(1, 2, 8, 40, 32)).shape == (1, 3, 8, 40, 32)
    assert network.feature_scales[1] == [1, 1 / 4, 1 / 4]


def test_strides_can_be_set():
    settings = SwinSettings(**SMALL, patch_strides=[1, 2, 2], merge_strides=[[1, 2, 2]])
    assert build_network(settings, Configuration, 1, 2).feature_scales[1] == [1, 1 / 2, 1 / 2]


def test_published_sizes():
    class Published:
        patch_size = (224, 224)
        pool_op_kernel_sizes = DEEP_2D

    swin = build_network(SwinSettings(), Published, 1, 9)
    assert sum(p.numel() for p in swin.parameters()) == 27_168_900 - 2 * 96 * 4 * 4  # one input channel, not three
    csunet = build_network(CSUNetSettings(), Published, 1, 9)
    assert sum(p.numel() for p in csunet.parameters()) == pytest.approx(24.68e6, rel=1e-3)


def test_every_section_has_a_class_whose_defaults_are_valid():
    for name in SECTIONS:
        cls = section_class(name)
        assert cls(**cls().model_dump()) == cls()
        assert all(field.description for field in cls.model_fields.values())
