"""Packages: what goes in, determinism, what is refused, and that predictions survive the way."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from made_models import made_scan, make_model

from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.files import sha256
from nnunet_ext.inference.images import read_scan
from nnunet_ext.inference.package import load_model, write_package
from nnunet_ext.inference.postprocessing import KeepLargest
from nnunet_ext.inference.predictor import Predictor
from nnunet_ext.inference.trained import read_trained


@pytest.fixture(scope="module")
def packaged(model_2d: Path, model_3d: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble of a 2D model of two folds and a 3D one."""
    target = tmp_path_factory.mktemp("packages") / "model.tar.gz"
    main(["package", str(model_2d), str(model_3d), "-o", str(target)])
    return target


def test_the_same_model_gives_the_same_bytes(packaged: Path, model_2d: Path, model_3d: Path, tmp_path: Path) -> None:
    write_package(read_trained([model_2d, model_3d]), tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == packaged.read_bytes()


def test_weights_are_plain_tensors_and_the_manifest_lists_every_file(packaged: Path, tmp_path: Path) -> None:
    with tarfile.open(packaged) as tar:
        names = set(tar.getnames())
        tar.extractall(tmp_path, filter="data")
    weights = torch.load(tmp_path / "models/0/fold_1.pth", weights_only=True)
    assert all(isinstance(tensor, torch.Tensor) for tensor in weights.values())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert names == {"manifest.json", *manifest["files"]}
    assert set(manifest["versions"]) == {"python", "nnunet_ext", "nnunetv2", "torch"}
    assert [m["folds"] for m in manifest["members"]] == [["0", "1"], ["0"]]


def test_a_package_predicts_what_its_folders_predict(
    packaged: Path, model_2d: Path, model_3d: Path, tmp_path: Path
) -> None:
    sitk.WriteImage(made_scan(), str(tmp_path / "a.mha"))
    masks = [
        Predictor(load_model(sources), "cpu").predict(read_scan([tmp_path / "a.mha"])).mask
        for sources in ([packaged], [model_2d, model_3d])
    ]
    assert np.array_equal(*masks)


def test_folds_are_chosen(model_2d: Path, packaged: Path) -> None:
    assert list(load_model([model_2d], ["1"]).first.folds) == ["1"]
    with pytest.raises(InputError, match=r"--folds 7: the package holds the folds 0, 1"):
        load_model([packaged], ["7"])


def test_fold_all_is_taken_where_it_is_the_only_one(tmp_path: Path) -> None:
    folder = make_model(tmp_path, folds=("all",))
    assert list(read_trained([folder]).first.folds) == ["all"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--folds", "4"], r"fold 4 has no checkpoint_final.pth \(there: 0, 1\)"),
        (["--checkpoint", "checkpoint_best.pth"], "no fold has checkpoint_best.pth"),
        (["--sockets", "{tmp}/none.json"], "none.json: no such file"),
        (["--postprocessing", "{tmp}/none.pkl"], "none.pkl: no such file"),
    ],
)
def test_wrong_flags_exit_2(
    model_2d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], match: str
) -> None:
    options = [option.replace("{tmp}", str(tmp_path)) for option in options]
    with pytest.raises(SystemExit) as stop:
        main(["package", str(model_2d), "-o", str(tmp_path / "m.tar.gz"), *options])
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    assert re.search(match, line)
    assert not list(tmp_path.glob("*"))


def test_a_checkpoint_that_is_not_one(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    checkpoint = folder / "fold_0/checkpoint_final.pth"
    torch.save({"weights": 1}, checkpoint)
    with pytest.raises(InputError, match=r"holds no 'network_weights', a checkpoint of nnU-Net v2 is needed"):
        read_trained([folder])
    checkpoint.write_bytes(b"rubbish")
    with pytest.raises(InputError, match=r"checkpoint_final.pth: not readable"):
        read_trained([folder])


def test_weights_of_another_network(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "a")
    other = make_model(tmp_path / "b", features=(4, 8))
    (folder / "fold_0/checkpoint_final.pth").write_bytes((other / "fold_0/checkpoint_final.pth").read_bytes())
    with pytest.raises(InputError, match=r"weights of nnUNetTrainer 2d: do not fit its network"):
        Predictor(read_trained([folder]), "cpu")


def test_an_unknown_trainer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trainer nnUNetTrainerOfNobody: not found"):
        read_trained([make_model(tmp_path, trainer="nnUNetTrainerOfNobody")])


def test_a_package_cannot_bring_code_along(packaged: Path, tmp_path: Path) -> None:
    with tarfile.open(packaged) as tar:
        tar.extractall(tmp_path, filter="data")
    code = tmp_path / "evil.py"
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InputError, match=r"evil.py: not listed in manifest.json"):
        load_model([tmp_path])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["files"]["evil.py"] = sha256(code)
    for member in manifest["members"]:
        member |= {"trainer": str(code.with_suffix("")), "network_of_plans": False}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"evil': not the name of a class"):
        Predictor(load_model([tmp_path]), "cpu")
    assert not (tmp_path / "ran").exists()
    manifest["members"][0]["folder"] = "../elsewhere"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"does not list ../elsewhere/plans.json"):
        load_model([tmp_path])


def test_configurations_of_different_labels_do_not_mix(model_2d: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path, dim=3, labels={"background": 0, "lv": 1})
    with pytest.raises(InputError, match="differ in labels or channels"):
        read_trained([model_2d, other])


def test_configurations_of_different_axis_order_do_not_mix(model_2d: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path, dim=3, transpose=(2, 0, 1))
    with pytest.raises(InputError, match="order the axes differently"):
        read_trained([model_2d, other])


def test_a_cascade_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path, dim=3)
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["previous_stage"] = "3d_lowres"
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(InputError, match="continues another configuration"):
        read_trained([folder])


def test_a_model_of_natural_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trained on files read by NaturalImage2DIO"):
        read_trained([make_model(tmp_path, reader="NaturalImage2DIO")])


def test_labels_beyond_uint8_are_refused(tmp_path: Path) -> None:
    labels = {"background": 0, **{f"c{i}": i for i in range(1, 301)}}
    model = read_trained([make_model(tmp_path, labels=labels)])
    with pytest.raises(InputError, match="300 is used, at most 255"):
        write_package(model, tmp_path / "m.tar.gz")


def test_postprocessing_of_these_folds_is_found(tmp_path: Path) -> None:
    folder = make_model(tmp_path, folds=("0", "1"))
    results = folder / "crossval_results_folds_0_1"
    results.mkdir()
    steps = {
        "postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"],
        "postprocessing_kwargs": [{"labels_or_regions": [1, 2, 3]}],
    }
    (results / "postprocessing.json").write_text(json.dumps(steps))
    assert read_trained([folder]).postprocessing == (KeepLargest(keep_largest=(1, 2, 3)),)
    assert read_trained([folder], ["0"]).postprocessing == ()
    write_package(read_trained([folder]), tmp_path / "m.tar.gz")
    assert load_model([tmp_path / "m.tar.gz"]).postprocessing == (KeepLargest(keep_largest=(1, 2, 3)),)


def test_archives_that_reach_outside_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "m.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../evil"))
    with pytest.raises(InputError, match=r"holds \.\./evil"):
        load_model([tmp_path / "m.tar.gz"])
    (tmp_path / "n.tar.gz").write_bytes(b"rubbish")
    with pytest.raises(InputError, match=r"not readable as a .tar.gz"):
        load_model([tmp_path / "n.tar.gz"])
