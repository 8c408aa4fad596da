"""One seed sets every generator, and a state that was kept brings its numbers back."""

from __future__ import annotations

import random

import numpy as np
import torch

from nnunet_ext.seeding import random_state, restore_random_state, seed_everything, seeded
from nnunet_ext.training.checkpoint import plain


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_seed_sets_all_three() -> None:
    seed_everything(7)
    first = draw()
    seed_everything(7)
    assert draw() == first
    seed_everything(8)
    assert not set(draw()) & set(first)


def test_a_state_comes_back_even_through_a_checkpoint() -> None:
    seed_everything(1)
    draw()
    state = plain(random_state())
    after = draw()
    seed_everything(2)
    restore_random_state(state)
    assert draw() == after


def test_a_seeded_block_leaves_the_generators_as_they_were() -> None:
    seed_everything(3)
    undisturbed = draw()
    seed_everything(3)
    with seeded(99):
        inside = draw()
    assert draw() == undisturbed
    with seeded(99):
        assert draw() == inside
