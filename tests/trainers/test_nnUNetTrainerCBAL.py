"""CBAL: trains in 2D and 3D, every term goes off alone, only the network ships, continuing is exact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from continuing import check_continues_exactly, content

from nnunet_ext.training.cbal import CBALTrainer

NAME = "nnUNetTrainerCBAL"
SMALL = {"discriminator_width": 4, "pixels": 32}
WEIGHTS = {
    "boundary": "boundary_weight",
    "distance_mm": "distance_weight",
    "entropy": "entropy_weight",
    "contrast": "contrast_weight",
    "regions": "region_weight",
    "adversarial": "adversarial_weight",
}


@pytest.fixture(autouse=True)
def _small(change_settings):
    for configuration in ("2d", "3d_fullres"):
        change_settings(configuration, CBAL=SMALL)


def one_step(train):
    """A trainer after one update, and the means of what it logged."""
    trainer = train(NAME, stop=True)
    trainer.initialize()
    batch = next(trainer.get_dataloaders()[0])
    trainer.network.train()
    trainer.train_step(batch)
    return trainer, trainer.terms.means()


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_trains_and_ships_the_network_only(train, configuration, threads_for_processes):
    trainer = train(NAME, configuration)
    trainer.perform_actual_validation()
    assert len(list(Path(trainer.output_folder, "validation").glob("*.nii.gz"))) == len(trainer.do_split()[1])
    assert trainer.current_epoch == 2
    row = trainer.terms.rows[-1]
    assert {*WEIGHTS, "supervised", "discriminator", "target_strength"} <= row.keys()
    assert all(torch.isfinite(torch.tensor(v)) for v in row.values())
    state = content(trainer)
    network = CBALTrainer.build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, 3, enable_deep_supervision=False
    )
    network.load_state_dict(state["network_weights"])
    assert state["nnunet_ext"]["training_state"]["discriminator"]["optimizer"]["state"]


@pytest.mark.parametrize("term", [*WEIGHTS])
def test_each_term_goes_off_alone(train, change_settings, term):
    change_settings(CBAL={WEIGHTS[term]: 0})
    trainer, logged = one_step(train)
    gone = {term, "discriminator"} if term == "adversarial" else {term}
    assert logged.keys() & (WEIGHTS.keys() | {"discriminator"}) == (WEIGHTS.keys() | {"discriminator"}) - gone
    assert (trainer.judge is None) == (term == "adversarial")


def test_all_terms_off_is_a_supervised_step_on_source_patches_alone(train, change_settings, monkeypatch):
    change_settings(CBAL={**dict.fromkeys(WEIGHTS.values(), 0), "source_views": 0})
    seen = []
    trainer = train(NAME, stop=True)
    trainer.initialize()
    batch = next(trainer.get_dataloaders()[0])
    assert "distances" not in batch
    trainer.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    trainer.train_step(batch)
    (images,) = seen
    assert torch.equal(images, batch["data"])
    assert set(trainer.terms.means()) == {"loss", "supervised", "target_strength"}


def test_voxels_that_nobody_labelled_are_not_real_background(train, change_settings):
    change_settings(CBAL={"adversarial_real": "label"})
    trainer = train(NAME, stop=True)
    trainer.initialize()
    seen = []
    trainer.judge["discriminator"].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    source = torch.randn(2, 3, 64, 64)
    labels = torch.full((2, 64, 64), 3)  # to be ignored
    labels[0, 5, 6], labels[1, 7, 8] = 2, 0
    trainer.teach_judge(source, labels, torch.randn(2, 3, 64, 64))
    expected = source.softmax(1)
    expected[0, :, 5, 6] = torch.tensor([0.0, 0, 1])
    expected[1, :, 7, 8] = torch.tensor([1.0, 0, 0])
    assert torch.allclose(seen[0], expected)


def test_views_match_voxel_by_voxel_and_are_made_only_where_needed(train, change_settings):
    change_settings(CBAL={"source_views": 0})
    trainer = train(NAME, stop=True)
    trainer.initialize()
    source, scans = torch.randn(2, 1, 32, 32), torch.randn(3, 1, 32, 32)
    images = trainer.views(source, scans)
    assert images.shape == (8, 1, 32, 32)
    assert torch.equal(images[:5], torch.cat((source, scans)))
    phases = [torch.fft.fft2(x - x.mean((2, 3), keepdim=True)).angle() for x in (scans, images[5:])]
    inside = torch.ones(32, 32, dtype=torch.bool)
    inside[0, 0] = False
    assert torch.allclose(torch.cos(phases[0] - phases[1])[..., inside], torch.ones(1), atol=1e-3)
    trainer.alignment = None
    object.__setattr__(trainer, "settings", trainer.settings.model_copy(update={"entropy_weight": 0.0}))
    assert len(trainer.views(source, scans)) == 5


@pytest.mark.parametrize("backbone", ["DeepLab", "CSUNet"])
def test_other_backbones(train, change_settings, backbone):
    change_settings(CSUNet={"embed_dim": 8, "depths": [1, 1], "decoder_depths": [1], "num_heads": [1, 2]})
    change_settings(CBAL={"backbone": backbone})
    trainer = train(NAME)
    assert trainer.current_epoch == 2
    assert type(trainer.inference_module()).__name__ == {"DeepLab": "DeepLab", "CSUNet": "SwinUNet"}[backbone]


def test_killed_and_continued_equals_uninterrupted(train, change_settings, monkeypatch):
    change_settings(CBAL={"prototypes": 0.01})
    check_continues_exactly(train, NAME, monkeypatch)


def test_features_compile_in_one_graph(train):
    trainer = train(NAME, stop=True)
    trainer.initialize()
    network, x = trainer.featured.eval(), torch.randn(2, 1, 32, 32)
    assert torch._dynamo.explain(network)(x).graph_break_count == 0
    compiled, plain = torch.compile(network, backend="aot_eager")(x), network(x)
    assert torch.allclose(compiled.logits[0], plain.logits[0], atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(compiled.features, plain.features, strict=True))


def stops(train, capsys, *words):
    with pytest.raises(SystemExit) as stop:
        train(NAME)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert all(word in lines[0] for word in words), lines[0]


def change_dataset(tiny: Path, **values) -> None:
    file = tiny / "preprocessed" / "Dataset901_Tiny" / "dataset.json"
    content = json.loads(file.read_text())
    content["nnunet_ext"] |= values
    file.write_text(json.dumps(content))


def test_one_domain_only_is_refused(train, tiny, capsys):
    cases = [*(f"case{i}" for i in range(6)), "scan0", "scan1"]
    change_dataset(tiny, domain=dict.fromkeys(cases, "near"))
    stops(train, capsys, "all cases of this fold are of the domain near", "a source and a target are needed")


def test_no_domains_are_refused(train, tiny, capsys):
    change_dataset(tiny, domain={})
    stops(train, capsys, "cases have no domain", "nnunet_ext dataset merge")


def test_no_unlabelled_target_is_refused(train, tiny, capsys):
    domain = {**{f"case{i}": "near" if i < 4 else "far" for i in range(6)}, "scan0": "far", "scan1": "far"}
    change_dataset(tiny, domain=domain, unlabelled=[])
    stops(train, capsys, "no case is unlabelled")
