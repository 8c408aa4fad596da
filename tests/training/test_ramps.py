from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nnunet_ext.training.ema import Teacher
from nnunet_ext.training.ramps import gaussian_ramp, linear_decay


@pytest.mark.parametrize(
    ("step", "expected"), [(0, math.exp(-5)), (50, math.exp(-1.25)), (100, 1.0), (200, 1.0), (-1, math.exp(-5))]
)
def test_gaussian_ramp(step, expected):
    assert gaussian_ramp(step, 100) == pytest.approx(expected)


@pytest.mark.parametrize(("step", "expected"), [(0, 1.0), (25, 0.75), (100, 0.0), (200, 0.0)])
def test_linear_decay(step, expected):
    assert linear_decay(step, 100) == pytest.approx(expected)


def test_teacher_averages_plainly_at_first_and_then_exponentially():
    student = nn.Linear(1, 1, bias=False)
    nn.init.constant_(student.weight, 8.0)
    teacher = Teacher(student, lambda: nn.Linear(1, 1, bias=False), decay=0.75)
    expected = None
    for step, value in enumerate([4.0, 2.0, 0.0, 1.0, 5.0, 7.0]):
        nn.init.constant_(student.weight, value)
        teacher.update(student, step)
        alpha = min(1 - 1 / (step + 1), 0.75)
        expected = value if expected is None else alpha * expected + (1 - alpha) * value
        assert teacher.network.weight.item() == pytest.approx(expected)
    assert not teacher.network.weight.requires_grad


def test_teacher_copies_buffers():
    student = nn.BatchNorm1d(2)
    teacher = Teacher(student, lambda: nn.BatchNorm1d(2), 0.9)
    student(torch.randn(8, 2) + 3)
    teacher.update(student, 5)
    assert torch.equal(teacher.network.running_mean, student.running_mean)
    assert torch.equal(teacher.network.num_batches_tracked, student.num_batches_tracked)
