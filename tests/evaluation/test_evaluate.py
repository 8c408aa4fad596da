"""Folders in, scores and files out: which cases are scored, what is refused, what is written."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.evaluate import evaluate
from nnunet_ext.evaluation.export import as_json, write_csv
from nnunet_ext.evaluation.result import MEAN

LABELS = {"background": 0, "left": 1, "right": 2, "ignore": 3}
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def volume(left: int = 4, right: int = 4) -> np.ndarray:
    """Two bars of `left` and `right` voxels along x in a volume of 3 x 8 x 16 voxels."""
    array = np.zeros((3, 8, 16), np.uint8)
    array[1, 2, 1 : 1 + left] = 1
    array[1, 5, 1 : 1 + right] = 2
    return array


def save(path: Path, array: np.ndarray, **changes: object) -> None:
    image = sitk.GetImageFromArray(array)
    if array.ndim == 3:
        image.SetSpacing(changes.get("spacing", (1.0, 1.0, 5.0)))
        image.SetOrigin(changes.get("origin", (-20.0, 7.0, 3.0)))
        image.SetDirection(changes.get("direction", OBLIQUE))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A perfect prediction of case a; in b `left` is half as long and `right` is missed."""
    prediction, truth = tmp_path / "good", tmp_path / "labelsTr"
    save(truth / "a.nii.gz", volume())
    save(truth / "b.nii.gz", volume())
    save(prediction / "a.nii.gz", volume())
    save(prediction / "b.nii.gz", volume(left=2, right=0))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    return prediction, truth


