from __future__ import annotations

import pytest
import torch

from nnunet_ext.networks.discriminators import PatchDiscriminator
from nnunet_ext.networks.generators import Blur, ResNetDecoder, ResNetEncoder, ResNetGenerator
from nnunet_ext.networks.projectors import PatchProjector
from nnunet_ext.networks.target_aware import TargetAwareGenerator


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("antialias", [False, True])
def test_published_parameters_of_the_generator(antialias):
    assert parameters(ResNetGenerator(antialias=antialias)) == 11_365_633


def test_published_parameters_of_tanq():
    assert parameters(TargetAwareGenerator()) == 8_218_628
    assert parameters(PatchDiscriminator()) == 2_762_689
    assert parameters(PatchProjector(ResNetGenerator().feature_channels)) == 559_872


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(
    ("dims", "stride", "size"),
    [(2, None, (16, 16)), (2, None, (17, 30)), (3, (1, 2, 2), (3, 13, 16)), (3, None, (6, 9, 8))],
)
def test_any_size_comes_back(dims, stride, size, antialias):
    network = ResNetGenerator(2, 1, 4, 2, spatial_dims=dims, stride=stride, antialias=antialias)
    x = torch.randn(1, 2, *size)
    out = network(x)
    assert out.shape == (1, 1, *size)
    assert out.abs().max() <= 1
    features = network.forward_features(x)
    assert [f.shape[1] for f in features] == network.feature_channels


def test_features_are_those_of_cut():
    network = ResNetGenerator(1, 1, 4, 6, antialias=True)
    x = torch.randn(1, 1, 32, 32)
    features = network.forward_features(x)
    assert torch.equal(features[0], x)
    # CUT halves after its layers 4 and 8, so that they are taken before.
    assert [tuple(f.shape[1:]) for f in features] == [(1, 32, 32), (8, 32, 32), (16, 16, 16), (16, 8, 8), (16, 8, 8)]
    encoder = network.encoder
    code, _ = encoder.forward_features(x)
    for block in encoder.blocks[5:]:
        features[4] = block(features[4])
    assert torch.allclose(features[4], code)


def test_blocks_behind_the_last_feature_run_for_the_image_only():
    network, x, runs = ResNetGenerator(1, 1, 4, 7), torch.randn(1, 1, 16, 16), []
    for number, block in enumerate(network.encoder.blocks):
        block.register_forward_hook(lambda *_, number=number: runs.append(number))
    alone = network.forward_features(x)
    assert runs == [0, 1, 2, 3, 4]
    _, features = network.forward_all(x)
    assert runs[5:] == [0, 1, 2, 3, 4, 5, 6]
    assert all(torch.equal(a, b) for a, b in zip(alone, features, strict=True))


def test_encoder_and_decoders_share_a_code():
    encoder, first, second = ResNetEncoder(1, 4, 1), ResNetDecoder(1, 4, 1), ResNetDecoder(5, 4, tanh=False)
    code = encoder(torch.randn(1, 1, 16, 16))
    assert code.shape == (1, 16, 4, 4)
    assert first(code).shape == (1, 1, 16, 16)
    assert second(code).shape == (1, 5, 16, 16)


def test_blur_keeps_a_constant_and_halves():
    out = Blur((1, 2))(torch.full((1, 3, 5, 8), 2.0))
    assert torch.allclose(out, torch.full((1, 3, 5, 4), 2.0))
    # [1 2 1] / 4 at a stride of 2: the impulse lies between the first and the second output
    impulse = torch.zeros(1, 1, 1, 6)
    impulse[..., 1] = 4
    assert Blur((1, 2))(impulse).flatten().tolist() == [1, 1, 0]


def masks_of(size):
    masks = torch.zeros(1, 2, size, size)
    masks[:, 0, 2:10, 2:10] = 1
    masks[:, 1, 12:20, 12:20] = 1
    return masks


def test_target_aware_outputs():
    network = TargetAwareGenerator(1, 1, 4, 2, classes=4)
    x, masks = torch.randn(1, 1, 22, 23), masks_of(23)[:, :, :22]
    image, logits, features = network.forward_and_segment(x, masks)
    assert image.shape == (1, 1, 22, 23)
    assert logits.shape == (1, 4, 22, 23)
    assert len(features) == 5
    assert torch.equal(network(x, masks), image)


def test_target_aware_uses_its_masks_and_works_without():
    torch.manual_seed(0)
    network, x = TargetAwareGenerator(1, 1, 4, 2), torch.randn(1, 1, 24, 24)
    assert not torch.allclose(network(x, masks_of(24)), network(x))
    assert torch.allclose(network(x, torch.zeros(1, 2, 24, 24)), network(x), atol=1e-5)


@pytest.mark.parametrize(("dims", "stride", "size"), [(2, None, (24, 31)), (3, (1, 2, 2), (2, 24, 24))])
def test_discriminator_scores_patches(dims, stride, size):
    out = PatchDiscriminator(1, 4, spatial_dims=dims, stride=stride)(torch.randn(2, 1, *size))
    assert out.shape[:2] == (2, 1)
    assert out.ndim == dims + 2


def test_discriminator_sees_70_pixels():
    # The 70-pixel patch of the literature: the gradient of one score reaches 70 columns. Instance normalisation
    # mixes all positions, so it is taken out here.
    network = PatchDiscriminator(1, 4)
    convolutions = torch.nn.Sequential(*[m for m in network.layers if isinstance(m, torch.nn.Conv2d)])
    x = torch.randn(1, 1, 160, 160, requires_grad=True)
    out = convolutions(x)
    out[0, 0, out.shape[2] // 2, out.shape[3] // 2].backward()
    assert (x.grad[0, 0].abs().sum(0) > 0).sum() == 70


def test_projections_have_unit_length():
    projector = PatchProjector([3, 5], width=8)
    out = projector([torch.randn(2, 7, 3), torch.randn(2, 7, 5)])
    assert [o.shape for o in out] == [(2, 7, 8)] * 2
    assert all(torch.allclose(o.norm(dim=-1), torch.ones(2, 7)) for o in out)


def test_every_parameter_gets_a_gradient():
    network = TargetAwareGenerator(1, 1, 4, 1)
    image, logits, _ = network.forward_and_segment(torch.randn(1, 1, 24, 24), masks_of(24))
    ((image * torch.randn_like(image)).sum() + (logits * torch.randn_like(logits)).sum()).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_image_and_features_of_one_pass_are_those_of_two():
    network, x = ResNetGenerator(1, 1, 4, 2), torch.randn(1, 1, 15, 16)
    image, features = network.forward_all(x)
    assert torch.equal(image, network(x))
    assert all(torch.equal(a, b) for a, b in zip(features, network.forward_features(x), strict=True))
