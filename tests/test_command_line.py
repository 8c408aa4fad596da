"""The front door: exit codes, and the variables it prints."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from nnunet_ext.cli import main


def test_env_prints_lines_that_a_shell_can_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "with space"
    main(["env", "--root", str(root)])
    lines = capsys.readouterr().out
    shown = subprocess.run(
        ["bash", "-c", f'{lines}\necho "$nnUNet_raw|$nnUNet_preprocessed|$nnUNet_results"; ls "$nnUNet_extTrainer"'],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    ).stdout
    assert f"{root}/raw|{root}/preprocessed|{root}/results" in shown
    assert "nnUNetTrainerCSUNet.py" in shown


def test_env_keeps_trainer_folders_of_the_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", "/my/own/trainers")
    main(["env", "--root", str(tmp_path)])
    assert "/my/own/trainers" in capsys.readouterr().out


def test_a_root_that_cannot_be_made_exits_2_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        main(["env", "--root", str(tmp_path / "file")])
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        f"nnunet_ext: {tmp_path}/file/raw: cannot be made (Not a directory), a folder of your own is needed"
    ]


@pytest.mark.parametrize("arguments", [["no-such-verb"], ["env", "--no-such-flag"]])
def test_a_wrong_command_line_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert arguments[-1] in capsys.readouterr().err
