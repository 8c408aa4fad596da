"""From dataset and grades to a model and back: what takes part, exact resume, cross-validation, prediction."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from made_koos import TINY, small_scan, tiny, write_grades

from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, write_json
from nnunet_ext.koos import train as stages
from nnunet_ext.koos.batches import Batches
from nnunet_ext.koos.cohort import Exam, View, read_exams
from nnunet_ext.koos.fit import fit, split
from nnunet_ext.koos.grades import read_grades
from nnunet_ext.koos.model import grade, load_model
from nnunet_ext.koos.prepared import Boxes

Made = Callable[..., tuple[str, Path]]
CLASSES = (1, 2, 3, 4)


def exams_of(dataset: str, grades: Path, masks: Path | None = None) -> list[Exam]:
    return read_exams([dataset], read_grades(grades, CLASSES), str(grades), masks, ["VS"])[0]


def test_modalities_of_a_subject_make_one_exam(made: Made) -> None:
    exams = exams_of(*made())
    assert [e.name for e in exams] == [f"p{i}" for i in range(6)]
    assert [[v.case for v in e.views] for e in exams[:2]] == [["a_0", "b_0"], ["a_1", "b_1"]]
    assert [e.grade for e in exams] == [1, 2, 3, 4, 1, None]


def test_a_translation_belongs_to_its_source_and_takes_its_grade_and_mask(made: Made, nnunet_root: Path) -> None:
    dataset, _ = made(persons=2, ungraded=0)
    described = nnunet_root / "raw" / dataset / "dataset.json"
    content = read_json(described)
    # As `translate apply --keep-source` records it: b_0 was made from a_0.
    content["nnunet_ext"] = {
        "translation": {"cases": {f"b_{i}": {"source": f"a_{i}", "view": "msfnet"} for i in range(2)}},
        "unlabelled": ["b_1"],
        "subject": {f"b_{i}": f"a_{i}" for i in range(2)},
        "domain": {"b_0": "hrT2", "b_1": "hrT2"},
    }
    write_json(described, content)
    grades = write_grades(nnunet_root / "some.csv", {"a_0": 3, "a_1": 2})
    exams = exams_of(dataset, grades)
    assert [(e.name, e.grade, [v.case for v in e.views]) for e in exams] == [
        ("a_0", 3, ["a_0", "b_0"]),
        ("a_1", 2, ["a_1", "b_1"]),
    ]
    assert exams[1].views[1].mask.name == exams[1].views[0].mask.name
    assert exams[0].views[1].mask.name.startswith("b_0")


def test_time_points_of_one_modality_stay_apart_but_share_a_fold(made: Made, nnunet_root: Path) -> None:
    dataset, grades = made(persons=4, ungraded=0)
    described = nnunet_root / "raw" / dataset / "dataset.json"
    content = read_json(described)
    content["nnunet_ext"]["domain"] = {}
    write_json(described, content)
    exams = exams_of(dataset, grades)
    assert len(exams) == 8
    for training, held_out in split(exams, 2, 0):
        assert not {e.subject for e in training} & {e.subject for e in held_out}
    held = [e.name for _, held_out in split(exams, 2, 0) for e in held_out]
    assert sorted(held) == sorted(e.name for e in exams)


def test_folds_keep_the_ungraded_in_training(made: Made) -> None:
    exams = exams_of(*made())
    for training, held_out in split(exams, 2, 0):
        assert all(e.grade is not None for e in held_out)
        assert "p5" in [e.name for e in training]
    with pytest.raises(InputError, match="--folds 9: from 2 to the number of graded subjects is needed, 5"):
        split(exams, 9, 0)


def test_bad_cohorts_are_refused(made: Made, nnunet_root: Path) -> None:
    dataset, grades = made(unlabelled=("b_2",))
    with pytest.raises(InputError, match=r"no label for b_2 and no --masks, a mask of the tumour is needed"):
        exams_of(dataset, grades)
    masks = nnunet_root / "masks"
    masks.mkdir()
    sitk.WriteImage(small_scan(2)[1], str(masks / "b_2.mha"))
    assert exams_of(dataset, grades, masks)[2].views[1].mask == masks / "b_2.mha"
    stranger = write_grades(nnunet_root / "s.csv", {"a_0": 1, "nobody": 2})
    with pytest.raises(InputError, match=r"s\.csv: a grade for nobody, which is no case and no subject"):
        exams_of(dataset, stranger, masks)
    torn = write_grades(nnunet_root / "t.csv", {"a_0": 1, "b_0": 2})
    with pytest.raises(InputError, match="different grades for one exam"):
        exams_of(dataset, torn, masks)
    by_subject = write_grades(nnunet_root / "p.csv", {"p0": 4})
    assert exams_of(dataset, by_subject, masks)[0].grade == 4
    for tumour, told in (([], "not given"), (["NoSuch"], "NoSuch is not a label")):
        with pytest.raises(InputError, match=rf"--tumour: {told}.*VS, cochlea"):
            read_exams([dataset], {"a_0": 1}, "g.csv", masks, tumour)


def in_memory(exams: list[Exam]) -> dict[str, object]:
    from nnunet_ext.koos.box import Box

    box = Box(np.zeros((3, 16, 16), np.float32), np.ones((3, 16, 16), np.uint8))
    return {view.case: box for exam in exams for view in exam.views}


def made_exams(counts: dict[int | None, int]) -> list[Exam]:
    return [
        Exam(f"{g}_{i}", f"{g}_{i}", tuple(View(f"{g}_{i}_{v}", Path(), Path()) for v in "ab"), g)
        for g, n in counts.items()
        for i in range(n)
    ]


def test_batches_hold_several_cases_of_each_grade_and_some_without() -> None:
    exams = made_exams({1: 9, 2: 3, 3: 1, 4: 5, None: 6})
    settings = tiny(cases_per_grade=3, ungraded_cases=2, iterations_per_epoch=None)
    batches = Batches(exams, in_memory(exams), settings, (2.0, 2.0, 2.0))  # type: ignore[arg-type]
    assert len(batches) == 2  # 18 graded exams, 3 + 3 + 1 + 3 in a batch
    seen = set()
    for index in range(40):
        rows = batches.compose(0, index)
        assert [g for _, g, _ in rows] == [0] * 3 + [1] * 3 + [2] + [3] * 3 + [-1] * 2
        assert len({e.name for e, _, _ in rows}) == len(rows)
        assert all(sorted(views) == [0, 1] for _, _, views in rows)
        seen |= {e.name for e, _, _ in rows}
    assert seen == {e.name for e in exams}
    assert all(g >= 0 for _, g, _ in batches.compose(1, 0))
    first, again = batches.batch(0, 7), batches.batch(0, 7)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images[0], first.images[1])


def test_an_interrupted_fit_goes_on_to_the_same_bits(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, grades = made(persons=5)
    settings = tiny()
    caplog.set_level("INFO")
    whole = fit([dataset], grades, tmp_path / "whole", "none", settings, tumour=["VS"])
    write, written = stages.write_checkpoint, []

    class Killed(RuntimeError):
        pass

    def write_and_die(state: dict, target: Path) -> None:
        write(state, target)
        written.append(state["epoch"])
        if len(written) in (1, 2, 3):
            raise Killed

    monkeypatch.setattr(stages, "write_checkpoint", write_and_die)
    for _ in range(3):
        with pytest.raises(Killed):
            fit([dataset], grades, tmp_path / "torn", "none", settings, tumour=["VS"])
    torn = fit([dataset], grades, tmp_path / "torn", "none", settings, tumour=["VS"])
    assert written == [1, 2, 3, 4]
    assert "continuing with epoch 4 of 4" in caplog.text
    first, second = (torch.load(f / "koos.pth", weights_only=True) for f in (whole, torn))
    assert first["weights"].keys() == second["weights"].keys()
    assert all(torch.equal(first["weights"][k], second["weights"][k]) for k in first["weights"])
    assert (whole / "terms.csv").read_text() == (torn / "terms.csv").read_text()
    assert not (torn / "checkpoint_latest.pth").exists()
    # Done is done: nothing is trained again.
    stamp = (torn / "koos.pth").stat().st_mtime_ns
    fit([dataset], grades, tmp_path / "torn", "none", settings, tumour=["VS"])
    assert (torn / "koos.pth").stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match="holds a fit with other settings"):
        fit([dataset], grades, tmp_path / "torn", "none", tiny(seed=1), tumour=["VS"])
    other = load_model(fit([dataset], grades, tmp_path / "other", "none", tiny(seed=1), tumour=["VS"]))
    assert not torch.equal(other.network.head.weight, first["weights"]["head.weight"])


def test_single_modalities_are_told_of(made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset, grades = made(persons=5, empty=("b_1",))
    caplog.set_level("INFO")
    fit([dataset], grades, tmp_path / "m", "none", tiny(pretrain_epochs=1, head_epochs=1), tumour=["VS"])
    assert "1 masks hold no tumour and are not learned from: b_1" in caplog.text
    assert "1 of 5 exams have one modality only: their second view is an augmented copy" in caplog.text


def test_boxes_are_cut_once(made: Made, tmp_path: Path) -> None:
    dataset, grades = made(persons=2, ungraded=0)
    views = [view for exam in exams_of(dataset, grades) for view in exam.views]
    first = Boxes(tmp_path, views, tiny(), (2.0, 2.0, 2.0), (1,))
    stamps = {f: f.stat().st_mtime_ns for f in first.files.values()}
    again = Boxes(tmp_path, views, tiny(), (2.0, 2.0, 2.0), (1,))
    assert {f: f.stat().st_mtime_ns for f in again.files.values()} == stamps
    other = Boxes(tmp_path, views, tiny(), (2.0, 2.0, 3.0), (1,))
    assert not set(other.files.values()) & set(stamps)


def test_fit_cross_validate_predict_and_grade(made: Made, nnunet_root: Path, tmp_path: Path) -> None:
    """The commands from end to end, with flags of the ablations and any classes."""
    _, grades = made(persons=9)
    model = tmp_path / "model"
    sets = [f"{k}={json.dumps(v)}" for k, v in TINY.items()]
    command = ["koos", "fit", "-d", "711", "-g", str(grades), "-o", str(model), "--encoder", "none", "--tumour", "VS"]
    main([*command, "--folds", "2", "--no-pretraining", "--no-frozen", "--set", *sets])
    settings = load_model(model).settings
    assert (settings.pretraining, settings.frozen) == (False, False)
    folder = model / "crossvalidation"
    predicted = read_grades(folder / "predictions.csv", CLASSES)
    assert set(predicted) == set(read_grades(grades, CLASSES))
    assert read_json(folder / "scores.json")["cases"] == 16
    assert "MA-MAE" in (folder / "report.html").read_text()

    scans, masks = tmp_path / "new", tmp_path / "masks"
    scans.mkdir()
    masks.mkdir()
    for i, tumour in enumerate((True, True, False)):
        image, label = small_scan(i, tumour)
        sitk.WriteImage(image, str(scans / f"case{i}_hrT2.nii.gz"))
        sitk.WriteImage(label, str(masks / f"case{i}.nii.gz"))
    out = tmp_path / "out.csv"
    arguments = ["koos", "predict", "-i", str(scans), "--masks", str(masks), "-m", str(model), "-o", str(out)]
    main([*arguments, "--pattern", "{case}_hrT2.nii.gz"])
    written = read_json(tmp_path / "out.json")["cases"]
    assert list(written) == ["case0", "case1", "case2"]
    assert written["case2"] == {"class": 1, "probabilities": None, "tumour_found": False}
    assert sum(written["case0"]["probabilities"].values()) == pytest.approx(1, abs=1e-5)

    # The function that a program calls agrees with the command.
    loaded = load_model(model / "koos.pth")
    image, label = sitk.ReadImage(str(scans / "case0_hrT2.nii.gz")), sitk.ReadImage(str(masks / "case0.nii.gz"))
    result = grade(image, label, loaded)
    assert result.grade == written["case0"]["class"]
    assert {str(c): round(p, 6) for c, p in result.probabilities.items()} == written["case0"]["probabilities"]
    array = sitk.GetArrayFromImage(label)
    assert grade(image, array, loaded) == grade(image, array == 1, loaded) == result

    # One bad scan costs only itself; a scan without a mask stops before anything is graded.
    sitk.WriteImage(small_scan(0)[0][:8], str(scans / "case1_hrT2.nii.gz"))
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--pattern", "{case}_hrT2.nii.gz"])
    assert stop.value.code == 2
    assert list(read_json(tmp_path / "out.json")["cases"]) == ["case0", "case2"]
    (masks / "case0.nii.gz").unlink()
    out.unlink()
    with pytest.raises(SystemExit):
        main([*arguments, "--pattern", "{case}_hrT2.nii.gz"])
    assert not out.exists()


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no koos\.pth there"):
        load_model(tmp_path)
    (tmp_path / "koos.pth").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not readable as a model"):
        load_model(tmp_path)
    (tmp_path / "koos.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"not readable as a model of `koos fit` \(\w"):
        load_model(tmp_path)
    torch.save({"format": 99}, tmp_path / "koos.pth")
    with pytest.raises(InputError, match="format 99"):
        load_model(tmp_path)
    torch.save({"format": 1, "settings": {}, "encoder": {}}, tmp_path / "koos.pth")
    with pytest.raises(InputError, match="not readable as a model"):
        load_model(tmp_path)


def test_one_class_is_nothing_to_learn(made: Made, tmp_path: Path) -> None:
    dataset, _ = made(persons=3)
    grades = write_grades(tmp_path / "g.csv", {"a_0": 2, "a_1": 2})
    with pytest.raises(InputError, match="at least two classes are needed"):
        fit([dataset], grades, tmp_path / "m", "none", tiny(), tumour=["VS"])
