"""What CBAL and AccSeg-Net share: domains of a fold, networks beside the one that predicts, distances, montage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.training.adaptation import domain_cases
from nnunet_ext.training.class_alignment import ClassAlignment, ClassAlignmentSettings
from nnunet_ext.training.distances import WithDistances
from nnunet_ext.training.montage import write_montage
from nnunet_ext.training.side import SideNetworks, discriminator_layers, early_stride
from nnunet_ext.training.split import Cases
from nnunet_ext.training.streams import geometric_only

DOMAIN = {"ct1": "CT", "ct2": "CT", "ct3": "CT", "mr1": "MR", "mr2": "MR", "mr3": "MR"}


def fold(labelled, unlabelled, validation):
    return Cases(labelled.split(), unlabelled.split(), validation.split(), "")


def test_target_cases_validate_where_there_are_some():
    cases = domain_cases(fold("ct1 ct2", "mr1 mr2", "ct3 mr3"), DOMAIN, None, "f")
    assert (cases.labelled, cases.unlabelled, cases.validation) == (["ct1", "ct2"], ["mr1", "mr2"], ["mr3"])
    assert cases.note.startswith("Adapts from 2 labelled cases of CT to 2 unlabelled cases of MR;")
    assert cases.note.endswith("validates on 1 labelled cases of the target MR.")


def test_source_cases_validate_otherwise_and_the_note_says_so():
    cases = domain_cases(fold("ct1 ct2", "mr1", "ct3"), DOMAIN, None, "f")
    assert cases.validation == ["ct3"]
    assert "validates on 1 labelled cases of the source, for want of labelled cases of the target" in cases.note


def test_labels_of_the_target_and_unlabelled_source_cases_never_train():
    cases = domain_cases(fold("ct1 mr3", "ct2 mr1", "mr3"), DOMAIN, "MR", "f")
    assert (cases.labelled, cases.unlabelled) == (["ct1"], ["mr1"])
    assert "2 cases of this fold are left out" in cases.note


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "target", "domain", "message"),
    [
        ("ct1", "mr1", None, {}, "f: 2 cases have no domain (ct1)"),
        ("ct1", "ct2", None, DOMAIN, "f: all cases of this fold are of the domain CT"),
        ("ct1 mr1", "", None, DOMAIN, "f: in this fold no case is unlabelled"),
        ("ct1", "ct2 mr1", None, DOMAIN, "f: in this fold unlabelled cases are of the domains CT, MR"),
        ("ct1", "mr1", "PET", DOMAIN, "f: target is PET, a domain of this fold is needed: CT, MR"),
        ("mr2", "ct1 mr1", "MR", DOMAIN, "f: no case of this fold outside the target MR is labelled"),
        ("ct1 mr2", "ct2", "MR", DOMAIN, "f: no case of this fold in the target MR is unlabelled"),
    ],
)
def test_folds_that_cannot_adapt(labelled, unlabelled, target, domain, message):
    with pytest.raises(InputError) as error:
        domain_cases(fold(labelled, unlabelled, ""), domain, target, "f")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("pooling", "stride"),
    [
        ([[1, 1], [2, 2], [2, 2], [2, 2]], (2, 2)),
        ([[1, 1, 1], [1, 2, 2], [2, 2, 2]], (1, 2, 2)),
        ([[1, 1, 1], [2, 2, 2], [2, 2, 2]], (2, 2, 2)),
        ([[1, 1]], (1, 1)),
    ],
)
def test_thick_slices_are_not_halved(pooling, stride):
    assert early_stride(pooling) == stride


@pytest.mark.parametrize(
    ("patch", "stride", "layers"),
    [
        ((128, 128), (2, 2), 3),
        ((24, 99), (2, 2), 3),
        ((23, 99), (2, 2), 2),
        ((4, 12, 12), (1, 2, 2), 2),
        ((6, 6), (2, 2), 1),
    ],
)
def test_the_discriminator_fits_the_patch(patch, stride, layers):
    from nnunet_ext.networks.discriminators import PatchDiscriminator

    assert discriminator_layers(patch, stride, 3) == layers
    judge = PatchDiscriminator(1, 2, layers, spatial_dims=len(patch), stride=stride)
    assert min(judge(torch.randn(2, 1, *patch)).shape) >= 1


def side(rate=0.1):
    torch.manual_seed(0)
    return SideNetworks({"line": nn.Linear(2, 1)}, rate, torch.device("cpu"))


def test_side_networks_learn_alone_and_pass_gradients_on_when_frozen():
    networks = side()
    x = torch.randn(3, 2, requires_grad=True)
    with networks.frozen():
        networks["line"](x).sum().backward()
    assert x.grad is not None
    assert networks["line"].weight.grad is None
    before = networks["line"].weight.clone()
    networks.set_rate(0.5)
    networks.minimise(networks["line"](x.detach()).square().sum(), None)
    # Adam's first step is the learning rate in every coordinate.
    torch.testing.assert_close((networks["line"].weight - before).abs(), torch.full((1, 2), 0.05))


def test_side_networks_go_on_exactly():
    x = torch.randn(3, 2)
    whole, first, second = side(), side(), side()
    for networks in (whole, whole, first):
        networks.minimise(networks["line"](x).square().sum(), None)
    second.load_state_dict(first.state_dict())
    second.minimise(second["line"](x).square().sum(), None)
    assert torch.equal(second["line"].weight, whole["line"].weight)


def test_distances_come_with_the_batch_in_the_patches_own_spacing():
    label = torch.zeros(2, 1, 5, 5, dtype=torch.int16)
    label[0, 0, 2, 2] = 1
    batch = {"data": torch.zeros(2, 1, 5, 5), "target": [label, label[..., ::2, ::2]]}
    made = WithDistances(lambda: batch, (8.0, 3.0, 1.5), 3)()
    assert made["distances"].shape == (2, 2, 5, 5)
    assert made["distances"][0, 0, 0, 2] == 6.0
    assert made["distances"][0, 0, 2, 0] == 3.0
    assert not made["distances"][1].any()
    assert made["target"] is batch["target"]


def settings(**values):
    return ClassAlignmentSettings(**values)


def test_alignment_separates_classes_of_both_domains():
    labels = torch.zeros(4, 8, 8, dtype=torch.long)
    labels[:, :, 4:] = 1
    good = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).float()
    swapped = torch.cat((good[:2], 1 - good[2:]))
    align = ClassAlignment(settings(scales=(1,), contrast_weight=1.0, region_weight=0.5), [2], 2)
    loss, terms = align([good], labels, 2)
    assert loss < 0.01
    worse, terms = align([swapped], labels, 2)
    torch.testing.assert_close(worse, terms["contrast"] + 0.5 * terms["regions"])
    assert terms["contrast"] > 5


def test_prototypes_move_by_alpha_and_are_kept():
    align = ClassAlignment(settings(scales=(1,), prototypes=0.25), [2], 3)
    labels = torch.ones(2, 2, 2, dtype=torch.long)
    first = torch.zeros(2, 2, 2, 2)
    first[:, 0] = 5.0
    align([first], labels, 1)
    assert align.prototypes0.tolist() == [[0, 0], [1, 0], [0, 0]]
    align([first.flip(1)], labels, 1)
    torch.testing.assert_close(align.prototypes0[1], torch.tensor([0.75, 0.25]))
    assert "prototypes0" in align.state_dict()
    assert not list(ClassAlignment(settings(), [2], 3).state_dict())


def test_geometric_only_keeps_what_is_not_intensity():
    gamma = GammaTransform((0.7, 1.5), 0, False, 1, 1)
    mirror = MirrorTransform(allowed_axes=(0,))
    kept = geometric_only(
        ComposeTransforms([RandomTransform(gamma, 0.3), ComposeTransforms([mirror, RandomTransform(gamma)])])
    )
    assert [type(t).__name__ for t in kept.transforms] == ["ComposeTransforms"]
    assert kept.transforms[0].transforms == [mirror]


def test_montage_shows_every_row(tmp_path):
    from matplotlib.image import imread

    rows = {
        "source": torch.randn(3, 1, 8, 8),
        "volume": torch.randn(2, 1, 4, 8, 8),
        "constant": torch.zeros(1, 1, 8, 8),
    }
    write_montage(tmp_path / "m.png", rows)
    picture = imread(tmp_path / "m.png")
    assert picture.shape[0] > 300
    assert np.ptp(picture) > 0.9
    assert [p.name for p in tmp_path.iterdir()] == ["m.png"]
