"""Miniature copies of the published layouts: names, label values, folds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from volumes import array_of, values_in, volume

from nnunet_ext.data.dataset import domains, subjects, unlabelled_cases

Run = Callable[..., Path]
Refused = Callable[..., str]


def description(folder: Path) -> dict:
    return json.loads((folder / "dataset.json").read_text())


def folds(nnunet_root: Path, folder: Path) -> list[dict[str, list[str]]]:
    return json.loads((nnunet_root / "preprocessed" / folder.name / "splits_final.json").read_text())


def acdc(root: Path, patients: int = 6) -> Path:
    for number in range(1, patients + 1):
        folder = root / f"patient{number:03d}"
        volume(folder / f"{folder.name}_4d.nii.gz")  # unreadable for the converter's purposes and not to be touched
        for frame in ("01", "12"):
            volume(folder / f"{folder.name}_frame{frame}.nii.gz")
            volume(folder / f"{folder.name}_frame{frame}_gt.nii.gz", [0, 1, 2, 3])
        (folder / "Info.cfg").write_text("ED: 1\nES: 12\n")
    return root


@pytest.mark.parametrize("above", ["", "training", "database/training"])
def test_acdc(above: str, tmp_path: Path, dataset: Run, nnunet_root: Path) -> None:
    acdc(tmp_path / "acdc" / above)
    folder = dataset("acdc", tmp_path / "acdc", "-d", 27)
    content = description(folder)
    assert folder.name == "Dataset027_ACDC"
    assert content["labels"] == {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
    assert content["numTraining"] == 12
    assert subjects(content)["patient003_frame12"] == "patient003"
    assert set(domains(content).values()) == {"cine"}
    # Without a split the folds keep both frames of a patient on one side, and every case validates once.
    written = folds(nnunet_root, folder)
    assert len(written) == 5
    for fold in written:
        assert not {c[:10] for c in fold["train"]} & {c[:10] for c in fold["val"]}
        assert len(fold["train"]) + len(fold["val"]) == 12
    assert sorted(c for fold in written for c in fold["val"]) == sorted(domains(content))


def test_acdc_with_a_split_of_patients_and_few_labels(tmp_path: Path, dataset: Run, nnunet_root: Path) -> None:
    source = acdc(tmp_path / "acdc")
    split = {
        "train": [f"patient{n:03d}" for n in range(1, 5)],
        "val": ["patient005", "patient006_frame01"],
        "labelled_1": ["patient002"],
    }
    (tmp_path / "split.json").write_text(json.dumps(split))
    (source / "patient001" / "patient001_frame01_gt.nii.gz").write_bytes(b"not an image")
    flags = ("--split", tmp_path / "split.json", "--labelled", f"{tmp_path / 'split.json'}:labelled_1")
    folder = dataset("acdc", source, "-d", 27, *flags)
    labelled = set(domains(description(folder))) - unlabelled_cases(description(folder))
    assert labelled == {
        "patient002_frame01",
        "patient002_frame12",
        "patient005_frame01",
        "patient005_frame12",
        "patient006_frame01",
    }
    assert folds(nnunet_root, folder) == [
        {
            "train": [f"patient{n:03d}_frame{f}" for n in range(1, 5) for f in ("01", "12")],
            "val": ["patient005_frame01", "patient005_frame12", "patient006_frame01"],
        }
    ]


def test_few_labels_without_a_split_never_validate_on_unlabelled_cases(
    tmp_path: Path, dataset: Run, nnunet_root: Path
) -> None:
    source = acdc(tmp_path / "acdc")
    (tmp_path / "names.txt").write_text("patient001\npatient004\npatient006\n")
    folder = dataset("acdc", source, "-d", 27, "--labelled", tmp_path / "names.txt")
    blind = unlabelled_cases(description(folder))
    written = folds(nnunet_root, folder)
    assert len(written) == 3
    assert all(len(fold["val"]) == 2 and not set(fold["val"]) & blind for fold in written)
    assert all(blind <= set(fold["train"]) for fold in written)


def test_a_split_that_shares_a_patient_is_refused(tmp_path: Path, refused: Refused) -> None:
    source = acdc(tmp_path / "acdc", 2)
    (tmp_path / "split.json").write_text('{"train": ["patient001", "patient002"], "val": ["patient002_frame01"]}')
    assert "patient002_frame01 is in train and in val" in refused(
        "acdc", source, "-d", 27, "--split", tmp_path / "split.json"
    )


def test_acdc_pairs_and_empty_folders(tmp_path: Path, refused: Refused) -> None:
    source = acdc(tmp_path / "acdc", 2)
    (source / "patient002" / "patient002_frame01.nii.gz").unlink()
    assert "patient002_frame01_gt.nii.gz: no image" in refused("acdc", source, "-d", 27)
    (source / "patient002" / "patient002_frame01_gt.nii.gz").unlink()
    (source / "patient002" / "patient002_frame12_gt.nii.gz").unlink()
    assert "patient002_frame12.nii.gz: no label" in refused("acdc", source, "-d", 27)
    (tmp_path / "nothing").mkdir()
    assert "an empty folder" in refused("acdc", tmp_path / "nothing", "-d", 27)


def test_mscmr_of_the_challenge_maps_its_values(tmp_path: Path, dataset: Run) -> None:
    root = tmp_path / "MSCMR"
    for number in range(1, 4):
        for sequence in ("C0", "T2", "LGE"):
            volume(root / "c0t2lge" / f"patient{number}_{sequence}.nii.gz")
    gt = volume(root / "lgegt" / "patient2_LGE_manual.nii.gz", [0, 200, 500, 600])
    folder = dataset("mscmr", root, "-d", 30)
    content = description(folder)
    assert set(domains(content)) == {"patient1_LGE", "patient2_LGE", "patient3_LGE"}
    assert unlabelled_cases(content) == {"patient1_LGE", "patient3_LGE"}
    expected = np.vectorize({0: 0, 200: 2, 500: 3, 600: 1}.get)(array_of(gt))
    assert np.array_equal(array_of(folder / "labelsTr" / "patient2_LGE.nii.gz"), expected)
    assert set(domains(description(dataset("mscmr", root, "-d", 31, "--sequence", "C0"))).values()) == {"c0"}


def test_mscmr_with_train_and_val_folders_makes_a_fold(tmp_path: Path, dataset: Run, nnunet_root: Path) -> None:
    root = tmp_path / "MSCMR_LGE"
    for number in (2, 10):
        volume(root / "train" / f"subject{number}_DE.nii.gz")
    volume(root / "val" / "subject1_DE.nii.gz")
    volume(root / "val" / "subject1_DE_gt.nii.gz", [0, 1, 2, 3])
    folder = dataset("mscmr", root, "-d", 30)
    assert folds(nnunet_root, folder) == [{"train": ["subject2_DE", "subject10_DE"], "val": ["subject1_DE"]}]
    assert values_in(folder / "labelsTr" / "subject1_DE.nii.gz") == {0, 1, 2, 3}
    assert values_in(folder / "labelsTr" / "subject10_DE.nii.gz") == {4}


CROSSMODA = {
    "2021": ("crossmoda_training/source_training", "crossmoda_training/target_training", "crossmoda_{}", "hrT2"),
    "2022": ("training_source", "training_target", "crossmoda2022_etz_{}", "hrT2"),
    "2023": (
        "crossmoda23_training/TrainingSource",
        "crossmoda23_training/TrainingTarget",
        "crossmoda2023_ukm_{}",
        "T2",
    ),
}


def crossmoda(root: Path, edition: str) -> Path:
    source, target, name, t2 = CROSSMODA[edition]
    for number in (1, 2):
        volume(root / source / f"{name.format(number)}_ceT1.nii.gz")
        volume(root / source / f"{name.format(number)}_Label.nii.gz", [0, 1, 2, 3] if edition == "2023" else [0, 1, 2])
    if edition == "2022":
        volume(root / source / "crossmoda2021_ldn_1_ceT1.nii.gz")
        volume(root / source / "crossmoda2021_ldn_1_Label.nii.gz", [0, 1, 2])
    volume(root / target / f"{name.format(106)}_{t2}.nii.gz")
    volume(root / f"crossmoda_{edition}_validation" / f"{name.format(211)}_{t2}.nii.gz")
    return root


@pytest.mark.parametrize("edition", CROSSMODA)
def test_crossmoda(edition: str, tmp_path: Path, dataset: Run) -> None:
    root = crossmoda(tmp_path / "x", edition)
    folder = dataset("crossmoda", root, "-d", 40)
    content = description(folder)
    *_, name, t2 = CROSSMODA[edition]
    assert folder.name == f"Dataset040_crossMoDA{edition}"
    target = f"{name.format(106)}_{t2}"
    assert unlabelled_cases(content) == {target}
    assert domains(content)[target] == "hrT2"
    assert domains(content)[f"{name.format(1)}_ceT1"] == "ceT1"
    structures = (
        {"VS_intrameatal": 1, "VS_extrameatal": 2, "cochlea": 3} if edition == "2023" else {"VS": 1, "cochlea": 2}
    )
    assert content["labels"] == {"background": 0, **structures, "ignore": len(structures) + 1}
    if edition == "2022":
        assert content["nnunet_ext"]["site"]["crossmoda2021_ldn_1_ceT1"] == "ldn"


def test_crossmoda_2023_as_a_whole_tumour_of_one_modality(tmp_path: Path, dataset: Run) -> None:
    root = crossmoda(tmp_path / "x", "2023")
    folder = dataset("crossmoda", root, "-d", 40, "--whole-tumour", "--modality", "ceT1")
    name = "crossmoda2023_ukm_1"
    original = array_of(root / CROSSMODA["2023"][0] / f"{name}_Label.nii.gz")
    expected = np.vectorize({0: 0, 1: 1, 2: 1, 3: 2}.get)(original)
    assert np.array_equal(array_of(folder / "labelsTr" / f"{name}_ceT1.nii.gz"), expected)
    assert description(folder)["labels"] == {"background": 0, "VS": 1, "cochlea": 2}
    assert description(folder)["channel_names"] == {"0": "ceT1"}


def test_crossmoda_source_scans_need_labels(tmp_path: Path, refused: Refused) -> None:
    root = crossmoda(tmp_path / "x", "2021")
    (root / CROSSMODA["2021"][0] / "crossmoda_2_Label.nii.gz").unlink()
    assert "crossmoda_2_ceT1.nii.gz: no crossmoda_2_Label" in refused("crossmoda", root, "-d", 40)


MMWHS = [0, 500, 600, 420, 550, 205, 820, 850, 421]


def mmwhs(root: Path) -> Path:
    for modality in ("ct", "mr"):
        for number in (1001, 1002):
            volume(root / f"{modality}_train" / f"{modality}_train_{number}_image.nii.gz")
            volume(root / f"{modality}_train" / f"{modality}_train_{number}_label.nii.gz", MMWHS)
        volume(root / f"{modality}_test" / f"{modality}_test_2001_image.nii.gz")
    return root


@pytest.mark.parametrize(
    ("structures", "expected"),
    [
        ("all", {0: 0, 500: 1, 600: 2, 420: 3, 421: 3, 550: 4, 205: 5, 820: 6, 850: 7}),
        ("four", {0: 0, 205: 1, 420: 2, 421: 2, 500: 3, 820: 4, 600: 0, 550: 0, 850: 0}),
    ],
)
def test_mmwhs(structures: str, expected: dict[int, int], tmp_path: Path, dataset: Run) -> None:
    root = mmwhs(tmp_path / "x")
    folder = dataset("mmwhs", root, "-d", 41, "--structures", structures)
    names = {"ct_train_1001": "ct", "ct_train_1002": "ct", "mr_train_1001": "mr", "mr_train_1002": "mr"}
    assert domains(description(folder)) == names
    original = array_of(root / "mr_train" / "mr_train_1002_label.nii.gz")
    assert np.array_equal(array_of(folder / "labelsTr" / "mr_train_1002.nii.gz"), np.vectorize(expected.get)(original))
    labels = description(folder)["labels"]
    assert labels["MYO"] == expected[205]
    assert labels["AA"] == expected[820]
    only = dataset("mmwhs", root, "-d", 42, "--modality", "ct")
    assert description(only)["channel_names"] == {"0": "CT"}
    assert description(only)["numTraining"] == 2


@pytest.mark.parametrize(
    ("organs", "expected"),
    [
        ("13", {v: v for v in range(14)}),
        ("8", {0: 0, 8: 1, 4: 2, 3: 3, 2: 4, 6: 5, 11: 6, 1: 7, 7: 8, 5: 0, 9: 0, 10: 0, 12: 0, 13: 0}),
    ],
)
def test_synapse(organs: str, expected: dict[int, int], tmp_path: Path, dataset: Run, nnunet_root: Path) -> None:
    for number in (1, 2, 5):
        volume(tmp_path / "RawData" / "Training" / "img" / f"img{number:04d}.nii.gz")
        volume(tmp_path / "RawData" / "Training" / "label" / f"label{number:04d}.nii.gz", range(14))
    volume(tmp_path / "RawData" / "Testing" / "img" / "img0061.nii.gz")
    (tmp_path / "split.json").write_text('{"train": ["case0002", "img0005"], "val": ["img0001"]}')
    folder = dataset("synapse", tmp_path / "RawData", "-d", 43, "--organs", organs, "--split", tmp_path / "split.json")
    original = array_of(tmp_path / "RawData" / "Training" / "label" / "label0005.nii.gz")
    assert np.array_equal(array_of(folder / "labelsTr" / "case0005.nii.gz"), np.vectorize(expected.get)(original))
    assert len(description(folder)["labels"]) == int(organs) + 1
    assert folds(nnunet_root, folder) == [{"train": ["case0002", "case0005"], "val": ["case0001"]}]
