"""What every trainer shares: settings, seeds, checkpoints, continuing, unlabelled cases left alone."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from continuing import Killed, content, interrupt, same
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.training.trainer import ExtTrainer

NAME = "nnUNetTrainerCSUNet"  # has dropout, so the global random state matters too
TINY = {"embed_dim": 8, "depths": [1, 1], "decoder_depths": [1], "num_heads": [1, 2], "window_size": 4}


@pytest.fixture(autouse=True)
def _tiny_transformer(change_settings):
    change_settings(CSUNet=TINY, schedule={"epochs": 3})


def without_times(state):
    state["logging"] = {k: v for k, v in state["logging"].items() if not k.endswith("timestamps")}
    return state


def test_one_seed_gives_one_result(train, change_settings):
    first = without_times(content(train(NAME)))
    assert same(first, without_times(content(train(NAME))))
    change_settings(schedule={"seed": 1})
    other = content(train(NAME))
    assert not any(same(first["network_weights"][k], v) for k, v in other["network_weights"].items() if "weight" in k)


def test_killed_and_continued_equals_uninterrupted(train, monkeypatch):
    whole = train(NAME)
    expected = without_times(content(whole))
    terms = Path(whole.output_folder, "terms.csv").read_text()
    for method, call in (("train_step", 4), ("validation_step", 3)):
        with monkeypatch.context() as patch:
            interrupt(patch, ExtTrainer, method, call)
            with pytest.raises(Killed):
                train(NAME)
        Path(whole.output_folder, "checkpoint_final.pth").unlink()
        continued = train(NAME, resume=True)
        assert same(without_times(content(continued)), expected)
        assert Path(whole.output_folder, "terms.csv").read_text() == terms


def test_killed_before_the_first_latest_checkpoint_goes_on_from_the_best(train, change_settings, monkeypatch):
    change_settings(schedule={"save_every": 50})
    with monkeypatch.context() as patch:
        interrupt(patch, ExtTrainer, "train_step", 3)
        with pytest.raises(Killed):
            train(NAME)
    continued = train(NAME, resume=True)
    assert continued.current_epoch == 3
    logging = content(continued)["logging"]
    starts, ends = (logging[f"epoch_{edge}_timestamps"] for edge in ("start", "end"))
    assert len(starts) == len(ends) == 3
    assert all(end >= start for start, end in zip(starts, ends, strict=True))


def test_killed_while_writing_a_checkpoint(train, monkeypatch):
    expected = without_times(content(train(NAME)))
    save, calls = torch.save, []

    def dying(state, target):
        calls.append(target)
        save(state, target)
        if len(calls) == 3:  # best and latest of the first epoch are written, then one of the second
            Path(target).write_bytes(Path(target).read_bytes()[:1000])
            # A signal leaves the partial file; an exception would remove it.
            Path(target).with_name(".partial-left.pth").write_bytes(b"part")
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", dying)
        with pytest.raises(Killed):
            train(NAME)
    folder = Path(calls[0]).parent
    assert content(train(NAME, resume=True, stop=True), "checkpoint_latest.pth")["current_epoch"] == 1
    (folder / "checkpoint_final.pth").unlink()
    continued = train(NAME, resume=True)
    assert same(without_times(content(continued)), expected)
    assert not list(folder.glob(".partial-*"))


def test_continuing_with_only_a_partial_file_starts_anew(train, tiny):
    folder = Path(train(NAME, stop=True).output_folder)
    (folder / ".partial-left.pth").write_bytes(b"part")
    trainer = train(NAME, resume=True)
    assert trainer.current_epoch == 3
    assert not list(folder.glob(".partial-*"))


def test_best_checkpoint_is_known_to_the_latest(train, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, ExtTrainer, "train_step", 3)
        with pytest.raises(Killed):
            train(NAME)
    trainer = train(NAME, resume=True, stop=True)
    assert trainer._best_ema == trainer.logger.get_value("ema_fg_dice", step=-1)


def test_a_finished_run_can_be_made_longer(train, change_settings):
    train(NAME)
    change_settings(schedule={"epochs": 4})
    trainer = train(NAME, resume=True)
    assert trainer.current_epoch == 4
    assert len(trainer.logger.get_value("train_losses", step=None)) == 4


def test_terms_table(train):
    trainer = train(NAME)
    with Path(trainer.output_folder, "terms.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [r["epoch"] for r in rows] == ["0", "1", "2"]
    logged = trainer.logger.get_value("train_losses", step=None)
    assert [float(r["loss"]) for r in rows] == pytest.approx([float(v) for v in logged], rel=1e-5)
    assert Path(trainer.output_folder, "terms.png").is_file()


def test_checkpoint_holds_plain_types_only(train):
    state = content(train(NAME))  # weights_only: anything but tensors and plain types would have failed
    assert state["init_args"]["configuration"] == "2d"
    assert type(state["init_args"]["device"]) is str
    assert {"network_weights", "optimizer_state", "trainer_name", "inference_allowed_mirroring_axes"} <= state.keys()
    assert state["nnunet_ext"]["training_network"] is None


def test_supervised_trainers_leave_unlabelled_cases_out(train, tiny):
    trainer = train("nnUNetTrainerBaseline", stop=True, fold="all")
    trainer.initialize()
    training, validation = trainer.get_dataloaders()
    keys = {key for batches in (training, validation) for _ in range(20) for key in next(batches)["keys"]}
    assert keys == {f"case{i}" for i in range(6)}
    assert trainer.do_split()[1] == [f"case{i}" for i in range(6)]


class Pair(nn.Module):
    def __init__(self, predicting: nn.Module) -> None:
        super().__init__()
        self.predicting = predicting
        self.helper = nn.Linear(2, 2)

    def forward(self, x):
        raise AssertionError("prediction must use the network that predicts")


class PairTrainer(ExtTrainer):
    """More is trained than predicts, and there is a bank to keep."""

    def initialize(self):
        super().initialize()
        self.network = Pair(self.network)
        self.bank = torch.rand(3)

    def inference_module(self):
        return self.network.predicting if isinstance(self.network, Pair) else self.network

    def training_state(self):
        return {**super().training_state(), "bank": self.bank, "count": 3}

    def load_training_state(self, state):
        super().load_training_state(state)
        self.bank, self.count = state["bank"], state["count"]


def made(cls: type[ExtTrainer], tiny: Path) -> ExtTrainer:
    base = tiny / "preprocessed" / "Dataset901_Tiny"
    plans, dataset = (json.loads((base / f"{n}.json").read_text()) for n in ("nnUNetPlans", "dataset"))
    return cls(plans, "2d", 0, dataset, torch.device("cpu"))


def pair(tiny: Path) -> ExtTrainer:
    return made(PairTrainer, tiny)


def test_only_what_predicts_is_in_network_weights_and_the_rest_comes_back(tiny):
    trainer = pair(tiny)
    trainer.initialize()
    nn.init.constant_(trainer.network.helper.weight, 7)
    file = str(Path(trainer.output_folder, "checkpoint_latest.pth"))
    trainer.save_checkpoint(file)
    weights = torch.load(file, weights_only=True)["network_weights"]
    assert weights.keys() == trainer.network.predicting.state_dict().keys()
    again = pair(tiny)
    again.load_checkpoint(file)
    assert same(again.network.state_dict(), trainer.network.state_dict())
    assert torch.equal(again.bank, trainer.bank)
    assert again.count == 3


def test_validation_uses_the_network_that_predicts(tiny):
    trainer = pair(tiny)
    trainer.initialize()
    batch = next(trainer.get_dataloaders()[1])
    trainer.on_validation_epoch_start()
    assert not trainer.network.predicting.training
    with torch.no_grad():
        assert trainer.validation_step(batch)["loss"] > 0
    assert isinstance(trainer.network, Pair)


def test_compiled_networks_are_saved_unwrapped(train):
    trainer = train(NAME, stop=True)
    trainer.initialize()
    plain = trainer.network
    trainer.network = torch.compile(plain)
    assert trainer.inference_module() is plain
    file = str(Path(trainer.output_folder, "checkpoint_latest.pth"))
    trainer.save_checkpoint(file)
    trainer.load_checkpoint(file)
    assert torch.load(file, weights_only=True)["network_weights"].keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": {"epoch": 3}}, r"schedule\.epoch is not a setting, valid are seed, epochs"),
        ({"schedule": {"epochs": "many"}}, r"schedule\.epochs is 'many', input should be a valid integer"),
        ({"CSUNet": {"dropout": 1.5}}, r"CSUNet\.dropout is 1\.5, input should be less than 1"),
        ({"CSUnet": {}}, r"CSUnet is not a settings section, valid are schedule"),
    ],
)
def test_wrong_settings_stop_before_training(train, change_settings, tiny, capsys, settings, message):
    change_settings(**settings)
    with pytest.raises(SystemExit) as stop:
        train(NAME)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not list((tiny / "results").rglob("fold_0"))


class Unfit(ExtTrainer):
    def build_side_networks(self):
        raise InputError("discriminator: too many layers")


def test_networks_beside_the_predicting_one_that_cannot_be_built_are_one_line(tiny, capsys):
    trainer = made(Unfit, tiny)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        trainer.initialize()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "Unfit: discriminator: too many layers\n"


def test_settings_that_do_not_fit_one_another_stop_before_training(train, change_settings, tiny, capsys):
    change_settings(CSUNet={"num_heads": [1, 3]})
    with pytest.raises(SystemExit) as stop:
        train(NAME)
    assert stop.value.code == 2
    told = f"{NAME}: num_heads: 3 heads at 16 channels, a divisor of the channels is needed"
    assert capsys.readouterr().err.strip().splitlines()[-1] == told
    assert not list((tiny / "results").rglob("checkpoint_*"))


def test_wrong_settings_end_nnunets_own_program_with_2(tiny, change_settings):
    change_settings(schedule={"epoch": 3})
    command = [Path(sys.executable).with_name("nnUNetv2_train"), "901", "2d", "0", "-tr", NAME, "-device", "cpu"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2
    assert run.stderr.strip().splitlines()[-1].startswith(f"{NAME}: Dataset901_Tiny/nnUNetPlans.json: schedule.epoch")
    assert "Traceback" not in run.stderr


def test_a_fold_that_does_not_exist(train, capsys):
    with pytest.raises(SystemExit) as stop:
        train(NAME, fold=7)
    assert stop.value.code == 2
    assert "has 5 folds, fold 7 was asked for" in capsys.readouterr().err


def test_continuing_with_another_network_is_refused(train, change_settings, capsys):
    train(NAME)
    change_settings(CSUNet={"embed_dim": 16})
    with pytest.raises(SystemExit):
        train(NAME, resume=True)
    assert "the settings that it was trained with are needed" in capsys.readouterr().err


def test_continuing_from_a_checkpoint_of_nnunets_own_is_refused(train, capsys):
    trainer = train(NAME, stop=True)
    torch.save({"network_weights": {}}, Path(trainer.output_folder, "checkpoint_latest.pth"))
    with pytest.raises(SystemExit):
        train(NAME, resume=True)
    assert "-pretrained_weights starts from it" in capsys.readouterr().err
