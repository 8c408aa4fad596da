"""The contrastive terms as training uses them: which label a pixel gets, what is drawn, what is remembered."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from nnunet_ext.training.certainty_contrast import CertaintyContrast, CertaintySettings
from nnunet_ext.training.contrast import PatchContrast, PatchSettings, Pixels, cross_labelled, draw_pool, rows, shrink
from nnunet_ext.training.projection import Projectors
from nnunet_ext.training.registered_contrast import RegisteredContrast, RegisteredSettings

CLASSES = 4
SIZE = (24, 20)


def scene(images: int) -> torch.Tensor:
    """Labels of four classes in blocks large enough to survive at a quarter of the resolution."""
    labels = torch.zeros((images, *SIZE), dtype=torch.long)
    labels[:, 4:12, 4:12] = 1
    labels[:, 12:20, 4:12] = 2
    labels[:, 4:20, 12:16] = 3
    return labels


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    return F.one_hot(labels, CLASSES).movedim(-1, 1).float()


def pixels(images: int = 4, labelled: int = 2, sure: float = 20.0, features: torch.Tensor | None = None) -> Pixels:
    """Both students predict the scene, and their features are its one-hot labels."""
    labels = scene(images)
    maps = one_hot(labels) if features is None else features
    coarse = one_hot(shrink(labels, (6, 5)))
    first, second = ([maps.clone().requires_grad_(), coarse.clone().requires_grad_()] for _ in range(2))
    logits = sure * one_hot(labels)
    facts = {
        "case": torch.arange(images),
        "frame": torch.zeros(images, dtype=torch.long),
        "position": torch.stack(torch.meshgrid(*(torch.arange(n) for n in SIZE), indexing="ij"))
        .float()[[0, 1, 1]][None]
        .repeat(images, 1, 1, 1),
        "placed": torch.ones((images, *SIZE), dtype=torch.bool),
    }
    return cross_labelled((first, second), (logits, logits), labels[:labelled], CLASSES, images=facts)


class Identity(Projectors):
    """Projects a feature onto itself and counts what it was given."""

    def __init__(self) -> None:
        super().__init__([(CLASSES, CLASSES)] * 2, 1, CLASSES)
        self.projected: list[int] = []

    def forward(self, features: torch.Tensor, scale: int, student: int) -> torch.Tensor:
        self.projected.append(len(features))
        return features


def term(kind, settings):
    contrast = kind(settings, [(CLASSES, CLASSES)] * 2, CLASSES)
    contrast.projectors = Identity()
    return contrast


TERMS = [
    (PatchContrast, PatchSettings(patches=(8, 3), groups=3, pixels=60)),
    (CertaintyContrast, CertaintySettings(pool=80, anchors=10, negatives=20, bank=200, dim=CLASSES)),
    (RegisteredContrast, RegisteredSettings(pool=80, anchors=10, negatives=20, bank=200, dim=CLASSES)),
]


def test_students_label_each_other_and_the_truth_comes_first():
    a, b = torch.randn(2, 3, CLASSES, 6, 6).unbind()
    truth = torch.randint(0, CLASSES, (1, 6, 6))
    truth[0, 0, 0] = CLASSES  # the ignore label
    features = ([torch.zeros(3, 2, 6, 6)], [torch.zeros(3, 2, 6, 6)])
    crossed = cross_labelled(features, (a, b), truth, CLASSES)
    assert torch.equal(crossed.labels[0][1:], b[1:].argmax(1))
    assert torch.equal(crossed.labels[1][1:], a[1:].argmax(1))
    for labels in crossed.labels:
        assert labels[0, 0, 0] == -1
        assert torch.equal(labels[0].flatten()[1:], truth.flatten()[1:])
    assert torch.allclose(crossed.probabilities[0], b.softmax(1))
    assert crossed.labelled.tolist() == [True, False, False]
    own = cross_labelled(features, (a, b), truth, CLASSES, cross=False)
    assert torch.equal(own.labels[0][1:], a[1:].argmax(1))


def test_maps_of_other_sizes_are_brought_to_the_first_students():
    features = ([torch.zeros(2, 3, 6, 6)], [torch.randn(2, 5, 7, 7)])
    crossed = cross_labelled(features, (torch.zeros(2, 2, 6, 6),) * 2, torch.zeros(1, 6, 6), 2)
    assert crossed.features[0][1].shape == (2, 5, 6, 6)


@pytest.mark.parametrize("size", [(6, 5), (24, 20), (7, 9), (3, 20)])
def test_shrinking_takes_the_nearest_pixel(size):
    volume = torch.rand(2, *SIZE)
    assert torch.equal(shrink(volume, size), F.interpolate(volume[:, None], size, mode="nearest-exact")[:, 0])


def test_rows_of_maps():
    maps = torch.randn(3, 5, 4, 6)
    image, place = torch.tensor([2, 0]), torch.tensor([7, 23])
    assert torch.equal(rows(maps, image, place), torch.stack((maps[2, :, 1, 1], maps[0, :, 3, 5])))


@pytest.mark.parametrize(("kind", "settings"), TERMS)
def test_perfect_features_cost_almost_nothing_and_wrong_ones_much(kind, settings):
    """Labels, features and probabilities stay together through grouping, drawing and scales."""
    torch.manual_seed(0)
    perfect, _ = term(kind, settings)(pixels(), 0.5)
    # Each scale's bound is its loss with every other class orthogonal; 6.4 sums 20 negatives without averaging.
    bound = math.log(1 + (20 if kind is RegisteredContrast else 3) * math.exp(-10))
    assert perfect.item() <= 2 * bound * 1.01
    wrong, _ = term(kind, settings)(pixels(features=one_hot(scene(4).roll(6, 1))), 0.5)
    assert wrong > 1


@pytest.mark.parametrize(("kind", "settings"), TERMS)
def test_what_is_projected_is_bounded_by_settings(kind, settings):
    contrast = term(kind, settings)
    contrast(pixels(images=8), 0.5)
    bound = settings.groups * settings.pixels if kind is PatchContrast else settings.pool
    assert sum(contrast.projectors.projected) <= 2 * bound


@pytest.mark.parametrize(("kind", "settings"), TERMS)
def test_gradient_reaches_both_students_at_both_scales_and_all_layers(kind, settings):
    contrast = kind(settings.model_copy(update={"dim": 8}), [(CLASSES, CLASSES)] * 2, CLASSES)
    given = pixels()
    loss, _ = contrast(given, 0.5)
    loss.backward()
    for maps in given.features:
        for own in maps:
            assert own.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in contrast.parameters())


@pytest.mark.parametrize(("kind", "settings"), TERMS)
@pytest.mark.parametrize("case", ["background", "nothing confident", "unknown"])
def test_degenerate_images_give_finite_losses_and_gradients(kind, settings, case):
    given = pixels()
    if case == "background":
        given = dataclasses.replace(given, labels=tuple(torch.zeros_like(y) for y in given.labels))
    elif case == "unknown":
        given = dataclasses.replace(given, labels=tuple(torch.full_like(y, -1) for y in given.labels))
    else:
        given = pixels(sure=0.0)
    loss, _terms = term(kind, settings)(given, 0.0)
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [own.grad for maps in given.features for own in maps]
    assert all(g is None or torch.isfinite(g).all() for g in gradients)
    if case == "unknown" or (case == "nothing confident" and kind is not PatchContrast):
        assert loss.item() == 0
        assert all(g is None or not g.any() for g in gradients)


def test_the_least_certain_fifth_is_uncertain_at_first_and_none_at_the_end():
    contrast = term(*TERMS[1])
    given = pixels()
    noisy = tuple((p + 0.5 * torch.rand_like(p)) / (p + 0.5).sum(1, keepdim=True) for p in given.probabilities)
    given = dataclasses.replace(given, probabilities=noisy)
    unlabelled = ~given.labelled

    def certain(progress: float) -> float:
        return torch.stack(contrast._certain(given, progress))[:, unlabelled].float().mean().item()

    assert certain(0.0) == pytest.approx(0.8, abs=0.002)
    assert certain(0.5) == pytest.approx(0.9, abs=0.002)
    assert certain(1.0) == 1


def test_a_bank_is_renewed_by_a_share_at_most_and_never_holds_its_own_class():
    settings = TERMS[1][1].model_copy(update={"bank": 40, "bank_share": 0.25})
    contrast = term(CertaintyContrast, settings)
    contrast(pixels(), 0.5)
    for banks in contrast.banks:
        for c, bank in enumerate(banks):
            assert len(bank) == 10
            assert c not in bank.rows()["label"].tolist()
            labels = bank.rows()["label"].long()
            assert torch.equal(bank.rows()["feature"].float().argmax(1), labels)


def test_certainty_contrast_separates_classes_whose_features_have_most_in_common():
    torch.manual_seed(0)
    channels = 16
    own = torch.randn(CLASSES, channels)
    common = 2.5 * torch.randn(channels)
    scenes = [pixels(sure=20.0) for _ in range(8)]

    def seen(labels: torch.Tensor) -> torch.Tensor:
        return (own[labels] + common + 0.5 * torch.randn(*labels.shape, channels)).movedim(-1, 1)

    steps = [
        dataclasses.replace(p, features=[tuple(seen(shrink(y, s)) for y in p.labels) for s in (SIZE, (6, 5))])
        for p in scenes
    ]
    contrast = CertaintyContrast(CertaintySettings(pool=256, bank=512), [(channels, channels)] * 2, CLASSES)

    def likeness() -> float:
        """Largest cosine of two classes' mean features, over both scales."""
        largest = -1.0
        with torch.no_grad():
            for scale in range(2):
                pool = draw_pool(steps[0], scale, 256, contrast.projectors)
                means = F.normalize(torch.stack([pool.features[pool.labels == c].mean(0) for c in range(CLASSES)]))
                largest = max(largest, float((means @ means.T).fill_diagonal_(-1).max()))
        return largest

    before = likeness()
    optimizer = torch.optim.AdamW(contrast.parameters(), lr=5e-4)
    for step in range(50):
        optimizer.zero_grad()
        contrast(steps[step % len(steps)], 0.5)[0].backward()
        optimizer.step()
    assert before > 0.9
    assert likeness() < 0.8