def test_scores_and_means_by_hand(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    evaluation = evaluate([prediction], truth)
    diagonal = math.hypot(3 * 5, 8, 16)
    assert evaluation.values("good", "left", "dice") == pytest.approx([1.0, 2 / 3])
    assert evaluation.values("good", "right", "dice") == [1.0, 0.0]
    assert evaluation.values("good", "right", "hd95") == pytest.approx([0.0, diagonal])
    assert evaluation.values("good", MEAN, "dice") == pytest.approx([1.0, 1 / 3])
    assert evaluation.summary("good", "right", "hd95").mean == pytest.approx(diagonal / 2)
    assert evaluation.summary_where_found("good", "right", "hd95").mean == 0.0
    assert evaluation.outcomes("good", "right") == {"found": 1, "missed": 1, "invented": 0, "absent": 0}
    assert evaluation.outcomes("good", MEAN) == {"found": 3, "missed": 1, "invented": 0, "absent": 0}


def test_absent_is_left_out_and_counted(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    save(truth / "b.nii.gz", volume(left=2, right=0))
    evaluation = evaluate([prediction], truth)
    assert evaluation.summary("good", "right", "dice").n == 1
    assert evaluation.outcomes("good", "right")["absent"] == 1
    assert evaluation.values("good", MEAN, "dice") == [1.0, 1.0]


def test_a_pair_counts_who_rightly_left_a_structure_out(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    other = truth.parent / "other"
    save(truth / "b.nii.gz", volume(left=2, right=0))
    save(other / "a.nii.gz", volume())
    save(other / "b.nii.gz", volume(left=2, right=3))
    evaluation = evaluate([prediction, other], truth)
    found = {(c.structure, c.metric): c.test for c in evaluation.comparisons()}
    assert (found["right", "dice"].n, found["right", "dice"].difference) == (2, -0.5)
    assert found["right", "hd95"].difference == pytest.approx(math.hypot(15, 8, 16) / 2)
    assert found[MEAN, "dice"].difference == pytest.approx((0 + (0.5 - 1)) / 2)


def test_jobs_change_nothing(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    assert as_json(evaluate([prediction], truth, jobs=2)) == as_json(evaluate([prediction], truth))


def test_file_formats_may_differ(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    (prediction / "a.nii.gz").unlink()
    save(prediction / "a.mha", volume())
    assert evaluate([prediction], truth).values("good", "left", "dice")[0] == 1.0


def test_png_masks(tmp_path: Path) -> None:
    save(tmp_path / "p" / "x.png", volume()[1])
    save(tmp_path / "t" / "x.png", volume()[1])
    evaluation = evaluate([tmp_path / "p"], tmp_path / "t", label=["both=1,2"])
    assert evaluation.values("p", "both", "dice") == [1.0]


def test_without_names_the_values_found_are_scored(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    (truth.parent / "dataset.json").unlink()
    evaluation = evaluate([prediction], truth)
    assert evaluation.labels.classes == {"label 1": (1,), "label 2": (2,)}
    assert "label 1, label 2" in evaluation.notes[0]


def test_label_picks_structures_and_keeps_the_ignore_label(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    array = volume()
    array[1, 2, 3:5] = 3  # what the prediction of b lacks is not to be scored
    save(truth / "b.nii.gz", array)
    evaluation = evaluate([prediction], truth, label=["L=1"])
    assert evaluation.structures == evaluation.rows == ["L"]
    assert evaluation.values("good", "L", "dice") == [1.0, 1.0]


def test_a_label_that_no_mask_holds_is_told(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    notes = evaluate([prediction], truth, label=["L=1", "lost=77"]).notes
    assert notes == ["lost: its value 77 is in no mask, of the ground truth or of a prediction."]


def test_unlabelled_cases_are_never_read(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    (truth / "u.nii.gz").write_text("not an image")
    content = {"labels": LABELS, "nnunet_ext": {"unlabelled": ["u"]}}
    (truth.parent / "dataset.json").write_text(json.dumps(content))
    assert evaluate([prediction], truth).cases == ["a", "b"]


def test_a_truth_of_ignore_alone_is_left_out_and_told(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    save(truth / "b.nii.gz", np.full((3, 8, 16), 3, np.uint8))
    evaluation = evaluate([prediction], truth)
    assert evaluation.cases == ["a"]
    assert evaluation.notes == ["Left out, because the ground truth is nothing but the ignore label: b."]


def test_subjects_from_dataset_json_and_from_a_pattern(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    content = {"labels": LABELS, "nnunet_ext": {"subject": {"a": "p1", "b": "p1"}}}
    (truth.parent / "dataset.json").write_text(json.dumps(content))
    assert evaluate([prediction], truth).subjects == {"a": "p1", "b": "p1"}
    assert evaluate([prediction], truth, subject_pattern="^.").subjects == {"a": "a", "b": "b"}
    with pytest.raises(InputError, match=r"does not match case b"):
        evaluate([prediction], truth, subject_pattern="(a)")
    with pytest.raises(InputError, match=r"--subject-pattern: '\(' is not a regular expression"):
        evaluate([prediction], truth, subject_pattern="(")


def test_missing_and_extra_predictions(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    for case in "cd":
        save(truth / f"{case}.nii.gz", volume())
    save(prediction / "z.nii.gz", volume())
    with pytest.raises(InputError, match=r"good: no prediction for c and 1 more \(of 4 in "):
        evaluate([prediction], truth)
    evaluation = evaluate([prediction], truth, partial=True)
    assert evaluation.cases == ["a", "b"]
    assert [note for note in evaluation.notes if "c and 1 more" in note]
    assert [note for note in evaluation.notes if note.endswith("not scored: z.")]


def test_partial_scores_the_same_cases_for_every_method(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    save(truth.parent / "other" / "b.nii.gz", volume())
    evaluation = evaluate([prediction, truth.parent / "other"], truth, partial=True)
    assert {tuple(cases) for cases in evaluation.scores.values()} == {("b",)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"origin": (-20.0, 7.5, 3.0)},
            r"good/b\.nii\.gz: .*origin \(-20, 7\.5, 3\).*labelsTr/b\.nii\.gz is needed",
        ),
        ({"spacing": (1.0, 1.0, 5.2)}, r"spacing \(1, 1, 5\.2\).* is needed: spacing \(1, 1, 5\)"),
        (
            {"direction": (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)},
            r"direction \(1, 0, 0, .* is needed: .*\(0\.8, -0\.6,",
        ),
    ],
)
def test_another_geometry_is_refused(folders: tuple[Path, Path], change: dict[str, object], message: str) -> None:
    prediction, truth = folders
    save(prediction / "b.nii.gz", volume(), **change)
    with pytest.raises(InputError, match=message):
        evaluate([prediction], truth)


def test_rounding_of_a_header_is_no_other_geometry(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    save(prediction / "b.nii.gz", volume(), origin=(-20.000001, 7.0, 3.0), spacing=(1.0, 1.0, 5.000001))
    assert evaluate([prediction], truth).cases == ["a", "b"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (volume()[:, :, :9], r"b\.nii\.gz: size \(9, 8, 3\), .* is needed: \(16, 8, 3\)"),
        (volume() * 4, r"b\.nii\.gz: label value 4 found, one of the declared values 0, 1, 2, 3 is needed"),
        (volume() * np.float32(0.5), r"b\.nii\.gz: the value 0\.5 found, integers are needed"),
        (np.zeros((2, 3, 8, 16), np.float32), r"b\.nii\.gz: 4 dimensions and 1 values per voxel"),
    ],
)
def test_bad_masks_are_refused(folders: tuple[Path, Path], array: np.ndarray, message: str) -> None:
    prediction, truth = folders
    if array.ndim == 4:
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), prediction / "b.nii.gz")
    else:
        save(prediction / "b.nii.gz", array)
    with pytest.raises(InputError, match=message):
        evaluate([prediction], truth)


def test_an_unreadable_mask_is_refused(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    (prediction / "b.nii.gz").write_text("nothing")
    with pytest.raises(InputError, match=r"b\.nii\.gz: not readable"):
        evaluate([prediction], truth)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_truncated_mask_is_not_filled_with_background(folders: tuple[Path, Path], ending: str) -> None:
    prediction, truth = folders
    (prediction / "b.nii.gz").unlink()
    target = prediction / f"b{ending}"
    save(target, np.random.default_rng(0).integers(0, 3, (3, 8, 16)).astype(np.uint8))
    target.write_bytes(target.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"b\.nii(\.gz)?: (truncated|not readable)"):
        evaluate([prediction], truth)


@pytest.mark.parametrize(("option", "flag"), [({"jobs": 0}, "--jobs 0"), ({"seed": -1}, "--seed -1")])
def test_numbers_that_do_not_serve(folders: tuple[Path, Path], option: dict[str, int], flag: str) -> None:
    with pytest.raises(InputError, match=flag):
        evaluate([folders[0]], folders[1], **option)


def test_folders_that_do_not_serve(folders: tuple[Path, Path], tmp_path: Path) -> None:
    prediction, truth = folders
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no mask found"):
        evaluate([tmp_path / "empty"], truth)
    with pytest.raises(InputError, match=r"nowhere: no such folder"):
        evaluate([tmp_path / "nowhere"], truth)
    save(prediction / "a.mha", volume())
    with pytest.raises(InputError, match=r"a\.mha and a\.nii\.gz are both case a"):
        evaluate([prediction], truth)


def test_names(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    assert evaluate([prediction, truth], truth, names=["mine", "ideal"]).methods == ["mine", "ideal"]
    with pytest.raises(InputError, match=r"--names: 1 given, one for each of 2 folders"):
        evaluate([prediction, truth], truth, names=["mine"])
    with pytest.raises(InputError, match=r"--names: 'x' stands for two folders"):
        evaluate([prediction, truth], truth, names=["x", "x"])


def test_folders_of_one_name_are_called_by_where_they_differ(folders: tuple[Path, Path], tmp_path: Path) -> None:
    paths = [tmp_path / trainer / "fold_0" / "validation" for trainer in ("CSUNet__2d", "SwinUNet__2d")]
    for path in paths:
        for case in "ab":
            save(path / f"{case}.nii.gz", volume())
    assert evaluate(paths, folders[1]).methods == ["CSUNet__2d", "SwinUNet__2d"]
    with pytest.raises(InputError, match=r"stands for two folders"):
        evaluate([paths[0], paths[0]], folders[1])


@pytest.mark.parametrize("text", ["left", "=1", "left=", "left=one", "left=1,,2"])
def test_label_that_does_not_read(folders: tuple[Path, Path], text: str) -> None:
    with pytest.raises(InputError, match=r"--label: found '.*', NAME=VALUE"):
        evaluate([folders[0]], folders[1], label=[text])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no 'labels' found"),
        ({"labels": {"a": "one"}}, "label 'a' is 'one'"),
        ({"labels": {"background": 0}}, "a structure to score is needed"),
    ],
)
def test_a_dataset_json_that_does_not_serve(folders: tuple[Path, Path], content: object, message: str) -> None:
    target = folders[1].parent / "dataset.json"
    target.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        evaluate([folders[0]], folders[1])


def test_csv_has_a_row_per_case_and_structure(folders: tuple[Path, Path], tmp_path: Path) -> None:
    prediction, truth = folders
    save(truth / "b.nii.gz", volume(left=4, right=0))
    write_csv(evaluate([prediction], truth), tmp_path / "scores.csv")
    rows = list(csv.DictReader((tmp_path / "scores.csv").open(encoding="utf-8")))
    assert [(r["method"], r["case"], r["structure"], r["outcome"]) for r in rows] == [
        ("good", "a", "left", "found"),
        ("good", "a", "right", "found"),
        ("good", "b", "left", "found"),
        ("good", "b", "right", "absent"),
    ]
    assert float(rows[2]["dice"]) == pytest.approx(2 / 3)
    assert (rows[2]["predicted_voxels"], rows[2]["true_voxels"]) == ("2", "4")
    assert rows[3]["dice"] == ""


def test_command_line_writes_everything(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prediction, truth = folders
    out = tmp_path / "out"
    files = ["--csv", f"{out}/s.csv", "--json", f"{out}/s.json", "--report", f"{out}/page.html"]
    main(["evaluate", str(prediction), str(truth), "--against", str(truth), "--names", "mine", "ideal", *files])
    shown = capsys.readouterr().out
    assert "0.833 ± 0.236" in shown  # left: 1 and 2/3
    assert str(out / "page.html") in shown
    assert sorted(path.name for path in out.iterdir()) == ["page.html", "s.csv", "s.json"]
    content = json.loads((out / "s.json").read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(name))
    assert content["methods"]["mine"]["summary"]["right"]["outcomes"]["missed"] == 1
    assert content["methods"]["mine"]["cases"]["b"]["left"]["dice"] == pytest.approx(2 / 3)
    assert {(c["first"], c["second"]) for c in content["comparisons"]} == {("mine", "ideal")}


@pytest.mark.parametrize(
    "words",
    [["--label", "L=1", "--label", "R=2"], ["--label", "L=1", "R=2"]],
)
def test_every_label_of_the_command_line_counts(
    folders: tuple[Path, Path], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    prediction, truth = folders
    (prediction / "b.nii.gz").unlink()
    (truth / "b.nii.gz").unlink()
    main(["evaluate", str(prediction), str(truth), *words])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[:3] for row in rows[:2]] == [["L", "good", "1.000"], ["R", "good", "1.000"]]
    assert "nan" not in str(rows)


def test_command_line_refuses_in_one_line(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    prediction, truth = folders
    (prediction / "b.nii.gz").unlink()
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(prediction), str(truth)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(f"nnunet_ext: {prediction}: no prediction for b")


def test_real_masks_against_themselves(shared_data: Path, tmp_path: Path) -> None:
    """Oblique late-enhancement scans: a mask is perfect against itself, and a shift by one voxel is one spacing."""
    truth = tmp_path / "labelsTr"
    truth.mkdir()
    source = sorted((shared_data / "MSCMR_LGE" / "val").glob("*_gt.nii.gz"))[0]
    mask = sitk.ReadImage(source)
    sitk.WriteImage(mask, truth / "a.nii.gz")
    shifted = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(mask), 1, axis=2))
    shifted.CopyInformation(mask)
    (tmp_path / "shifted").mkdir()
    sitk.WriteImage(shifted, tmp_path / "shifted" / "a.nii.gz")
    evaluation = evaluate([truth, tmp_path / "shifted"], truth, label=["RV=1", "MYO=2", "LV=3"])
    for structure in evaluation.structures:
        assert evaluation.values("labelsTr", structure, "hd95") == [0.0]
        assert evaluation.values("shifted", structure, "hd95")[0] == pytest.approx(mask.GetSpacing()[0], rel=1e-5)
