"""The demo from end to end, as short as it can be, and that running it again goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnunet_ext import demo
from nnunet_ext.files import read_json

FOLDS = Path("results", demo.TRANSLATED, f"{demo.TRAINER}__nnUNetPlans__2d", "fold_0")
HEARTS, SCANS = 6, 2  # nnU-Net makes five folds


def commands(log: str) -> list[list[str]]:
    """The first words of the commands in a workspace's log."""
    return [line.split()[1:4] for line in log.splitlines() if line.startswith("$ ")]


@pytest.mark.slow
def test_the_demo_compares_with_and_without_translation_and_does_not_train_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "TRAINING_HEARTS", HEARTS)
    monkeypatch.setattr(demo, "TEST_HEARTS", SCANS)
    monkeypatch.setattr(demo, "LENGTH", ("epochs=1", "iterations_per_epoch=2", "val_iterations_per_epoch=1"))
    # A learned view of a few updates is no translation, and the gate says so.
    monkeypatch.setattr(demo, "VIEWS", {"histogram": ("percentiles=[1,99]",)})
    monkeypatch.setattr(demo, "TRAINING_PERSONS", 12)  # one batch of the preset: three of each grade
    monkeypatch.setattr(demo, "TEST_PERSONS", 4)
    monkeypatch.setattr(demo, "GRADING", ("--no-pretraining", "--set", "head_epochs=1", "iterations_per_epoch=1"))
    root = tmp_path / "demo"

    report = demo.run(root, koos=True)
    assert report == root / "report.html"
    assert report.as_uri() in capsys.readouterr().out
    for scores, methods in (("report_cine.json", {"source_only"}), ("report.json", {"translated", "source_only"})):
        assert (root / scores).with_suffix(".html").read_text(encoding="utf-8").rstrip().endswith("</html>")
        dice = demo._mean_dice(root / scores)
        assert dice.keys() == methods
        assert all(0 <= value <= 1 for value in dice.values())
    for test, method in (("cine", "source_only"), ("lge", "source_only"), ("lge", "translated")):
        masks = root / "predictions" / f"test_{test}" / method
        assert sorted(p.name for p in masks.glob("*.nii.gz")) == [f"{test}_{i:03d}.nii.gz" for i in range(SCANS)]

    assert len((root / "koos.csv").read_text(encoding="utf-8").splitlines()) == 1 + 4
    assert (root / "report_koos.html").exists()

    assert not (root / "scans" / "lge" / "labels").exists()
    described = json.loads((root / "raw" / demo.TRANSLATED / "dataset.json").read_text())
    assert described["numTraining"] == HEARTS
    assert len(read_json(root / "preprocessed" / demo.TRANSLATED / "splits_final.json")) == 5

    kept = (root / FOLDS / "checkpoint_final.pth", root / "model.tar.gz", *root.rglob("predictions/*/*/*.gz"))
    made = {p: p.stat().st_mtime_ns for p in kept}
    before = (root / "log.txt").read_text(encoding="utf-8")
    report.unlink()
    assert demo.run(root, koos=True) == report
    assert report.exists()
    assert {p: p.stat().st_mtime_ns for p in made} == made
    # Only the scores are made again.
    added = commands((root / "log.txt").read_text(encoding="utf-8").removeprefix(before))
    assert [words[:2] for words in added] == [["nnunet_ext", "evaluate"]] * 2 + [["nnunet_ext", "koos"]]
