"""Post-processing: nnU-Net's file formats, and the steps against nnU-Net's own."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.inference.postprocessing import KeepLargest, apply, read_postprocessing


def test_only_the_largest_component_stays() -> None:
    mask = np.array([[[1, 1, 0, 2], [0, 0, 0, 2], [0, 0, 0, 2]]], np.uint8)
    assert apply(mask, [KeepLargest(keep_largest=(1, 2))]).tolist() == [[[0, 0, 0, 2], [0, 0, 0, 2], [0, 0, 0, 2]]]
    assert apply(mask, [KeepLargest(keep_largest=(1,))]).tolist() == mask.tolist()
    assert apply(mask, [KeepLargest(keep_largest=(2, 1), background=3)])[0, 0].tolist() == [3, 3, 0, 2]


def test_components_of_equal_size_all_stay_and_an_absent_label_changes_nothing() -> None:
    mask = np.array([[[1, 0, 1, 0, 0, 2]]], np.uint8)
    assert apply(mask, [KeepLargest(keep_largest=(1,)), KeepLargest(keep_largest=(7,))]).tolist() == mask.tolist()


@pytest.mark.parametrize("labels", [1, [1, 2, 3], (2, 3), [1, (2, 3)]], ids=str)
def test_a_pickle_of_nnunet_is_read_and_applied_as_nnunet_applies_it(tmp_path: Path, labels: object) -> None:
    from nnunetv2.postprocessing.remove_connected_components import (
        apply_postprocessing,
        remove_all_but_largest_component_from_segmentation,
    )

    functions, options = [remove_all_but_largest_component_from_segmentation], [{"labels_or_regions": labels}]
    (tmp_path / "postprocessing.pkl").write_bytes(pickle.dumps((functions, options)))
    mask = np.random.default_rng(0).choice(4, size=(4, 12, 12), p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8)
    expected = apply_postprocessing(mask, functions, options)  # type: ignore[arg-type]
    assert (expected != mask).any()
    assert np.array_equal(apply(mask, read_postprocessing(tmp_path / "postprocessing.pkl")), expected)


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    (tmp_path / "postprocessing.pkl").write_bytes(pickle.dumps(([Code()], [{}])))
    with pytest.raises(InputError, match=r"postprocessing.pkl"):
        read_postprocessing(tmp_path / "postprocessing.pkl")
    assert not (tmp_path / "executed").exists()


def test_an_unknown_function_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postprocessing.pkl").write_bytes(pickle.dumps(([np.flip], [{}])))
    with pytest.raises(InputError, match="post-processing function flip, only remove_all_but"):
        read_postprocessing(tmp_path / "postprocessing.pkl")
