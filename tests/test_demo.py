"""The demo from end to end, as short as it can be, and that running it again goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_ext import demo
from nnunet_ext.files import read_json

TRAINED = Path("results", demo.DATASET, f"{demo.TRAINER}__nnUNetPlans__2d", "fold_0", "checkpoint_final.pth")
SCANS = 2


@pytest.mark.slow
def test_the_demo_ends_in_reports_and_does_not_train_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "TRAINING_HEARTS", 6)  # nnU-Net makes five folds
    monkeypatch.setattr(demo, "TEST_HEARTS", SCANS)
    monkeypatch.setattr(demo, "LENGTH", ("epochs=1", "iterations_per_epoch=2", "val_iterations_per_epoch=1"))
    root = tmp_path / "demo"

    report = demo.run(root)
    assert report == root / "report.html"
    assert report.as_uri() in capsys.readouterr().out
    for scores, modality in ((root / "report.json", "cine"), (root / "report_lge.json", "lge")):
        assert scores.with_suffix(".html").read_text(encoding="utf-8").rstrip().endswith("</html>")
        assert 0 <= demo._mean_dice(scores) <= 1
        masks = root / "predictions" / f"test_{modality}"
        assert sorted(p.name for p in masks.glob("*.nii.gz")) == [f"{modality}_{i:03d}.nii.gz" for i in range(SCANS)]
    assert len(read_json(root / "preprocessed" / demo.DATASET / "splits_final.json")) == 5

    made = {p: p.stat().st_mtime_ns for p in (root / TRAINED, root / "model.tar.gz", *root.rglob("predictions/*/*.gz"))}
    before = (root / "log.txt").read_text(encoding="utf-8")
    report.unlink()
    assert demo.run(root) == report
    assert report.exists()
    assert {p: p.stat().st_mtime_ns for p in made} == made
    # Of the log's lines, those of commands begin so; only the scores are made again.
    added = (root / "log.txt").read_text(encoding="utf-8").removeprefix(before)
    commands = [line for line in added.splitlines() if line.startswith("$ ")]
    assert [command.split()[1:3] for command in commands] == [["nnunet_ext", "evaluate"]] * 2
