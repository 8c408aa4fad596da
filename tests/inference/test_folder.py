"""A folder of scans: finding cases, the verb, errors that cost one case, and going on after an interruption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from made_models import made_scan, make_model

from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.inference import memory
from nnunet_ext.inference.folder import find_cases, predict_folder
from nnunet_ext.inference.images import read_scan
from nnunet_ext.inference.memory import NoRoom
from nnunet_ext.inference.package import load_model
from nnunet_ext.inference.predictor import Predictor


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"")


def found(folder: Path, channels: int = 1, **options: str) -> dict[str, tuple[list[str], str]]:
    return {c.name: ([f.name for f in c.files], c.output) for c in find_cases(folder, channels, **options)}


def test_cases_by_nnunet_s_convention_or_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "p10_0000.nii.gz", "p2_0000.nii.gz", "other.mhd", "notes.txt", ".hidden.nii.gz", "mr_2023.nii.gz")
    assert found(tmp_path) == {
        "mr_2023": (["mr_2023.nii.gz"], "mr_2023.nii.gz"),
        "other": (["other.mhd"], "other.mha"),
        "p2": (["p2_0000.nii.gz"], "p2.nii.gz"),
        "p10": (["p10_0000.nii.gz"], "p10.nii.gz"),
    }


def test_channels_of_a_case_are_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "p_0001.nii.gz", "p_0000.nii.gz", "lonely.nii.gz")
    assert found(tmp_path, 2) == {"p": (["p_0000.nii.gz", "p_0001.nii.gz"], "p.nii.gz")}


def test_patterns(tmp_path: Path) -> None:
    touch(tmp_path, "c_211_hrT2.nii.gz", "c_211_ceT1.nii.gz")
    assert found(tmp_path, pattern="{case}_hrT2.nii.gz", output="{case}_Label.nii.gz") == {
        "c_211": (["c_211_hrT2.nii.gz"], "c_211_Label.nii.gz")
    }
    touch(tmp_path, "mod1-x.mha", "mod0-x.mha")
    assert found(tmp_path, 2, pattern="mod{channel}-{case}.mha") == {"x": (["mod0-x.mha", "mod1-x.mha"], "x.mha")}


@pytest.mark.parametrize(
    ("names", "channels", "options", "match"),
    [
        ([], 1, {}, "no cases"),
        (["a.nii.gz"], 1, {"pattern": "a.nii.gz"}, r"--pattern a.nii.gz: \{case\}, once, is needed"),
        (["a.nii.gz"], 2, {"pattern": "{case}.nii.gz"}, r"\{case\} and \{channel\}"),
        (["a.nii.gz"], 1, {"output": "mask.nii.gz"}, r"--output mask.nii.gz: \{case\}"),
        (["a.nii.gz", "a_0000.nii.gz"], 1, {}, "a second file for one channel of one case"),
        (["a.nii.gz", "a.mha"], 1, {}, "a second file for one channel of one case"),
        (["a_t1.mha", "b_t1.mha"], 1, {"pattern": "{case}_{channel}1.mha"}, "no cases"),
    ],
)
def test_folders_that_cannot_be_predicted(
    tmp_path: Path, names: list[str], channels: int, options: dict[str, str], match: str
) -> None:
    touch(tmp_path, *names)
    with pytest.raises(InputError, match=match):
        find_cases(tmp_path, channels, **options)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_cases(tmp_path / "none", 1)


def write_scans(folder: Path, count: int) -> None:
    folder.mkdir()
    for i in range(count):
        scan = made_scan(i)
        scan.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, -1))
        sitk.WriteImage(scan, str(folder / f"case{i}_0000.nii.gz"))


def test_the_verb_predicts_goes_on_and_keeps_geometry(
    model_2d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scans(tmp_path / "in", 3)
    command = ["predict", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(model_2d), "-f", "0"]
    command += ["--device", "cpu"]
    main(command)
    assert "3 cases in" in capsys.readouterr().out
    masks = sorted((tmp_path / "out").iterdir())
    assert [m.name for m in masks] == [f"case{i}.nii.gz" for i in range(3)]
    mask, scan = sitk.ReadImage(str(masks[0])), sitk.ReadImage(str(tmp_path / "in/case0_0000.nii.gz"))
    for a, b in (
        (mask.GetSpacing(), scan.GetSpacing()),
        (mask.GetOrigin(), scan.GetOrigin()),
        (mask.GetDirection(), scan.GetDirection()),
    ):
        assert np.allclose(a, b, rtol=0, atol=1e-6)

    kept = masks[1].stat().st_mtime_ns
    masks[0].unlink()
    main([*command, "--fast"])
    assert masks[0].exists()
    assert masks[1].stat().st_mtime_ns == kept


def test_a_bad_scan_costs_only_itself_and_the_exit_code_tells(
    model_2d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scans(tmp_path / "in", 3)
    (tmp_path / "in/case1_0000.nii.gz").write_bytes(b"rubbish")
    with pytest.raises(SystemExit) as stop:
        main(["predict", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(model_2d)])
    assert stop.value.code == 2
    assert "1 of 3 cases failed" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["case0.nii.gz", "case2.nii.gz"]


def test_several_processes_give_the_same_masks(model_2d: Path, tmp_path: Path) -> None:
    write_scans(tmp_path / "in", 3)
    (tmp_path / "in/bad_0000.nii.gz").write_bytes(b"rubbish")
    common = ["predict", "-i", str(tmp_path / "in"), "-m", str(model_2d), "-f", "0", "--device", "cpu"]
    for name, options in (("one", []), ("two", ["--jobs", "2"])):
        with pytest.raises(SystemExit):
            main([*common, "-o", str(tmp_path / name), *options])
    masks = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert len(masks[0]) == 3
    assert masks[0] == masks[1]


def test_a_wrong_number_of_processes(model_2d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scans(tmp_path / "in", 1)
    with pytest.raises(SystemExit):
        main(["predict", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(model_2d), "--jobs", "0"])
    assert "--jobs 0: a positive number" in capsys.readouterr().err


def test_a_missing_channel_costs_its_case(tmp_path: Path) -> None:
    model = load_model([make_model(tmp_path / "model", channels=2)])
    write_scans(tmp_path / "in", 2)
    for i in range(2):
        sitk.WriteImage(
            sitk.ReadImage(str(tmp_path / f"in/case{i}_0000.nii.gz")), str(tmp_path / f"in/case{i}_0001.nii.gz")
        )
    (tmp_path / "in/case0_0001.nii.gz").unlink()
    failed = predict_folder(Predictor(model, "cpu"), find_cases(tmp_path / "in", 2), tmp_path / "out")
    assert list(failed) == ["case0"]
    assert "of case0 the channels 0 are there, the model needs 0 to 1" in failed["case0"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["case1.nii.gz"]


def test_another_channel_does_not_stand_in_for_a_missing_one(tmp_path: Path) -> None:
    model = load_model([make_model(tmp_path / "model", channels=2)])
    write_scans(tmp_path / "in", 1)
    (tmp_path / "in/case0_0002.nii.gz").write_bytes((tmp_path / "in/case0_0000.nii.gz").read_bytes())
    failed = predict_folder(Predictor(model, "cpu"), find_cases(tmp_path / "in", 2), tmp_path / "out")
    assert "of case0 the channels 0, 2 are there, the model needs 0 to 1" in failed["case0"]


@pytest.mark.parametrize("again", [[], ["--again"]])
def test_masks_never_take_the_place_of_scans(
    model_2d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], again: list[str]
) -> None:
    write_scans(tmp_path / "in", 1)
    (tmp_path / "in/case0_0000.nii.gz").rename(tmp_path / "in/case0.nii.gz")
    (tmp_path / "out").symlink_to(tmp_path / "in")
    before = (tmp_path / "in/case0.nii.gz").read_bytes()
    with pytest.raises(SystemExit) as stop:
        main(["predict", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(model_2d), *again])
    assert stop.value.code == 2
    assert "out/case0.nii.gz: a scan, its mask would replace it" in capsys.readouterr().err
    assert (tmp_path / "in/case0.nii.gz").read_bytes() == before


def test_a_case_without_room_beside_others_is_tried_again_alone(
    model_2d: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scans(tmp_path / "in", 2)
    predictor = Predictor(load_model([model_2d]), "cpu")
    prepare, seen = predictor.prepare, []

    def crowded(scan: object) -> object:
        seen.append(scan)
        if len(seen) == 1:
            raise NoRoom("crowded")
        return prepare(scan)  # type: ignore[arg-type]

    monkeypatch.setattr(predictor, "prepare", crowded)
    assert predict_folder(predictor, find_cases(tmp_path / "in", 1), tmp_path / "out") == {}
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_volume_too_large_to_read_is_refused_before_its_voxels_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sitk.WriteImage(made_scan(), str(tmp_path / "a.mha"))
    monkeypatch.setattr(memory, "room", lambda: memory.Room(45 * 40 * 5 * 6 - 1, "RLIMIT_AS"))
    with pytest.raises(NoRoom, match="45 x 40 x 5 voxels need about"):
        read_scan([tmp_path / "a.mha"])
