from __future__ import annotations

import numpy as np
import pytest

from translation.gate import GateSettings, Verdict, auc, failures, judge, separability

SETTINGS = GateSettings()
NAMES = {"background": 0, "ring": 2, "core": 5}


def phantom():
    """A core inside a ring inside background, by class index 2, 1 and 0."""
    y, x = np.mgrid[:40, :40] - 19.5
    radius = np.hypot(x, y)
    labels = np.zeros((3, 40, 40), np.int16)
    labels[:, radius < 12] = 1
    labels[:, radius < 6] = 2
    rng = np.random.default_rng(0)
    values = np.array([0.0, 1.0, 2.0])[labels] + 0.1 * rng.normal(size=labels.shape)
    return values.astype(np.float32), labels


def test_auc_by_hand():
    assert auc(np.array([2, 3]), np.array([0, 1])) == 1
    assert auc(np.array([0, 1]), np.array([2, 3])) == 0
    assert auc(np.array([1, 1]), np.array([1, 1])) == 0.5
    assert auc(np.array([1, 3]), np.array([2])) == 0.5


def test_separable_structures_and_inverted_contrast():
    values, labels = phantom()
    for structure in (1, 2):
        assert separability(values, labels, structure, SETTINGS) > 0.99
        assert separability(-values, labels, structure, SETTINGS) > 0.99


def test_washed_out_structure_is_lost_and_the_other_is_not():
    values, labels = phantom()
    translated = values.copy()
    translated[labels == 2] = values[labels == 1][: (labels == 2).sum()]
    verdicts = {v.structure: v for v in judge("a", values, translated, labels, NAMES, SETTINGS)}
    assert verdicts["core"].lost
    assert not verdicts["ring"].lost


def test_moved_structure_is_lost():
    values, labels = phantom()
    moved = np.roll(values, 14, axis=2)
    assert {v.structure for v in judge("a", values, moved, labels, NAMES, SETTINGS) if v.lost} == {"core", "ring"}


def test_what_the_source_never_showed_is_not_held_against_the_translation():
    _, labels = phantom()
    noise = np.random.default_rng(1).normal(size=labels.shape).astype(np.float32)
    assert not any(v.lost for v in judge("a", noise, noise, labels, NAMES, SETTINGS))


def test_tiny_and_absent_structures_are_not_judged():
    values, labels = phantom()
    labels[labels == 2] = 1
    labels[0, 0, 0] = 2
    assert [v.structure for v in judge("a", values, values, labels, NAMES, SETTINGS)] == ["ring"]


@pytest.mark.parametrize(("lost", "fails"), [(1, False), (2, True)])
def test_tolerance_is_a_part_of_the_cases(lost, fails):
    verdicts = [Verdict(f"c{i}", "core", 1.0, 0.0, i < lost) for i in range(10)]
    assert failures(verdicts, SETTINGS) == ({"core": ["c0", "c1"]} if fails else {})
