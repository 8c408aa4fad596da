"""The network: shapes, the mask's two ways in, what is frozen, and where the low-level encoder comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_koos import tiny

from nnunet_ext.errors import InputError
from nnunet_ext.files import write_json
from nnunet_ext.koos.batches import Batch
from nnunet_ext.koos.encoder import low_level
from nnunet_ext.koos.network import KoosNet, spread
from nnunet_ext.koos.settings import KoosSettings, build_settings
from nnunet_ext.koos.train import _start, contrast_loss, head_loss


def network(**changes: object) -> tuple[KoosNet, KoosSettings]:
    settings = tiny(**changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return KoosNet(settings, low_level("none", settings).spec), settings


def batch(settings: KoosSettings, grades: tuple[int, ...] = (0, 0, 1, 1, -1)) -> Batch:
    generator = torch.Generator().manual_seed(1)
    shape = (2, len(grades), *settings.size)
    masks = (torch.rand(shape, generator=generator) > 0.7).to(torch.uint8)
    return Batch(torch.rand(shape, generator=generator) * 2 - 1, masks, torch.tensor(grades))


@pytest.mark.parametrize("mode", ["2.5d", "3d"])
@pytest.mark.parametrize("join", ["concat", "gate"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_every_variant_runs_and_every_weight_learns(mode: str, join: str, norm: str) -> None:
    net, settings = network(mode=mode, join=join, norm=norm, train_encoder=True, size=(8, 24, 16))
    _start(net, settings, 0)
    data = batch(settings)
    features = net.features(data.images[0], data.masks[0])
    assert features.shape == (5, 8 * settings.width)
    assert net(data.images[0], data.masks[0]).shape == (5, 4)
    own, supervised = net.project(features)
    torch.testing.assert_close(own.norm(dim=1), torch.ones(5))
    assert own.shape == supervised.shape == (5, settings.projection)
    _, contrast = contrast_loss(net, data, settings)
    contrast.backward()
    parts = [net.encoder, *net.high_level, net.project_self, net.project_supervised]
    assert all(p.grad is not None for part in parts for p in part.parameters())
    assert all(p.grad is None for p in net.head.parameters())


@pytest.mark.parametrize("mode", ["2.5d", "3d"])
@pytest.mark.parametrize("join", ["concat", "gate"])
def test_the_mask_matters_whatever_its_way_in(mode: str, join: str) -> None:
    net, settings = network(mode=mode, join=join)
    net.eval()
    data = batch(settings)
    here, there = (net(data.images[0], m) for m in (data.masks[0], data.masks[0].flip(3)))
    assert (here - there).abs().max() > 1e-4


def test_slices_of_2_5d_are_spread_over_the_tumour() -> None:
    mask = torch.zeros(3, 10, 4, 4)
    mask[0, 2:7, 1, 1] = 1
    mask[1, 9, 0, 0] = 1
    assert spread(mask, 3).tolist() == [[2, 4, 6], [9, 9, 9], [0, 4, 9]]
    assert spread(mask, 1).tolist() == [[4], [9], [4]]


def test_a_case_is_graded_alike_in_any_batch() -> None:
    for mode in ("2.5d", "3d"):
        net, settings = network(mode=mode)
        net.eval()
        data = batch(settings)
        together = net(data.images[0], data.masks[0])
        torch.testing.assert_close(net(data.images[0, 3:4], data.masks[0, 3:4]), together[3:4], rtol=1e-4, atol=1e-5)


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("join", ["concat", "gate"])
def test_frozen_is_frozen_to_the_bit_running_statistics_too(join: str) -> None:
    net, settings = network(join=join)
    for stage, loss in ((0, lambda d: contrast_loss(net, d, settings)[1]), (1, lambda d: head_loss(net, d)[1])):
        optimiser = _start(net, settings, stage)
        before = state(net)
        for _ in range(3):
            optimiser.zero_grad()
            loss(batch(settings, (0, 1, 2, 3))).backward()
            optimiser.step()
        after = state(net)
        moved = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
        high = {"high"} | ({"gate"} if join == "gate" else set())
        assert moved == ({"project_self", "project_supervised"} | high if stage == 0 else {"head"})
    assert any("running_mean" in name for name in before)
    # Who validates in between and goes on training must not thaw it.
    net.eval()
    net.train()
    assert not any(module.training for part in (net.encoder, net.high) for module in part.modules())


@pytest.mark.parametrize(
    ("changes", "learning"),
    [({"frozen": False}, {"encoder", "high", "head"}), ({"pretraining": False}, {"high", "head"})],
)
def test_ablations_learn_what_they_say(changes: dict[str, object], learning: set[str]) -> None:
    net, settings = network(**changes)
    _start(net, settings, 1)
    assert {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad} == learning


def test_ungraded_exams_count_in_eq_5_only() -> None:
    net, settings = network()
    net.eval()
    with_one, without = batch(settings), batch(settings)
    cut = Batch(without.images[:, :4], without.masks[:, :4], without.grades[:4])
    terms, _ = contrast_loss(net, with_one, settings)
    terms_cut, _ = contrast_loss(net, cut, settings)
    torch.testing.assert_close(terms["supervised_contrast"], terms_cut["supervised_contrast"], rtol=1e-4, atol=1e-4)
    assert (terms["self_contrast"] - terms_cut["self_contrast"]).abs() > 0.1


def test_the_encoder_of_a_fitted_translation_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Against the translation's own classes and its own writer."""
    from translation.methods.msfnet import MSFNet
    from translation.settings import MSFNetSettings, VolumeSettings
    from translation.volume.preparation import Preparation

    fitted = MSFNetSettings(width=4, blocks=5, decoder_blocks=2, slices=3, discriminator_width=4)
    preparation = Preparation(
        volume=VolumeSettings(),
        spacing=(0.7, 0.6, None),
        roi=None,
        source_histogram=(0.0, 1.0),
        target_histogram=(0.0, 1.0),
        labels={"background": 0, "VS": 1},
        ignore=None,
        channel_name="hrT2",
        atlas_sha256=None,
    )
    method = MSFNet(fitted, preparation)
    torch.save({"epoch": 1, "weights": method.state_dict(), "further": {}}, tmp_path / "checkpoint_final.pth")
    write_json(tmp_path / "method.json", {"method": "msfnet", "settings": fitted.model_dump(mode="json")})
    write_json(tmp_path / "preparation.json", preparation.model_dump(mode="json"))
    for source in (tmp_path, tmp_path / "checkpoint_final.pth"):
        low = low_level(str(source), tiny())
        assert (low.spec.width, low.spec.blocks, low.spec.slices) == (4, 3, 3)
        encoder = low.spec.build()
        encoder.load_state_dict(low.weights)
        x = torch.randn(2, 3, 16, 16)
        torch.testing.assert_close(encoder(x), method.encoder(x), rtol=0, atol=0)
    assert low.spacing == (None, 0.6, 0.7)
    assert low.working_spacing(tiny(spacing=None)) == (1.0, 0.6, 0.7)
    low.working_spacing(tiny(spacing=(2.0, 2.0, 2.0)))
    assert "fitted on (as scanned, 0.6, 0.7) mm" in caplog.text


