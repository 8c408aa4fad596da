"""Writing settings into plans, and the ready-made sizes."""

from __future__ import annotations

import json
from copy import deepcopy
from math import prod

import pytest

from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.training.configure import configure
from nnunet_ext.training.presets import cpu

NAME = "Dataset905_Made"


def planned(patch_size, strides, batch_size=12, blocks="n_conv_per_stage"):
    """A configuration as nnU-Net plans it, reduced to what decides a network's size."""
    stages = len(strides)
    return {
        "patch_size": patch_size,
        "batch_size": batch_size,
        "data_identifier": "nnUNetPlans",
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": [min(512, 32 * 2**i) for i in range(stages)],
                "kernel_sizes": [[3] * len(patch_size)] * stages,
                "strides": strides,
                blocks: [2] * stages,
                "n_conv_per_stage_decoder": [2] * (stages - 1),
                "conv_bias": True,
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            },
            "_kw_requires_import": [],
        },
    }


HALVES_2D = [[1, 1]] + [[2, 2]] * 6
FLAT_3D = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 2]]


@pytest.fixture
def plans(nnunet_root):
    folder = nnunet_root / "preprocessed" / NAME
    folder.mkdir()
    file = folder / "nnUNetPlans.json"
    content = {
        "dataset_name": NAME,
        "plans_name": "nnUNetPlans",
        "configurations": {
            "2d": planned([256, 224], HALVES_2D[:6]),
            "3d_fullres": planned([20, 256, 224], FLAT_3D, 2),
            "child": {"inherits_from": "2d"},
        },
    }
    file.write_text(json.dumps(content))
    return file


def written(plans, configuration="2d"):
    return json.loads(plans.read_text())["configurations"][configuration]


def test_assignments_are_json_or_text_and_a_bare_key_is_of_the_schedule(plans):
    values = ["epochs=7", "schedule.seed=3", "CSUNet.depths=[2, 2]", "CSUNet.decoder_depths=[1]", "CSUNet.skip=linear"]
    configure("905", "2d", assignments=[*values, "CSUNet.layer_scale=null"])
    assert written(plans)["nnunet_ext"] == {
        "schedule": {"epochs": 7, "seed": 3},
        "CSUNet": {"depths": [2, 2], "decoder_depths": [1], "skip": "linear", "layer_scale": None},
    }
    assert "nnunet_ext" not in written(plans, "3d_fullres")


def test_later_calls_add_and_the_same_call_changes_nothing(plans):
    configure(NAME, "2d", preset="cpu", assignments=["epochs=7"])
    before, time = plans.read_bytes(), plans.stat().st_mtime_ns
    configure(NAME, "2d", preset="cpu", assignments=["epochs=7"])
    assert (plans.read_bytes(), plans.stat().st_mtime_ns) == (before, time)
    configure(NAME, "2d", assignments=["seed=9"])
    schedule = written(plans)["nnunet_ext"]["schedule"]
    assert (schedule["epochs"], schedule["seed"], schedule["iterations_per_epoch"]) == (7, 9, 100)