def test_a_pool_knows_where_its_pixels_come_from():
    given = pixels(images=3, labelled=1)
    pool = draw_pool(given, 1, 40, Identity())
    at_place = given.labels[0].flatten(1)[pool.image, pool.place]
    assert torch.equal(at_place, pool.labels)
    assert torch.equal(pool.labelled, pool.image == 0)
    assert torch.equal(pool.features.argmax(1), pool.labels)


def test_partners_are_found_in_other_volumes_seen_before():
    settings = TERMS[2][1].model_copy(update={"pool": 2000, "cell": 2.0, "bank": 5000})
    contrast = term(RegisteredContrast, settings)
    given = pixels(images=2, labelled=1)
    assert contrast(given, 0.1)[1]["with_partner"] == 0  # the bank was empty
    assert contrast(given, 0.2)[1]["with_partner"] > 0.95
    alone = term(RegisteredContrast, settings)
    same_case = dataclasses.replace(given, images={**given.images, "case": torch.zeros(2, dtype=torch.long)})
    alone(same_case, 0.1)
    assert alone(same_case, 0.2)[1]["with_partner"] == 0
    unplaced = dataclasses.replace(given, images={**given.images, "frame": torch.full((2,), -1)})
    assert contrast(unplaced, 0.3)[1]["with_partner"] == 0


