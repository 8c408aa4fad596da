from __future__ import annotations

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet, ResidualUNet
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.networks.swin import swin_unet
from nnunet_ext.training.students import (
    LogitMean,
    StudentPair,
    decoder_levels,
    nearest_levels,
    predictor,
    set_deep_supervision,
    unet_outputs,
)

SIZES = {2: (32, 24), 3: (8, 16, 16)}


def unet(dim: int = 2, kind: type[nn.Module] = PlainConvUNet, deep_supervision: bool = True) -> nn.Module:
    blocks = "n_conv_per_stage" if kind is PlainConvUNet else "n_blocks_per_stage"
    first = [1, 2, 2][-dim:]
    return kind(
        1,
        4,
        [4, 6, 8, 10],
        (nn.Conv2d, nn.Conv3d)[dim - 2],
        3,
        [[1] * dim, first, [2] * dim, [2] * dim],
        **{blocks: [1] * 4},
        n_conv_per_stage_decoder=[1] * 3,
        num_classes=3,
        conv_bias=True,
        norm_op=(nn.InstanceNorm2d, nn.InstanceNorm3d)[dim - 2],
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=deep_supervision,
    )


def swin(dim: int = 2) -> nn.Module:
    options = {} if dim == 2 else {"patch_strides": (1, 2, 2), "merge_strides": ((2, 2, 2), (1, 1, 1), (1, 1, 1))}
    return swin_unet(1, 3, dim, embed_dim=12, num_heads=(1, 2, 2, 4), window_size=4, **options)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", [PlainConvUNet, ResidualEncoderUNet, ResidualUNet])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_a_unet_run_from_outside_gives_what_it_gives_itself(dim, kind, deep_supervision):
    network = unet(dim, kind, deep_supervision).eval()
    x = torch.randn(2, 1, *SIZES[dim])
    own = network(x)
    logits, features = unet_outputs(network, x)
    for one, other in zip(logits, own if deep_supervision else [own], strict=True):
        assert torch.equal(one, other)
    channels, reductions = decoder_levels(network)
    assert [f.shape[1] for f in features] == channels
    assert [max(n / m for n, m in zip(x.shape[2:], f.shape[2:], strict=True)) for f in features] == reductions


@pytest.mark.parametrize("dim", [2, 3])
def test_a_transformer_tells_its_levels_truly(dim):
    network = swin(dim).eval()
    x = torch.randn(1, 1, *SIZES[dim])
    _, features = network.forward_features(x)
    channels, reductions = decoder_levels(network)
    assert [f.shape[1] for f in features] == channels
    for feature, reduction in zip(features, reductions, strict=True):
        assert min(feature.shape[2:]) >= min(x.shape[2:]) / reduction - 1


def test_levels_nearest_to_the_scales():
    assert nearest_levels([1, 2, 4, 8, 16], [1, 8]) == [0, 3]
    assert nearest_levels([1, 4, 8, 16], [1, 8]) == [0, 2]
    assert nearest_levels([1, 2, 4], [1, 8]) == [0, 2]
    assert nearest_levels([1, 2, 4], []) == []


def test_no_level_serves_two_scales():
    assert nearest_levels([1, 2, 4], [4, 8]) == [1, 2]
    assert sorted(nearest_levels([8, 8], [4, 8])) == [0, 1]  # DeepLab
    with pytest.raises(InputError, match="scales: 3 of them, the network has 2 levels"):
        nearest_levels([1, 4], [1, 4, 8])


@pytest.mark.parametrize("dim", [2, 3])
def test_a_pair_gives_features_of_both_at_one_scale(dim):
    pair = StudentPair(unet(dim), swin(dim), scales=(1, 4))
    x = torch.randn(2, 1, *SIZES[dim])
    first, second = pair(x)
    assert len(first.logits) == 3
    assert len(second.logits) == 1
    assert second.logits[0].shape == first.logits[0].shape == (2, 3, *SIZES[dim])
    for scale in range(2):
        assert (first.features[scale].shape[1], second.features[scale].shape[1]) == pair.channels[scale]
        assert first.features[scale].shape[2:] == second.features[scale].shape[2:]


def test_nothing_of_a_student_is_patched_or_added():
    network = unet()
    before = list(network.state_dict())
    pair = StudentPair(network, unet(), (1,))
    pair(torch.randn(1, 1, 16, 16))
    assert list(network.state_dict()) == before
    assert not network._forward_hooks
    assert [k.removeprefix("first.") for k in pair.state_dict() if k.startswith("first.")] == before


def test_a_network_of_another_kind_is_refused():
    with pytest.raises(InputError, match=r"Conv2d.*U-Nets are needed"):
        StudentPair(unet(), nn.Conv2d(1, 3, 1))


def test_who_predicts():
    pair = StudentPair(unet(deep_supervision=True), unet(deep_supervision=False)).eval()
    x = torch.randn(1, 1, 16, 16)
    assert predictor(pair, "first") is pair.first
    assert predictor(pair, "second") is pair.second
    both = predictor(pair, "mean")
    assert isinstance(both, LogitMean)
    assert torch.allclose(both(x), (pair.first(x)[0] + pair.second(x)) / 2)
    assert list(both.state_dict()) == list(pair.state_dict())
    # It shares the students' weights: loading into it changes them.
    both.load_state_dict({k: torch.zeros_like(v) for k, v in both.state_dict().items()})
    assert pair.first(x)[0].abs().sum() == 0


def test_deep_supervision_is_switched_where_there_is_some():
    pair = StudentPair(unet(), swin())
    for module in pair.modules():
        set_deep_supervision(module, False)
    assert not pair.first.decoder.deep_supervision
    assert len(pair(torch.randn(1, 1, 16, 16))[0].logits) == 1


@pytest.mark.slow
def test_a_pair_compiles_in_one_graph():
    pair = StudentPair(unet(), swin(), (1, 4)).eval()
    x = torch.randn(2, 1, 32, 32)
    explanation = torch._dynamo.explain(pair)(x)
    assert explanation.graph_break_count == 0
    compiled = torch.compile(pair, backend="aot_eager")
    for one, other in zip(compiled(x), pair(x), strict=True):
        assert torch.allclose(one.logits[0], other.logits[0], atol=1e-5)
