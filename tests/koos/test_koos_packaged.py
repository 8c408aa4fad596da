"""Putting a Koos model into a model package, and `predict` with one."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pytest
import SimpleITK as sitk
from made_koos import make_koos
from made_models import made_scan, make_model

from nnunet_ext.cli import main
from nnunet_ext.inference.package import load_model, write_package


def pack(root: Path, koos: Path, *options: str, **model: object) -> Path:
    folder = make_model(root / "trained", **model)  # type: ignore[arg-type]
    main(["package", str(folder), "-o", str(root / "model.tar.gz"), "--koos", str(koos), *options])
    return root / "model.tar.gz"


def test_the_koos_model_goes_in_as_it_is_with_a_checksum_and_an_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    koos = make_koos(tmp_path / "koos", tumour=(1, 3))
    package = pack(tmp_path, koos)
    assert "; Koos grades 1, 2, 3, 4 of rv + lv" in capsys.readouterr().out
    with tarfile.open(package) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert (tmp_path / "unpacked/models/koos.pth").read_bytes() == (koos / "koos.pth").read_bytes()
    assert "models/koos.pth" in json.loads((tmp_path / "unpacked/manifest.json").read_text())["files"]
    assert json.loads((tmp_path / "unpacked/sockets.json").read_text())["outputs"] == [
        {"kind": "segmentation", "path": "images/segmentation"},
        {"kind": "koos", "path": "koos.json"},
    ]
    # What was read gives the same package again.
    write_package(load_model([package]), tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == package.read_bytes()


@pytest.mark.parametrize(
    ("model", "tumour", "outputs", "match"),
    [
        ({"channels": 2}, (1,), None, r"--koos \S+: grades scans of one channel, the segmentation model has 2"),
        ({}, (1, 4), None, r"a tumour of label 4, a label of the segmentation model is needed \(there: 1 rv, 2 myo"),
        ({}, (1,), ["segmentation"], r"sockets.json: a Koos model without an output, one of kind koos or koos_class"),
    ],
    ids=["two channels", "no such label", "no output"],
)
def test_models_that_do_not_fit_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model: dict[str, object],
    tumour: tuple[int, ...],
    outputs: list[str] | None,
    match: str,
) -> None:
    options: list[str] = []
    if outputs:
        named = [{"kind": kind, "path": "images/other"} for kind in outputs]
        (tmp_path / "sockets.json").write_text(json.dumps({"outputs": named}))
        options = ["--sockets", str(tmp_path / "sockets.json")]
    with pytest.raises(SystemExit) as stop:
        pack(tmp_path, make_koos(tmp_path / "koos", tumour), *options, **model)
    assert stop.value.code == 2
    assert re.search(match, capsys.readouterr().err)
    assert not (tmp_path / "model.tar.gz").exists()


def test_an_output_of_grades_needs_a_koos_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = [{"kind": "segmentation", "path": "a"}, {"kind": "koos_class", "path": "b.json"}]
    (tmp_path / "sockets.json").write_text(json.dumps({"outputs": named}))
    arguments = ["package", str(make_model(tmp_path)), "-o", str(tmp_path / "m.tar.gz")]
    with pytest.raises(SystemExit):
        main([*arguments, "--sockets", str(tmp_path / "sockets.json")])
    assert "an output of Koos grades, a Koos model is needed (package --koos)" in capsys.readouterr().err


def test_what_is_no_koos_model_is_not_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "koos.pth").write_bytes(b"nonsense")
    with pytest.raises(SystemExit):
        pack(tmp_path, tmp_path / "koos.pth")
    assert "koos.pth: not readable as a model of `koos fit`" in capsys.readouterr().err


def test_predict_grades_with_a_package_that_can(tmp_path: Path) -> None:
    package = pack(tmp_path, make_koos(tmp_path / "koos"))
    scans = tmp_path / "scans"
    scans.mkdir()
    sitk.WriteImage(made_scan(1), str(scans / "a_0000.nii.gz"))
    sitk.WriteImage(made_scan() * 0, str(scans / "b_0000.nii.gz"))
    masks = tmp_path / "masks"
    main(["predict", "-i", str(scans), "-o", str(masks), "-m", str(package), "--device", "cpu"])
    assert sorted(p.name for p in masks.iterdir()) == ["a.nii.gz", "b.nii.gz", "predictions.csv", "predictions.json"]
    alone = ["koos", "predict", "-i", str(scans), "--masks", str(masks), "-m", str(tmp_path / "koos")]
    main([*alone, "-o", str(tmp_path / "alone.csv"), "--device", "cpu"])
    assert (masks / "predictions.csv").read_text() == (tmp_path / "alone.csv").read_text()
    assert (masks / "predictions.csv").read_text().splitlines()[2] == '"b",1'
