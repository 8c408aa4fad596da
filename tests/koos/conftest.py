"""A small dataset to grade."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk
from made_koos import small_scan, write_grades

from nnunet_ext.data.dataset import Case, write_dataset


@pytest.fixture
def made(nnunet_root: Path) -> Callable[..., tuple[str, Path]]:
    """Writes a dataset of two modalities per person and its grades; returns the dataset's name and the CSV.

    Person i has cases a_i and b_i, and grade 1 + i % 4; the last `ungraded` persons have none.
    """

    def make(
        persons: int = 6, empty: tuple[str, ...] = (), unlabelled: tuple[str, ...] = (), ungraded: int = 1
    ) -> tuple[str, Path]:
        source = nnunet_root / "scans"
        source.mkdir()
        cases, grades = [], {}
        for i in range(persons):
            for domain in ("a", "b"):
                name = f"{domain}_{i}"
                files = source / f"{name}.mha", source / f"{name}_label.mha"
                for volume, file in zip(small_scan(i, name not in empty), files, strict=True):
                    sitk.WriteImage(volume, str(file))
                cases.append(Case(name, (files[0],), files[1], subject=f"p{i}", domain=domain))
                if i < persons - ungraded:
                    grades[name] = 1 + i % 4
        write_dataset("Dataset711_Made", cases, ["MRI"], {"VS": 1, "cochlea": 2}, unlabelled=unlabelled)
        return "Dataset711_Made", write_grades(nnunet_root / "grades.csv", grades)

    return make
