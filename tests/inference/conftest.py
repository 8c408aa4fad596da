"""Models and scans made once for the tests of prediction."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_models import make_model


@pytest.fixture(scope="session")
def model_2d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 2D model folder with two folds, one channel and four classes."""
    return make_model(tmp_path_factory.mktemp("made2d"), folds=("0", "1"))


@pytest.fixture(scope="session")
def model_3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 3D model folder with one fold."""
    return make_model(tmp_path_factory.mktemp("made3d"), dim=3)