def test_an_inheriting_configuration_keeps_what_it_inherits(plans):
    configure("905", "2d", assignments=["epochs=7"])
    configure("905", "child", assignments=["seed=2"])
    assert written(plans, "child") == {"inherits_from": "2d", "nnunet_ext": {"schedule": {"epochs": 7, "seed": 2}}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"configuration": "2D"}, r"-c 2D: not in .*nnUNetPlans\.json, one of 2d, 3d_fullres, child is needed"),
        ({"plans": "other"}, r"other\.json: no such file"),
        ({"dataset": "906"}, r"-d 906: no such dataset"),
        ({"preset": "gpu"}, r"--preset gpu: not a preset, one of cpu is needed"),
        ({"assignments": ["epoch=3"]}, r"schedule\.epoch is not a setting, valid are seed, epochs"),
        ({"assignments": ["epochs=1.5"]}, r"schedule\.epochs is 1\.5, input should be a valid integer"),
        ({"assignments": ["epochs=0"]}, r"schedule\.epochs is 0, .*greater than or equal to 1"),
        ({"assignments": ["csunet.dropout=0"]}, r"csunet: no such settings section, one of schedule, Baseline"),
        ({"assignments": ["epochs"]}, r"--set epochs: not an assignment"),
        ({"assignments": ["=3"]}, r"--set =3: not an assignment"),
        ({"assignments": [".epochs=3"]}, r"--set \.epochs=3: not an assignment"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(plans, arguments, message):
    before = plans.read_bytes()
    arguments = {"dataset": "905", "configuration": "2d", **arguments}
    arguments["assignments"] = ["seed=1", *arguments.get("assignments", [])]
    with pytest.raises(InputError, match=message):
        configure(**arguments)
    assert plans.read_bytes() == before


def test_command(plans, capsys):
    which = ["configure", "-d", "905", "-c", "2d", "--preset", "cpu"]
    main([*which, "--set", "epochs=3", "seed=1", "--set", "CSUNet.skip=linear"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("nnUNetPlans.json, 2d:")
    expected = {"patch_size = [128, 128]", "schedule.epochs = 3", "schedule.seed = 1", 'CSUNet.skip = "linear"'}
    assert expected <= set(lines)


def test_command_refuses_with_2(plans, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["configure", "-d", "905", "-c", "2d", "--set", "epoch=3"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("patch_size", "strides", "expected_patch", "expected_stages"),
    [
        ([256, 224], HALVES_2D[:6], [128, 128], 5),
        ([512, 512], HALVES_2D, [128, 128], 5),
        ([96, 80], HALVES_2D[:5], [96, 80], 5),
        ([40, 56], HALVES_2D[:4], [40, 56], 4),
        ([160, 96], [[1, 1], [2, 2], [2, 2], [2, 1], [2, 1], [2, 1]], [128, 96], 5),
        ([20, 256, 224], FLAT_3D, [20, 64, 64], 5),
        ([128, 128, 128], [[1, 1, 1]] + [[2, 2, 2]] * 5, [64, 64, 64], 5),
        ([40, 56, 40], [[1, 1, 1]] + [[2, 2, 2]] * 3, [40, 56, 40], 4),
    ],
)
def test_cpu_preset(patch_size, strides, expected_patch, expected_stages):
    configuration = planned(patch_size, strides)
    before = deepcopy(configuration)
    changes, settings = cpu(configuration)
    assert configuration == before
    kwargs = changes["architecture"]["arch_kwargs"]
    assert changes["patch_size"] == expected_patch
    assert changes["batch_size"] == (8 if len(patch_size) == 2 else 2)
    assert kwargs["n_stages"] == expected_stages
    assert kwargs["features_per_stage"] == [16, 32, 64, 128, 128][:expected_stages]
    assert kwargs["strides"] == strides[:expected_stages]
    assert (len(kwargs["kernel_sizes"]), len(kwargs["n_conv_per_stage"])) == (expected_stages, expected_stages)
    assert len(kwargs["n_conv_per_stage_decoder"]) == expected_stages - 1
    for axis, size in enumerate(changes["patch_size"]):
        assert size % prod(s[axis] for s in kwargs["strides"]) == 0
    assert settings["schedule"] == {
        "epochs": 20,
        "iterations_per_epoch": 100,
        "val_iterations_per_epoch": 10,
        "save_every": 1,
    }
    assert settings["CSUNet"]["embed_dim"] == settings["SwinUNet"]["embed_dim"] == 48
    assert cpu({**configuration, **changes})[0] == changes


def test_cpu_preset_of_a_residual_encoder():
    changes, _ = cpu(planned([256, 224], HALVES_2D[:6], blocks="n_blocks_per_stage"))
    assert changes["architecture"]["arch_kwargs"]["n_blocks_per_stage"] == [2] * 5
