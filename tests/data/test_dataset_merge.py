"""`nnunet_ext dataset merge`: one dataset from two domains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from volumes import values_in, volume

from nnunet_ext.data.dataset import domains, unlabelled_cases

Run = Callable[..., Path]
Refused = Callable[..., str]


def study(root: Path, names: str, prefix: str = "", values: tuple[int, ...] = (0, 1, 2)) -> Path:
    for name in names:
        volume(root / "images" / f"{prefix}{name}.nii.gz")
        volume(root / "labels" / f"{prefix}{name}.nii.gz", values)
    return root


def description(folder: Path) -> dict:
    return json.loads((folder / "dataset.json").read_text())


@pytest.fixture
def two(tmp_path: Path, dataset: Run) -> Path:
    """Source 1 (a-d; d validates) and target 2 (x, y, z; z validates), whose label values are the other way round."""
    (tmp_path / "a.json").write_text('{"train": ["a", "b", "c"], "val": ["d"]}')
    (tmp_path / "x.json").write_text('{"train": ["x", "y"], "val": ["z"]}')
    flags = ("--label", "inner=1", "--label", "outer=2", "--channel", "MR", "--domain", "cine")
    dataset("folder", study(tmp_path / "near", "abcd"), "-d", 1, *flags, "--split", tmp_path / "a.json")
    flags = ("--label", "outer=1", "--label", "inner=2", "--channel", "MR")
    far = study(tmp_path / "far", "xyz", values=(0, 2))
    dataset("folder", far, "-d", 2, *flags, "--split", tmp_path / "x.json")
    return tmp_path


def test_merged_dataset(two: Path, dataset: Run, nnunet_root: Path) -> None:
    # The target's training labels must not be read: spoil them.
    for name in "xy":
        (nnunet_root / "raw" / "Dataset002_far" / "labelsTr" / f"{name}.nii.gz").write_bytes(b"not an image")
    folder = dataset("merge", "-d", 3, "--source", 1, "--target", 2)
    content = description(folder)
    assert folder.name == "Dataset003_near_to_far"
    assert domains(content) == {"a": "cine", "b": "cine", "c": "cine", "x": "far", "y": "far", "z": "far"}
    assert unlabelled_cases(content) == {"x", "y"}
    assert content["labels"] == {"background": 0, "inner": 1, "outer": 2, "ignore": 3}
    assert content["nnunet_ext"]["source"] == "Dataset001_near"
    # The target calls `inner` 2; the merged dataset calls it 1 as the source does.
    assert values_in(folder / "labelsTr" / "z.nii.gz") == {0, 1}
    splits = json.loads((nnunet_root / "preprocessed" / folder.name / "splits_final.json").read_text())
    assert splits == [{"train": ["a", "b", "c", "x", "y"], "val": ["z"]}]


def test_cases_that_a_fold_leaves_out_are_not_trained_on(
    two: Path, dataset: Run, refused: Refused, nnunet_root: Path
) -> None:
    (two / "a.json").write_text('{"train": ["a", "b"], "val": ["d"]}')
    (two / "x.json").write_text('{"train": ["x"], "val": ["z"]}')
    flags = ("--label", "inner=1", "--label", "outer=2", "--channel", "MR")
    dataset("folder", two / "near", "-d", 11, *flags, "--split", two / "a.json")
    dataset("folder", two / "far", "-d", 12, *flags, "--split", two / "x.json")
    (two / "names.txt").write_text("y\n")
    assert "y is no case and no subject here" in refused(
        "merge", "-d", 13, "--source", 11, "--target", 12, "--target-labelled", two / "names.txt"
    )
    folder = dataset("merge", "-d", 13, "--source", 11, "--target", 12)
    assert sorted(p.name for p in (folder / "imagesTr").iterdir()) == [f"{n}_0000.nii.gz" for n in "abxz"]
    assert unlabelled_cases(description(folder)) == {"x"}
    splits = json.loads((nnunet_root / "preprocessed" / folder.name / "splits_final.json").read_text())
    assert splits == [{"train": ["a", "b", "x"], "val": ["z"]}]


def test_named_target_cases_keep_their_labels(two: Path, dataset: Run) -> None:
    (two / "names.txt").write_text("y\n")
    folder = dataset("merge", "-d", 3, "--source", 1, "--target", 2, "--target-labelled", two / "names.txt")
    assert unlabelled_cases(description(folder)) == {"x"}


def test_a_target_without_validation_leaves_the_sources(
    two: Path, dataset: Run, nnunet_root: Path, tmp_path: Path
) -> None:
    flags = ("--label", "inner=1", "--label", "outer=2", "--channel", "LGE")
    dataset("folder", study(tmp_path / "plain", "pq"), "-d", 4, *flags)
    folder = dataset("merge", "-d", 5, "--source", 1, "--target", 4)
    splits = json.loads((nnunet_root / "preprocessed" / folder.name / "splits_final.json").read_text())
    assert splits == [{"train": ["a", "b", "c", "p", "q"], "val": ["d"]}]
    assert unlabelled_cases(description(folder)) == {"p", "q"}
    assert description(folder)["channel_names"] == {"0": "MR+LGE"}


def test_equal_case_names_are_told_apart_by_their_dataset(two: Path, dataset: Run, tmp_path: Path) -> None:
    flags = ("--label", "inner=1", "--label", "outer=2", "--channel", "MR")
    dataset("folder", study(tmp_path / "twin", "ab"), "-d", 4, *flags)
    folder = dataset("merge", "-d", 5, "--source", 1, "--target", 4)
    assert set(domains(description(folder))) == {"near_a", "near_b", "near_c", "near_d", "twin_a", "twin_b"}


def test_datasets_that_do_not_go_together_are_refused(
    two: Path, dataset: Run, refused: Refused, tmp_path: Path
) -> None:
    assert "--target 1: the same dataset" in refused("merge", "-d", 3, "--source", 1, "--target", 1)
    assert "--target 9: no such dataset" in refused("merge", "-d", 3, "--source", 1, "--target", 9)
    nowhere = ("--target-labelled", "nowhere.txt")
    assert "--target-labelled nowhere.txt: no such file" in refused(
        "merge", "-d", 3, "--source", 1, "--target", 2, *nowhere
    )
    other = study(tmp_path / "other", "m", values=(0, 1))
    dataset("folder", other, "-d", 4, "--label", "scar=1")
    assert "label scar" in refused("merge", "-d", 3, "--source", 1, "--target", 4)
    for channel in range(2):
        volume(tmp_path / "two" / "images" / f"n_{channel:04d}.mha")
    volume(tmp_path / "two" / "labels" / "n.mha", [0, 1])
    dataset("folder", tmp_path / "two", "-d", 6, "--label", "inner=1")
    assert "2 channels, 1 are needed" in refused("merge", "-d", 3, "--source", 1, "--target", 6)


def test_a_description_without_what_every_dataset_has_is_refused(
    two: Path, refused: Refused, nnunet_root: Path
) -> None:
    file = nnunet_root / "raw" / "Dataset002_far" / "dataset.json"
    content = json.loads(file.read_text())
    del content["file_ending"]
    file.write_text(json.dumps(content))
    line = refused("merge", "-d", 3, "--source", 1, "--target", 2)
    assert f"{file}: no file_ending" in line
