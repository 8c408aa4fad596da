"""The whole network: published sizes, shapes, gradients, deep supervision, compilation."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.networks.swin import TABLE_3_3, SwinUNet, csunet, swin_unet

TINY = {"embed_dim": 8, "num_heads": (1, 2, 2, 4), "depths": (2, 2, 2, 2), "window_size": 3}
ANISOTROPIC = {"patch_strides": (1, 4, 4), "merge_strides": ((1, 2, 2), (2, 2, 2), (1, 1, 1))}


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def tiny(spatial_dims: int, seed: int = 0, **options) -> SwinUNet:
    torch.manual_seed(seed)
    geometry = ANISOTROPIC if spatial_dims == 3 else {}
    return SwinUNet(1, 3, spatial_dims, **{**TINY, **geometry, **options})


@pytest.mark.parametrize(("row", "millions"), list(enumerate([27.15, 21.55, 21.55, 19.63, 19.84, 24.68, 24.68])))
def test_parameters_of_table_3_3(row: int, millions: float) -> None:
    with torch.device("meta"):
        network = SwinUNet(3, 9, **TABLE_3_3[row])
    assert count(network) == pytest.approx(millions * 1e6, rel=1e-3)


def test_parameters_of_swin_unet_and_csunet() -> None:
    with torch.device("meta"):
        assert count(swin_unet(3, 9)) == 27_168_900
        # By hand: two LayerScales of all 14 blocks' channels, 2 (96 + 192 + 384 + 768) + 2 (384 + 192 + 96).
        assert count(csunet(3, 9)) - count(csunet(3, 9, layer_scale=None)) == 2 * 4224
        assert count(csunet(3, 9)) == pytest.approx(24.69e6, rel=1e-3)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("row", range(len(TABLE_3_3)))
def test_every_parameter_gets_a_gradient(row: int, spatial_dims: int) -> None:
    network = tiny(spatial_dims, **TABLE_3_3[row], layer_scale=0.5, deep_supervision=row % 2 == 0)
    image = torch.randn(1, 1, *((48, 48) if spatial_dims == 2 else (4, 32, 32)))
    outputs = network(image)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    sum((o * torch.randn_like(o)).sum() for o in outputs).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # The softmax cannot see what is added to all keys, in any Transformer.
        if not name.endswith("qkv_convs.1.conv.bias"):
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("build", [swin_unet, csunet])
@pytest.mark.parametrize("size", [(32, 32), (33, 50), (5, 7), (1, 1)])
def test_any_size_in_2d(build, size: tuple[int, ...]) -> None:
    network = build(2, 5, 2, **TINY).eval()
    assert network(torch.randn(2, 2, *size)).shape == (2, 5, *size)


@pytest.mark.parametrize("build", [swin_unet, csunet])
@pytest.mark.parametrize("size", [(10, 32, 24), (3, 17, 9)])
def test_any_size_in_3d_with_few_slices(build, size: tuple[int, ...]) -> None:
    network = build(1, 2, 3, **TINY, **ANISOTROPIC).eval()
    logits, features = network.forward_features(torch.randn(1, 1, *size))
    assert logits.shape == (1, 2, *size)
    assert features[1].shape[2] == size[0], "patches of one slice keep every slice"


def test_padding_an_image_to_whole_patches_is_padding_with_zeros() -> None:
    network = tiny(2).eval()
    image = torch.randn(1, 1, 30, 45)
    padded = nn.functional.pad(image, (0, 3, 0, 2))
    torch.testing.assert_close(network(image), network(padded)[..., :30, :45])


def test_evaluation_is_deterministic_and_samples_do_not_mix() -> None:
    network = csunet(1, 3, **TINY, layer_scale=0.5).eval()
    image = torch.randn(3, 1, 40, 36)
    together = network(image)
    assert torch.equal(together, network(image))
    torch.testing.assert_close(network(image[1:2]), together[1:2], rtol=1e-4, atol=1e-5)


def test_training_draws_dropout_and_drop_path_from_the_seed() -> None:
    network = csunet(1, 3, **TINY, layer_scale=0.5)
    image = torch.randn(2, 1, 32, 32)
    torch.manual_seed(3)
    first, second = network(image), network(image)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(network(image), first)


def test_deep_supervision_matches_the_targets_of_nnunet() -> None:
    network = tiny(3, deep_supervision=True)
    size = (5, 30, 41)
    outputs = network(torch.randn(1, 1, *size))
    scales = network.deep_supervision_scales
    assert scales == [[1, 1, 1], [1, 1 / 4, 1 / 4], [1, 1 / 8, 1 / 8], [1 / 2, 1 / 16, 1 / 16]]
    targets = DownsampleSegForDSTransform(scales)(segmentation=torch.zeros(1, *size))["segmentation"]
    assert [o.shape[2:] for o in outputs] == [t.shape[1:] for t in targets]
    network.deep_supervision = False
    assert torch.is_tensor(network(torch.randn(1, 1, *size)))


def test_without_deep_supervision_there_is_nothing_of_it() -> None:
    network = tiny(2)
    assert network.deep_supervision_scales == [[1, 1]]
    assert not list(network.auxiliary_classifiers.parameters())


def test_features_are_the_decoders_finest_first() -> None:
    network = tiny(2).eval()
    image = torch.randn(1, 1, 64, 48)
    logits, features = network.forward_features(image)
    assert torch.equal(logits, network(image))
    assert [f.shape[1] for f in features] == list(network.feature_channels) == [8, 8, 16, 32]
    assert [tuple(f.shape[2:]) for f in features] == [(64, 48), (16, 12), (8, 6), (4, 3)]
    assert network.feature_scales == [[1, 1], [1 / 4] * 2, [1 / 8] * 2, [1 / 16] * 2]
    weight = network.classifier.weight
    torch.testing.assert_close(torch.einsum("kc,bchw->bkhw", weight, features[0]), logits)


@pytest.mark.parametrize(
    ("build", "sizes", "backend"),
    [
        (csunet, [(20, 20), (36, 28)], "eager"),
        (swin_unet, [(8, 20, 20)], "eager"),
        pytest.param(csunet, [(20, 20), (36, 28)], "aot_eager", marks=pytest.mark.slow),
    ],
)
def test_compiles_as_one_graph(build, sizes: list[tuple[int, ...]], backend: str) -> None:
    options = {"embed_dim": 4, "depths": (2, 1), "decoder_depths": (1,), "num_heads": (1, 2), "window_size": 3}
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = build(1, 2, len(sizes[0]), **options, dropout=0.0, drop_path=0.0, layer_scale=1.0, deep_supervision=True)
    compiled = torch.compile(network, fullgraph=True, backend=backend)
    for size in sizes:  # a second shape makes PyTorch try for a graph of any shape
        image = torch.randn(1, 1, *size)
        network.zero_grad()
        expected = network(image)
        outputs = compiled(image)
        for ours, plain in zip(outputs, expected, strict=True):
            torch.testing.assert_close(ours, plain)
        plain_gradients = torch.autograd.grad(sum(o.square().mean() for o in expected), network.parameters())
        sum(o.square().mean() for o in outputs).backward()
        for parameter, plain in zip(network.parameters(), plain_gradients, strict=True):
            torch.testing.assert_close(parameter.grad, plain)


def test_state_dict_is_the_parameters_alone() -> None:
    network = tiny(2)
    network(torch.randn(1, 1, 20, 36))  # fills the caches
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}


def test_drop_path_grows_down_the_encoder_and_shrinks_up_the_decoder() -> None:
    network = tiny(2, drop_path=0.7)
    down, up = (
        [block.residuals[0].drop_path for stage in stages for block in stage]
        for stages in (network.encoder, network.decoder)
    )
    assert down == pytest.approx([0.1 * i for i in range(8)])
    assert up[0] == 0.7
    assert up[-1] == 0
    assert all(a > b for a, b in pairwise(up))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims: 4"),
        ({"projection": "conv"}, "projection: 'conv'"),
        ({"depths": (2, 2)}, "decoder_depths: 3 entries, 1 are needed"),
        ({"num_heads": (3, 6)}, "num_heads: 2 entries, 4 are needed"),
        ({"embed_dim": 50}, "num_heads: 3 heads at 50 channels"),
        ({"patch_strides": 3}, "patch_strides: 3"),
        ({"merge_strides": (2, 2)}, "merge_strides: 2 entries"),
        ({"window_size": (7, 7, 7)}, "window_size: "),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message), torch.device("meta"):
        SwinUNet(1, 2, **options)
