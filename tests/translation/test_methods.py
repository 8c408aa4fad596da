from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch

from nnunet_ext.errors import InputError
from translation.registry import METHODS, build_settings, entry
from translation.sampling import Batch
from translation.settings import VolumeSettings
from translation.volume.preparation import Preparation

LEARNED = [m for m in METHODS if m != "histogram"]
PREPARATION = Preparation(
    volume=VolumeSettings(),
    spacing=(1.5, 1.5, None),
    roi=None,
    source_histogram=(0.0, 10.0, 40.0),
    target_histogram=(100.0, 140.0, 200.0),
    labels={"background": 0, "RV": 1, "MYO": 2, "LV": 3},
    ignore=None,
    channel_name="LGE",
    atlas_sha256=None,
)
TINY = ("width=4", "blocks=2", "crop=[48,48]", "batch_size=2", "discriminator_width=4", "patches=16")


def tiny(method, *more, **arguments):
    settings = build_settings(method, "cpu", tuple(
        o for o in (*TINY, *more) if o.split("=")[0] in entry(method).settings.model_fields
    ) + (("decoder_blocks=1",) if method == "msfnet" else ()))  # fmt: skip
    torch.manual_seed(0)
    learner = entry(method).load()(settings, PREPARATION, **arguments)
    learner.start_training(torch.device("cpu"))
    return learner


def batch(further=None):
    torch.manual_seed(1)
    labels = torch.zeros(2, 48, 48, dtype=torch.long)
    labels[:, 8:24, 8:40] = 1
    labels[:, 26:40, 10:38] = 2
    labels[0, :2, :2] = -1
    return Batch(torch.randn(2, 3, 48, 48).tanh(), torch.randn(2, 3, 48, 48).tanh(), labels, further or {})


@pytest.mark.parametrize("method", LEARNED)
def test_a_step_updates_every_network_and_reports_finite_terms(method):
    learner = tiny(method)
    before = copy.deepcopy(learner.state_dict())
    terms = learner.fit_step(batch())
    assert {"adversarial", "discriminator"} <= terms.keys()
    assert all(torch.isfinite(value) for value in terms.values())
    after = learner.state_dict()
    for name, _ in learner.named_children():
        keys = [k for k in after if k.startswith(f"{name}.")]
        assert not keys or any(not torch.equal(before[k], after[k]) for k in keys), name
    grouped = {id(p) for networks in learner.groups().values() for n in networks for p in n.parameters()}
    assert grouped == {id(p) for p in learner.parameters()}


@pytest.mark.parametrize("method", METHODS)
def test_translates_a_volume_of_any_size(method):
    if method == "histogram":
        learner = entry(method).load()(build_settings(method), PREPARATION)
    else:
        learner = tiny(method).eval()
    labels = torch.zeros(4, 37, 50, dtype=torch.long)
    labels[:, 5:30, 5:30] = 3
    out = learner.translate(torch.randn(4, 37, 50).tanh(), labels)
    assert out.shape == (4, 37, 50)
    assert out.abs().max() <= 1


@pytest.mark.parametrize("method", LEARNED)
def test_state_continues_exactly(method):
    one, two = tiny(method), tiny(method)
    torch.manual_seed(5)
    for _ in range(2):
        one.fit_step(batch())
    weights, training = copy.deepcopy(one.state_dict()), copy.deepcopy(one.training_state())
    two.load_state_dict(weights)
    two.load_training_state(training)
    terms = []
    for learner in (one, two):
        torch.manual_seed(9)
        terms.append(learner.fit_step(batch()))
    assert terms[0] == terms[1]
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def generator_gradients(learner):
    """A step's terms and the gradients that it left at its generators."""
    torch.manual_seed(3)
    terms = learner.fit_step(batch())
    networks = next(iter(learner.groups().values()))
    return terms, [p.grad for n in networks for p in n.parameters() if p.grad is not None]


@pytest.mark.parametrize("method", LEARNED)
@pytest.mark.parametrize("name", ["mind", "correlation"])
def test_anatomy_terms_teach_the_generator_where_they_have_a_weight(method, name):
    plain, gradients = generator_gradients(tiny(method))
    assert not {"mind", "correlation"} & plain.keys()
    terms, others = generator_gradients(tiny(method, f"lambda_{name}=10"))
    assert terms.keys() - plain.keys() == {name}
    assert 0 < terms[name] < 2
    # Of the first step the other terms are the same: the weights are, and the added term is only added.
    assert terms["adversarial"] == plain["adversarial"]
    assert any(not torch.equal(a, b) for a, b in zip(gradients, others, strict=True))


