"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.files import atomic_folder, atomic_path, read_json, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "image.nii.gz"
    target.write_text("old")

    def fail() -> None:
        with atomic_path(target) as partial:
            assert partial.name.endswith(".nii.gz")
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["image.nii.gz"]


def test_a_folder_replaces_its_predecessor_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "stale").write_text("")
    with atomic_folder(target) as partial:
        (partial / "fresh").write_text("")
        assert (target / "stale").exists()
    assert [p.name for p in target.iterdir()] == ["fresh"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "folder") as partial:
            (partial / "half").write_text("")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_replaced_is_still_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("")
    rename = os.replace

    def full(source: Path, where: Path) -> None:
        if source.name.startswith(".partial-"):
            raise OSError("no space")
        rename(source, where)

    def replace_it() -> None:
        with atomic_folder(target) as partial:
            (partial / "new").write_text("")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        replace_it()
    assert [p.name for p in target.iterdir()] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_json_keeps_order_and_says_what_is_wrong(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"z": 1, "a": "é"})
    assert list(read_json(tmp_path / "a.json").items()) == [("z", 1), ("a", "é")]
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(InputError, match=r"b\.json: not readable as JSON"):
        read_json(tmp_path / "b.json")
    with pytest.raises(InputError, match=r"c\.json: no such file"):
        read_json(tmp_path / "c.json")


def test_a_target_below_a_file_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/below: cannot be made \(Not a directory\)"):
        write_json(tmp_path / "file" / "below" / "a.json", {})


def test_a_folder_in_a_files_place_is_told_and_stays(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(InputError, match=r"a\.json: is a folder, the name of a file is needed"):
        write_json(tmp_path / "a.json", {})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
