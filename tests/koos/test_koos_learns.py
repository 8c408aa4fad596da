"""The whole pipeline learns what volume alone cannot tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from sklearn.linear_model import LogisticRegression

from nnunet_ext.cli import main
from nnunet_ext.data.dataset import Case, write_dataset
from nnunet_ext.data.tumour_phantoms import GRADES, LABELS, write_tumours
from nnunet_ext.koos.grades import write_csv
from nnunet_ext.koos.scores import read_and_score, score

PERSONS = {"train": 96, "test": 48}


@pytest.mark.slow
def test_full_pipeline_beats_volume_and_majority_on_held_out_persons(nnunet_root: Path) -> None:
    grades = {part: write_tumours(nnunet_root / part, n, seed=i) for i, (part, n) in enumerate(PERSONS.items())}
    for part, known in grades.items():
        write_csv(known, nnunet_root / f"{part}.csv")
    train, test = nnunet_root / "train", nnunet_root / "test"
    cases = [
        Case(c, (train / "images" / f"{c}.nii.gz",), train / "labels" / f"{c}.nii.gz", f"person{c[-3:]}", c[:4])
        for c in grades["train"]
    ]
    write_dataset("Dataset701_Pairs", cases, ["MRI"], LABELS)
    model, predictions = nnunet_root / "model", nnunet_root / "predicted.csv"
    fit = ("koos", "fit", "-d", "701", "-g", nnunet_root / "train.csv", "-o", model, "--encoder", "none")
    main([str(word) for word in (*fit, "--tumour", "VS", "--preset", "cpu")])
    predict = ("koos", "predict", "-i", test / "images", "--masks", test / "labels", "-m", model, "-o", predictions)
    main([str(word) for word in predict])
    own = read_and_score(predictions, nnunet_root / "test.csv", GRADES)

    def volumes(part: str) -> np.ndarray:
        files = [nnunet_root / part / "labels" / f"{c}.nii.gz" for c in grades[part]]
        masks = [sitk.ReadImage(str(file)) for file in files]
        return np.log([[(sitk.GetArrayFromImage(m) == 1).sum() * np.prod(m.GetSpacing())] for m in masks])

    regression = LogisticRegression().fit(volumes("train"), list(grades["train"].values()))
    guessed = dict(zip(grades["test"], regression.predict(volumes("test")).tolist(), strict=True))
    by_volume = score(guessed, grades["test"], GRADES)
    assert own.ma_mae < 0.6 * by_volume.ma_mae
    assert own.ma_mae < 0.5 * own.constant()[1]
