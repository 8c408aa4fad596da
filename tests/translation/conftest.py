"""Two small cohorts of synthetic hearts: labelled cine (901) and LGE with one labelled case for validation (902)."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_ext.data.dataset import Case, write_dataset
from nnunet_ext.data.phantoms import LABELS, Modality, write_hearts

COHORTS: tuple[tuple[str, Modality, int, int], ...] = (
    ("Dataset901_Cine", "cine", 3, 0),
    ("Dataset902_LGE", "lge", 3, 2),
)


@pytest.fixture(scope="session")
def made_hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scans and labels, made once."""
    folder = tmp_path_factory.mktemp("hearts")
    for _, modality, count, _ in COHORTS:
        write_hearts(folder / modality, count, modality, seed=7)
    return folder


@pytest.fixture
def hearts(nnunet_root: Path, made_hearts: Path) -> Path:
    """nnU-Net's folders with both raw datasets; returns their parent."""
    for name, modality, count, blind in COHORTS:
        cases = [
            Case(
                case,
                (made_hearts / modality / "images" / f"{case}.nii.gz",),
                made_hearts / modality / "labels" / f"{case}.nii.gz",
                subject=case,
                domain=modality,
            )
            for case in (f"{modality}_{i:03d}" for i in range(count))
        ]
        write_dataset(name, cases, [modality.upper()], LABELS, unlabelled=[c.name for c in cases[:blind]])
    return nnunet_root
