"""What the doctor finds wrong, and that it says what to mend."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest

from nnunet_ext import doctor
from nnunet_ext.cli import main
from nnunet_ext.doctor import Finding, examine

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def _a_machine_with_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(1 << 40, 0, 1 << 40))


def found(what: str) -> Finding:
    return next(finding for finding in examine() if finding.what == what)


def test_nothing_to_mend_ends_with_0(nnunet_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("[ok] ") for line in lines)
    listed = next(line for line in lines if line.startswith("[ok] trainers: "))
    assert {"nnUNetTrainerCSUNet", "nnUNetTrainerSwinUNet"} <= set(listed.split(": ")[1].split(", "))


def test_a_missing_variable_ends_with_1_and_a_way_out(
    nnunet_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("nnUNet_results")
    monkeypatch.setenv("nnUNet_extTrainer", "/elsewhere")
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 1
    out = capsys.readouterr().out
    assert '[!!] nnUNet_results: not set\n     -> eval "$(nnunet_ext env --root DIR)"' in out
    assert "[!!] nnUNet_extTrainer: /elsewhere\n     -> it must name " in out


def test_an_old_or_forbidden_version(nnunet_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"nnunetv2": "2.8.0", "torch": "2.9.1+cu128", "SimpleITK": "2.5.2", "monai": "1.5"}
    monkeypatch.setattr(doctor, "version", versions.__getitem__)
    assert found("nnunetv2").mend == "pip install 'nnunetv2>=2.8.1'"
    assert "!=2.9.*" in str(found("torch").mend)
    assert found("SimpleITK").mend is None


def test_too_little_room(nnunet_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(1 << 30, 0, 64 << 20))
    assert found("disk of nnUNet_raw").mend == "free at least 10 GB"
    assert "--shm-size" in str(found("shared memory").mend)
