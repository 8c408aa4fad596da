"""Commands in a workspace: variables, the log, failures and work that is not repeated."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nnunet_ext.errors import InputError, StageError
from nnunet_ext.workspace import Workspace


def test_a_command_sees_the_folders_of_the_workspace(tmp_path: Path) -> None:
    space = Workspace(tmp_path / "w", say=lambda _: None)
    space.run(sys.executable, "-c", "import os; print(os.environ['nnUNet_raw'], os.environ['nnUNet_extTrainer'])")
    log = space.log.read_text()
    assert f"{tmp_path}/w/raw" in log
    assert "trainers" in log


def test_a_failing_command_names_its_exit_code_and_the_log(tmp_path: Path) -> None:
    space = Workspace(tmp_path, say=lambda _: None)
    with pytest.raises(StageError, match=r"exit code 7.*log\.txt"):
        space.run(sys.executable, "-c", "raise SystemExit(7)")


def test_once_repeats_neither_finished_work_nor_forgets_a_failure(tmp_path: Path) -> None:
    space = Workspace(tmp_path, say=lambda _: None)
    count = tmp_path / "count"
    append = f"open({str(count)!r}, 'a').write('x')"
    for _ in range(2):
        space.once("step", sys.executable, "-c", append)
    assert count.read_text() == "x"
    for _ in range(2):
        with pytest.raises(StageError):
            space.once("fails", sys.executable, "-c", append + "; raise SystemExit(1)")
    assert count.read_text() == "xxx"
    space.once("step", sys.executable, "-c", append + "  # another command line")
    assert count.read_text() == "xxxx"


def test_words_that_resume_do_not_make_another_command(tmp_path: Path) -> None:
    space = Workspace(tmp_path, say=lambda _: None)
    count = tmp_path / "count"
    command = (sys.executable, "-c", f"import sys; open({str(count)!r}, 'a').write(sys.argv[-1])")
    space.once("step", *command, resume=["--c"])
    space.once("step", *command)
    assert count.read_text() == "--c"


def test_a_root_that_is_a_file_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/raw: cannot be made \(Not a directory\)"):
        Workspace(tmp_path / "file")