def test_what_is_no_fitted_msf_net_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no checkpoint_final\.pth there"):
        low_level(str(tmp_path), tiny())
    (tmp_path / "checkpoint_final.pth").write_bytes(b"no checkpoint")
    write_json(tmp_path / "method.json", {"method": "cut", "settings": {}})
    with pytest.raises(InputError, match="a fit of cut, one of msfnet"):
        low_level(str(tmp_path), tiny())
    whole = {"slices": 3, "width": 4, "blocks": 5, "decoder_blocks": 2, "antialias": False}
    write_json(tmp_path / "method.json", {"method": "msfnet", "settings": whole})
    with pytest.raises(InputError, match="not MSF-Net's checkpoint"):
        low_level(str(tmp_path), tiny())
    torch.save({"weights": {"encoder.stem.weight": torch.zeros(1)}}, tmp_path / "checkpoint_final.pth")
    with pytest.raises(InputError, match="not MSF-Net's checkpoint"):
        low_level(str(tmp_path), tiny())


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("widht=3", "koos.widht is not a setting, valid are seed"),
        ("classes=[2,1]", "ascending"),
        ("size=[8,30,32]", "divisible by 4"),
        ("width", "not an assignment"),
        ("mode=4d", "mode is '4d'"),
    ],
)
def test_bad_settings_are_refused(assignment: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        build_settings("cpu", [assignment])


def test_presets_and_assignments() -> None:
    settings = build_settings("cpu", ["classes=[0,1,2]", "join=gate", "encoder_width=8"], frozen=False)
    assert (settings.classes, settings.join, settings.encoder_width, settings.frozen) == ((0, 1, 2), "gate", 8, False)
    paper = build_settings()
    assert (paper.pretrain_learning_rate, paper.head_learning_rate, paper.pretrain_epochs, paper.head_epochs) == (
        1e-2,
        1e-4,
        100,
        20,
    )
    with pytest.raises(InputError, match="one of paper, cpu"):
        build_settings("tiny")