def test_anatomy_loss_is_untouched_without_weights_and_least_for_the_source_itself():
    learner, terms = tiny("cut"), {}
    loss, source = torch.tensor(0.25), batch().source
    state = torch.get_rng_state()
    assert learner.with_anatomy(loss, source, -source, terms) is loss
    assert torch.equal(state, torch.get_rng_state())
    assert terms == {}
    learner = tiny("cut", "lambda_mind=1", "lambda_correlation=1")
    learner.with_anatomy(loss, source, source.clone(), terms)
    assert terms["mind"] == 0
    assert terms["correlation"] == pytest.approx(0, abs=1e-5)
    learner.with_anatomy(loss, source, batch().target.flip(-1), terms)
    assert terms["mind"] > 1e-4
    assert terms["correlation"] > 0.9


def test_tanq_tells_which_labels_are_too_small_for_its_coarsest_maps(caplog):
    caplog.set_level(logging.INFO)
    labels = np.zeros((4, 48, 48), np.int16)
    labels[:, 2:4, :] = 1  # 96 pixels in each slice
    labels[:3, 8:16, :8] = 2  # 64, 64 and 72
    labels[2, 16, :8] = 2
    labels[0, 20:28, :7] = 3  # 56
    tiny("tanq", "min_pixels=4").tell_about([labels])
    said = [record.message.split(" pixels")[0] for record in caplog.records]
    assert said == [
        "RV: in 0 % of its 4 slices it has fewer than 64",
        "MYO: in 0 % of its 3 slices it has fewer than 64",
        "LV: in 100 % of its 1 slices it has fewer than 64",
    ]
    caplog.clear()
    tiny("tanq", "min_pixels=4.25", 'restyled=["RV"]').tell_about([labels])
    assert [r.message.split(" slices")[0] for r in caplog.records] == ["MYO: in 67 % of its 3", "LV: in 100 % of its 1"]


def test_generators_learn_to_reconstruct():
    learner = tiny("cyclegan", "learning_rate=0.01", "lambda_adversarial=0", "slices=1", "blocks=1")
    y, x = torch.meshgrid(torch.linspace(-3, 3, 48), torch.linspace(-3, 3, 48), indexing="ij")
    images = torch.stack([torch.sin(2 * x), torch.cos(x * y / 2)])[:, None]
    smooth = Batch(images, -images, torch.zeros(2, 48, 48, dtype=torch.long))
    losses = [learner.fit_step(smooth)["cycle"].item() for _ in range(25)]
    assert losses[-1] < 0.6 * losses[0]


def test_histogram_maps_the_cohorts_means():
    learner = entry("histogram").load()(build_settings("histogram"), PREPARATION)
    # The source's middle percentile, 10 of 0 to 40, is -0.5; the target's, 140 of 100 to 200, is -0.2.
    out = learner.translate(torch.tensor([[[-1.0, -0.5, 1.0]]]))
    assert out.flatten().tolist() == pytest.approx([-1, -0.2, 1])


def test_only_tanq_looks_at_labels():
    volume, other = torch.randn(3, 40, 40).tanh(), torch.zeros(3, 40, 40, dtype=torch.long)
    labels = other.clone()
    labels[:, 4:30, 4:30] = 2
    for method in LEARNED:
        learner = tiny(method).eval()
        same = torch.equal(learner.translate(volume, labels), learner.translate(volume, other))
        assert same == (method != "tanq"), method


def test_tanq_regions_by_name():
    assert tiny("tanq").regions == [1, 2, 3]
    chosen = tiny("tanq", 'region_normalised=["LV"]', 'restyled=["RV"]')
    assert chosen.regions == [3, 1]
    norm = chosen.generator.decoder.up_norms[0]
    assert norm.regions == [0, 1]
    assert norm.restyled == [1]
    assert chosen.generator.encoder.stem_norm.regions == [0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('restyled=["VS"]', "VS is not a label, some of RV, MYO, LV"),
        ('region_normalised=["background"]', "background is not a label"),
    ],
)
def test_unknown_label_names_are_refused(override, message):
    with pytest.raises(InputError, match=message):
        tiny("tanq", override)


def test_label_cannot_be_both():
    with pytest.raises(InputError, match="RV is also"):
        tiny("tanq", 'restyled=["RV"]', 'region_normalised=["RV", "LV"]')


def test_msfnet_has_a_head_per_label_set_and_learns_from_each():
    parts = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (2, 48, 48)))
    learner = tiny("msfnet", further={"parts": 5})
    assert learner.heads["labels"].head.out_channels == 4
    assert learner.heads["parts"].head.out_channels == 5
    before = learner.heads["parts"].head.weight.clone()
    terms = learner.fit_step(batch({"parts": parts}))
    assert "segmentation_parts" in terms
    assert not torch.equal(before, learner.heads["parts"].head.weight)
