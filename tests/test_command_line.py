"""The front door: exit codes, and the variables it prints."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


class Terminal(io.StringIO):
    """Where the parser draws coloured boxes."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize(
    ("arguments", "named", "verb"),
    [
        ("no-such-verb", ["no-such-verb: no such command", "doctor"], ""),
        ("", ["env", "koos"], ""),
        ("env --no-such-flag", ["--no-such-flag"], " env"),
        ("evaluate", ["PRED", "GT"], " evaluate"),
        ("dataset acdc", ["SOURCE", "--dataset"], " dataset acdc"),
        ("register -d 1 --transform rigid", ["--transform", "'rigid'", "'affine'"], " register"),
        ("register -d 1 --jobs some", ["--jobs", "'some'"], " register"),
        ("koos", ["fit", "score"], " koos"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exits_2(
    arguments: str,
    named: list[str],
    verb: str,
    terminal: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if terminal:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stdout", Terminal())
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    assert stop.value.code == 2
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.isprintable()
    assert not set("│─╭╮╰╯") & set(line)
    assert all(word in line for word in named)
    assert line.endswith(f"; see nnunet_ext{verb} --help")


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ("predict -i scans -o masks", "-m"),
        ("koos fit -g grades.csv -o model --encoder none", "-d"),
    ],
)
def test_a_repeatable_flag_that_is_needed_is_named(
    arguments: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"nnunet_ext: {flag}: none given, ")


def test_repeated_flags_add_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def fit(datasets: Any, *_: Any, **named: Any) -> Path:
        asked.update(named, datasets=datasets)
        return tmp_path

    monkeypatch.setattr("nnunet_ext.koos.fit.fit", fit)
    words = "koos fit -d 1 -d 2 3 --tumour VS --tumour cyst -g grades.csv -o model --encoder none"
    main([*words.split(), "--device", "cpu"])
    assert asked["datasets"] == ("1", "2", "3")
    assert asked["tumour"] == ("VS", "cyst")


def test_help_tells_of_the_verb_and_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["translate", "apply", "--help"])
    assert not stop.value.code
    shown = capsys.readouterr()
    assert "Translate the labelled cases of a source" in shown.out
    assert "--keep-source" in shown.out
    assert shown.err == ""