@pytest.mark.parametrize(("kind", "settings"), TERMS[1:])
def test_memory_goes_on_from_its_state(kind, settings):
    one, other = term(kind, settings), term(kind, settings)
    one(pixels(), 0.1)
    other.load_memory(one.memory())
    torch.manual_seed(1)
    first = one(pixels(), 0.2)[0]
    torch.manual_seed(1)
    assert torch.equal(other(pixels(), 0.2)[0], first)


def test_students_share_the_last_layer_of_their_projectors_only():
    projectors = Projectors([(3, 5), (7, 11)], width=16, out=8)
    assert [projectors(torch.randn(2, c), s, t).shape[1] for s, t, c in ((0, 0, 3), (0, 1, 5), (1, 1, 11))] == [8] * 3
    own = sum(p.numel() for p in projectors.own.parameters())
    assert own == sum(16 * (c + 1) for c in (3, 5, 7, 11))
    assert sum(p.numel() for p in projectors.parameters()) - own == 2 * (16 + 1) * 8


@pytest.mark.parametrize(("kind", "settings"), TERMS)
def test_mixed_precision(kind, settings):
    contrast = kind(settings.model_copy(update={"dim": 8}), [(CLASSES, CLASSES)] * 2, CLASSES)
    given = pixels()
    torch.manual_seed(0)
    full, _ = contrast(given, 0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(0)
        half, _ = contrast(given, 0.5)
    half.backward()
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.1)


def test_drawn_patches_estimate_all_pixels_where_the_students_disagree():
    """Of class 1 one student sees a few pixels and the other most: each pixel must still count like any other."""
    torch.manual_seed(0)
    labels = (torch.zeros((1, *SIZE), dtype=torch.long), torch.zeros((1, *SIZE), dtype=torch.long))
    labels[0][:, :2, :10] = 1
    labels[1][:, :18] = 1
    maps = tuple(F.one_hot(y, CLASSES).movedim(-1, 1) + shift + 0.5 * torch.randn(1, CLASSES, *SIZE)
                 for y, shift in zip(labels, (0.0, 0.7), strict=True))  # fmt: skip
    given = Pixels([maps], maps, labels, torch.tensor([True]), {})

    def loss(n: int) -> float:
        return term(PatchContrast, PatchSettings(patches=(24,), groups=1, pixels=n))(given, 0.5)[0].item()

    assert sum(loss(200) for _ in range(30)) / 30 == pytest.approx(loss(2 * SIZE[0] * SIZE[1]), rel=0.03)
