"""Datasets by id and by name, as nnU-Net takes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.paths import dataset_name, new_dataset_name, raw_root


@pytest.fixture
def hearts(nnunet_root: Path) -> Path:
    (nnunet_root / "preprocessed" / "Dataset027_ACDC").mkdir()
    (nnunet_root / "raw" / "Dataset003_LGE").mkdir()
    (nnunet_root / "raw" / ".partial-Dataset004_Half").mkdir()
    return nnunet_root


@pytest.mark.parametrize("text", ["27", "027", 27, "Dataset027_ACDC"])
def test_an_id_or_the_full_name(hearts: Path, text: str | int) -> None:
    assert dataset_name(text) == "Dataset027_ACDC"


@pytest.mark.parametrize("text", ["4", "ACDC", "dataset027_ACDC", ""])
def test_what_is_no_dataset_is_told_with_those_there_are(hearts: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"-d .*: no such dataset in .*there: Dataset003_LGE, Dataset027_ACDC"):
        dataset_name(text)


def test_an_id_of_two_names(hearts: Path) -> None:
    (hearts / "results" / "Dataset027_Other").mkdir()
    with pytest.raises(
        InputError, match=r"-d 27: more than one dataset has this id.*Dataset027_ACDC, Dataset027_Other"
    ):
        dataset_name(27)


def test_new_names(hearts: Path) -> None:
    assert new_dataset_name("5", "Made") == "Dataset005_Made"
    assert new_dataset_name("Dataset027_ACDC", "Made") == "Dataset027_ACDC"
    with pytest.raises(InputError, match=r"-d 27: id 27 is already in use by Dataset027_ACDC, Dataset027_Made"):
        new_dataset_name("27", "Made")


@pytest.mark.parametrize("text", ["0", "1000", "-1", "Dataset27_ACDC", "Dataset005_", "Dataset005_a/b", "Dataset000_A"])
def test_names_that_nnunet_would_not_take(hearts: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"not a dataset id, a number from 1 to 999 or DatasetXXX_Name is needed"):
        new_dataset_name(text, "Made")


def test_a_variable_that_is_not_set_says_how_to_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_raw", raising=False)
    with pytest.raises(InputError, match=r'nnUNet_raw: not set, run eval "\$\(nnunet_ext env --root DIR\)" first'):
        raw_root()
