"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = "NNUNET_EXT_TEST_DATA"
SHARED_DATA = Path(os.environ.get(DATA) or Path(__file__).resolve().parents[2] / "shared" / "data")


@pytest.fixture
def shared_data() -> Path:
    """The folder with ACDC, MSCMR_LGE and Hippocampus; the test skips where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real scans are not here ({SHARED_DATA} does not exist, {DATA} may name another folder)")
    return SHARED_DATA


@pytest.fixture
def nnunet_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's four variables set to folders of this test alone; returns their parent."""
    from nnunet_ext.environment import FOLDERS
    from nnunet_ext.paths import trainer_folder

    for variable, folder in FOLDERS.items():
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.setenv("nnUNet_extTrainer", str(trainer_folder()))
    return tmp_path
