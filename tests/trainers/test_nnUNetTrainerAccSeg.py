"""AccSeg-Net: trains in 2D and 3D, every term goes off alone, only the segmenter ships, continuing is exact."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from continuing import check_continues_exactly, content

from nnunet_ext.training.accseg import AccSegTrainer

NAME = "nnUNetTrainerAccSeg"
SMALL = {
    "width": 4,
    "blocks": 1,
    "discriminator_width": 4,
    "patches": 16,
    "projector_width": 8,
    "mind_region": 3,
    "mind_patch": 3,
}
WEIGHTS = {
    "adversarial": "adversarial_weight",
    "identity": "identity_weight",
    "patch_contrast": "contrast_weight",
    "correlation": "correlation_weight",
    "mind": "mind_weight",
}


@pytest.fixture(autouse=True)
def _small(change_settings):
    for configuration in ("2d", "3d_fullres"):
        change_settings(configuration, AccSeg=SMALL)


def ready(train, configuration="2d"):
    trainer = train(NAME, configuration, stop=True)
    trainer.initialize()
    trainer.network.train()
    return trainer, next(trainer.get_dataloaders()[0])


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_trains_and_ships_the_segmenter_only(train, configuration, threads_for_processes):
    trainer = train(NAME, configuration)
    trainer.perform_actual_validation()
    assert len(list(Path(trainer.output_folder, "validation").glob("*.nii.gz"))) == len(trainer.do_split()[1])
    row = trainer.terms.rows[-1]
    assert {*WEIGHTS, "segmentation", "discriminator"} <= row.keys()
    assert all(math.isfinite(v) for v in row.values())
    state = content(trainer)
    network = AccSegTrainer.build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, 3, enable_deep_supervision=False
    )
    network.load_state_dict(state["network_weights"])
    kept = state["nnunet_ext"]["training_state"]
    assert kept["translator"]["optimizer"]["state"]
    assert kept["discriminator"]["optimizer"]["state"]
    assert Path(trainer.output_folder, "translations.png").stat().st_size > 0


@pytest.mark.parametrize("term", [*WEIGHTS])
def test_each_term_goes_off_alone(train, change_settings, term):
    change_settings(AccSeg={WEIGHTS[term]: 0})
    trainer, batch = ready(train)
    trainer.train_step(batch)
    logged = trainer.terms.means().keys() & WEIGHTS.keys()
    assert logged == WEIGHTS.keys() - {term}
    assert (trainer.judge is None) == (term == "adversarial")
    assert ("projector" in trainer.translator.networks) == (term != "patch_contrast")


def test_segmentation_loss_reaches_the_generator(train, change_settings):
    change_settings(AccSeg=dict.fromkeys(WEIGHTS.values(), 0))
    trainer, batch = ready(train)
    before = {k: v.clone() for k, v in trainer.translator["generator"].state_dict().items()}
    trainer.train_step(batch)
    after = trainer.translator["generator"].state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)


def test_the_segmenter_sees_translations_only(train):
    trainer, batch = ready(train)
    seen = []
    trainer.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    trainer.train_step(batch)
    (images,) = seen
    assert images.shape == batch["data"].shape
    assert images.requires_grad


def test_without_jitter_and_noise_the_segmenter_sees_the_translation_itself(train, change_settings):
    change_settings(AccSeg={**SMALL, "jitter": 0, "noise": 0})
    trainer, batch = ready(train)
    made, seen = [], []
    forward_all = trainer.translator["generator"].forward_all
    trainer.translator["generator"].forward_all = lambda x: made.append(forward_all(x)) or made[-1]
    trainer.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    trainer.train_step(batch)
    assert torch.equal(seen[0], made[0][0].float() * trainer.settings.intensity_range)


def test_the_discriminator_learns_from_its_own_loss_only(train):
    trainer, batch = ready(train)
    judge = trainer.judge["discriminator"]
    fake = torch.zeros(1, 1, 32, 32, requires_grad=True)
    trainer.fooled(fake).backward()
    assert fake.grad.abs().sum() > 0
    assert all(p.grad is None for p in judge.parameters())
    before = [p.clone() for p in judge.parameters()]
    trainer.teach_judge(batch["unlabelled"], batch["data"])
    assert any(not torch.equal(a, b) for a, b in zip(before, judge.parameters(), strict=True))


def test_mind_is_zero_for_an_untouched_image_and_reaches_the_translation(train):
    trainer, _ = ready(train, "3d_fullres")
    image = torch.randn(1, 1, 4, 16, 16)
    assert trainer.mind_loss(image, image.clone()) == 0
    fake = torch.randn(1, 1, 4, 16, 16, requires_grad=True)
    trainer.mind_loss(image, fake).backward()
    assert fake.grad.abs().sum() > 0


def test_intensities_are_not_augmented_before_the_translation(train):
    trainer, _ = ready(train)
    names = str(trainer.augmentation().training)
    assert "SpatialTransform" in names
    assert "GammaTransform" not in names
    assert "GaussianNoise" not in names


@pytest.mark.parametrize("segmenter", ["DuSEUNet", "AttentionUNet"])
def test_other_segmenters(train, change_settings, segmenter):
    change_settings(AccSeg={"segmenter": segmenter})
    trainer = train(NAME)
    assert trainer.current_epoch == 2
    network = trainer.inference_module()
    assert type(network).__name__ == segmenter
    # DDP waits for the gradient of every parameter that may have one.
    network.train()
    network(torch.randn(1, 1, 32, 32)).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize("segmenter", ["DuSEUNet", "AttentionUNet"])
def test_other_segmenters_compile_in_one_graph(train, change_settings, segmenter):
    change_settings(AccSeg={"segmenter": segmenter})
    trainer, batch = ready(train)
    network, x = trainer.inference_module().eval(), batch["data"]
    assert torch._dynamo.explain(network)(x).graph_break_count == 0
    assert torch.allclose(torch.compile(network, backend="aot_eager")(x), network(x), atol=1e-5)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("adversarial_weight", "the checkpoint holds no discriminator: it was written with AccSeg.adversarial_weight"),
        ("contrast_weight", "the checkpoint: projector"),
    ],
)
def test_a_term_switched_on_after_the_checkpoint_was_written_is_named(train, change_settings, capsys, key, message):
    change_settings(AccSeg={key: 0}, schedule={"epochs": 1})
    Path(train(NAME).output_folder, "checkpoint_final.pth").rename(
        Path(train(NAME, stop=True).output_folder, "checkpoint_latest.pth")
    )
    change_settings(AccSeg={key: 1})
    with pytest.raises(SystemExit) as stop:
        train(NAME, resume=True)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_an_even_edge_of_mind_is_refused(train, change_settings, capsys):
    change_settings(AccSeg={"mind_patch": 6})
    with pytest.raises(SystemExit) as stop:
        train(NAME)
    assert stop.value.code == 2
    assert "AccSeg.mind_patch is 6, an odd edge length is needed" in capsys.readouterr().err


def test_killed_and_continued_equals_uninterrupted(train, monkeypatch):
    check_continues_exactly(train, NAME, monkeypatch)
