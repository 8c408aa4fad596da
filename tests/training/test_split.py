"""Folds with and without unlabelled cases."""

from __future__ import annotations

import json

import pytest
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunet_ext.errors import InputError
from nnunet_ext.training.split import split_cases

LABELLED = [f"a{i}" for i in range(10)]
BARE = ["u0", "u1", "u2"]


def test_fully_labelled_is_split_as_by_nnunet(tmp_path):
    expected = generate_crossval_split(LABELLED, seed=12345, n_splits=5)
    for fold in range(5):
        cases = split_cases(reversed(LABELLED), (), fold, tmp_path / "splits_final.json")
        assert cases.labelled == list(expected[fold]["train"])
        assert cases.validation == list(expected[fold]["val"])
        assert cases.unlabelled == []


def test_unlabelled_train_in_every_fold_and_never_validate(tmp_path):
    file = tmp_path / "splits_final.json"
    for fold in range(5):
        cases = split_cases(LABELLED + BARE, BARE, fold, file)
        assert cases.unlabelled == BARE
        assert len(cases.labelled) == 8
        assert len(cases.validation) == 2
        assert not set(cases.labelled) & set(cases.validation)
    stored = json.loads(file.read_text())
    assert all(sorted(f["train"] + f["val"]) == sorted(LABELLED + BARE) for f in stored)


def test_fold_all_validates_on_all_labelled_and_says_so(tmp_path):
    cases = split_cases(["a", "b", "u"], ["u"], "all", tmp_path / "splits_final.json")
    assert (cases.labelled, cases.unlabelled, cases.validation) == (["a", "b"], ["u"], ["a", "b"])
    assert "2 labelled" in cases.note
    assert "also validate" in cases.note
    assert not (tmp_path / "splits_final.json").exists()


def test_a_stored_split_is_kept_but_for_unlabelled_validation_cases(tmp_path):
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps([{"train": ["a0", "u0"], "val": ["a1", "u1"]}]))
    before = file.read_bytes()
    cases = split_cases(["a0", "a1", "a2", "u0", "u1", "u2"], BARE, 0, file)
    # a2 and u2 are left out on purpose by whoever wrote the split.
    assert (cases.labelled, cases.unlabelled, cases.validation) == (["a0"], ["u0", "u1"], ["a1"])
    assert file.read_bytes() == before


def test_a_persons_cases_stay_together(tmp_path):
    cases_of = {f"p{p}_{frame}": f"p{p}" for p in range(6) for frame in "ab"}
    bare = [k for k in cases_of if k.startswith("p5_b")]
    validated: list[str] = []
    for fold in range(5):
        cases = split_cases(cases_of, bare, fold, tmp_path / "splits_final.json", cases_of)
        people = {cases_of[k] for k in cases.validation}
        assert not people & {cases_of[k] for k in cases.labelled + cases.unlabelled}
        validated += cases.validation
    assert sorted(validated) == sorted(set(cases_of) - set(bare))


@pytest.mark.parametrize(
    ("identifiers", "unlabelled", "fold", "stored", "message"),
    [
        (["u"], ["u"], "all", None, "none of 1 cases is labelled"),
        (["a", "b", "c", "d"], [], 0, None, "4 labelled cases or subjects are too few for 5 folds"),
        (["a", "b"], [], 1, [{"train": ["a"], "val": ["b"]}], "has 1 folds, fold 1 was asked for"),
        (["a", "u"], ["u"], 0, [{"train": ["a"], "val": ["u"]}], "no labelled case in val"),
        (["a", "u"], ["u"], 0, [{"train": ["u"], "val": ["a"]}], "no labelled case in train"),
        (["a", "b"], [], 0, [{"train": ["a", "z"], "val": ["b"]}], "names z"),
        (["a", "b"], [], 0, {"train": ["a"], "val": ["b"]}, "not a split"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, identifiers, unlabelled, fold, stored, message):
    file = tmp_path / "splits_final.json"
    if stored is not None:
        file.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=message):
        split_cases(identifiers, unlabelled, fold, file)
