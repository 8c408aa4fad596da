"""Macro-averaged errors and the confusion matrix against values by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.koos.grades import Grade, read_grades, write_predictions
from nnunet_ext.koos.scores import Scores, score


def scores(truth: list[int], predicted: list[int], classes: tuple[int, ...] = (1, 2, 3, 4)) -> Scores:
    return Scores(classes, np.array(truth), np.array(predicted), tuple(map(str, range(len(truth)))))


def test_macro_averages_by_hand() -> None:
    # Class 1: errors 0, 0, 3 -> 1 and 3. Class 2: error 1 -> 1 and 1. Class 4: errors 2, 1 -> 1.5 and 2.5.
    s = scores([1, 1, 1, 2, 4, 4], [1, 1, 4, 3, 2, 3])
    assert s.ma_mae == pytest.approx((1 + 1 + 1.5) / 3)
    assert s.ma_mse == pytest.approx((3 + 1 + 2.5) / 3)
    assert s.accuracy == pytest.approx(2 / 6)
    assert s.confusion.tolist() == [[2, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0]]
    rows = s.per_class()
    assert rows[1] == (3, 1, 3)
    assert rows[3][0] == 0
    assert math.isnan(rows[3][1])
    # Saying 2: class 1 errs by 1, class 2 by 0, class 4 by 2.
    assert s.constant() == (2, pytest.approx(1.0))


def test_a_rare_class_counts_as_much_as_a_common_one() -> None:
    s = scores([1] * 99 + [4], [1] * 100)
    assert s.ma_mae == pytest.approx(1.5)


def test_macro_average_agrees_with_scikit_learn_weights() -> None:
    from sklearn.metrics import mean_absolute_error

    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(1, 5, 50), rng.integers(1, 5, 50)
    weights = 1 / np.bincount(truth, minlength=5)[truth]
    expected = mean_absolute_error(truth, predicted, sample_weight=weights)
    assert scores(truth.tolist(), predicted.tolist()).ma_mae == pytest.approx(expected)


def test_interval_holds_the_score_and_keeps_subjects_together() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(1, 5, 60)
    predicted = np.clip(truth + rng.integers(-1, 2, 60), 1, 4)
    alone = scores(truth.tolist(), predicted.tolist())
    low, high = alone.interval()
    assert low < alone.ma_mae < high
    # The same cases twice under the same subjects say nothing new.
    twice = Scores(
        alone.classes, np.tile(truth, 2), np.tile(predicted, 2), (*alone.subjects, *alone.subjects), alone.seed
    )
    np.testing.assert_allclose(twice.interval(), (low, high), atol=1e-12)
    assert all(math.isnan(v) for v in scores([2], [2]).interval())


def test_files_round_trip_and_score_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = {"crossmoda_1": Grade(1, {1: 0.75, 2: 0.25, 3: 0.0, 4: 0.0}), "crossmoda_2": Grade(1, {})}
    target = tmp_path / "p.csv"
    write_predictions(predictions, (1, 2, 3, 4), target)
    assert target.read_text() == '"case","class"\n"crossmoda_1",1\n"crossmoda_2",1\n'
    assert read_grades(target, (1, 2, 3, 4)) == {"crossmoda_1": 1, "crossmoda_2": 1}
    written = json.loads((tmp_path / "p.json").read_text())
    assert written["cases"]["crossmoda_1"] == {
        "class": 1,
        "probabilities": {"1": 0.75, "2": 0.25, "3": 0.0, "4": 0.0},
        "tumour_found": True,
    }
    assert written["cases"]["crossmoda_2"] == {"class": 1, "probabilities": None, "tumour_found": False}
    truth = tmp_path / "t.csv"
    truth.write_text("case,class,comment\ncrossmoda_1,1,\ncrossmoda_2,3,late\n")
    report, scored = tmp_path / "r.html", tmp_path / "s.json"
    main(["koos", "score", str(target), str(truth), "--json", str(scored), "--report", str(report)])
    assert "MA-MAE 1.0000" in capsys.readouterr().out
    main(["koos", "score", str(target), str(truth), "--classes", "4", "3", "1", "2"])
    assert "true 1:    1 as 1" in capsys.readouterr().out
    content = json.loads(scored.read_text())
    assert (content["ma_mae"], content["ma_mse"]) == (1.0, 2.0)
    assert content["classes"]["4"] == {"cases": 0, "mae": None, "mse": None}
    assert content["confusion"]["counts"][2] == [1, 0, 0, 0]
    page = report.read_text()
    assert "true 3: 1 as 1" in page
    assert "Macro-averaged" in page


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("case,class\na,5\n", "line 2: grade 5 of a"),
        ("case,class\na,2.5\n", "grade 2.5"),
        ("case,class\na,two\n", "grade two"),
        ("case,class\na,1\na,1\n", "line 3: a second grade for a"),
        ("case,class\n,1\n", "without a case"),
        ("name,class\na,1\n", "no column case"),
        ("case,class\n", "no grades"),
    ],
)
def test_bad_grades_are_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "g.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=told) as error:
        read_grades(path, (1, 2, 3, 4))
    assert str(path) in str(error.value)


def test_a_true_case_without_a_prediction_is_refused() -> None:
    with pytest.raises(InputError, match=r"no prediction for b \(1 of 2"):
        score({"a": 1}, {"a": 1, "b": 2}, (1, 2))
    # A prediction more does no harm: the challenge's truth may be a part of the cases.
    assert score({"a": 1, "c": 2}, {"a": 2}, (1, 2)).ma_mae == 1


def test_any_ordinal_classes() -> None:
    s = scores([0, 10], [10, 10], classes=(0, 5, 10))
    assert s.ma_mae == 5
    assert s.confusion.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 1]]
