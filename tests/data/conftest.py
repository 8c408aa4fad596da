"""What the tests of data conversion share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_ext.cli import main


@pytest.fixture
def dataset(nnunet_root: Path, caplog: pytest.LogCaptureFixture) -> Callable[..., Path]:
    """`nnunet_ext dataset ...`; returns the written dataset's folder."""

    def run(*arguments: object) -> Path:
        main(["dataset", *map(str, arguments)])
        number = arguments[[str(a) for a in arguments].index("-d") + 1]
        return next((nnunet_root / "raw").glob(f"Dataset{int(str(number)):03d}_*"))

    caplog.set_level("INFO")
    return run


@pytest.fixture
def refused(nnunet_root: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `nnunet_ext dataset ...`, which must exit 2 with one line and write nothing; returns the line."""

    def run(*arguments: object) -> str:
        before = sorted(nnunet_root.joinpath("raw").rglob("*"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["dataset", *map(str, arguments)])
        assert stop.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nnunet_ext: ")]
        assert len(lines) == 1
        assert sorted(nnunet_root.joinpath("raw").rglob("*")) == before
        return lines[0]

    return run
