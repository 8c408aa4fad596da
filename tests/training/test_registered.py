from __future__ import annotations

import numpy as np
import pytest
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.training.registered import Registered, RegisteredCases, to_preprocessed

RESAMPLING = {"order": 1, "order_z": 0, "force_separate_z": False}


def preprocessed(volume: np.ndarray, transpose: list[int], spacing: list[float]) -> tuple[np.ndarray, dict]:
    """What nnU-Net itself makes of a volume."""
    plans = PlansManager(
        {
            "dataset_name": "Dataset001_X",
            "plans_name": "p",
            "transpose_forward": transpose,
            "transpose_backward": list(np.argsort(transpose)),
            "foreground_intensity_properties_per_channel": {"0": {}},
            "configurations": {
                "3d_fullres": {
                    "spacing": spacing,
                    "architecture": {},
                    "normalization_schemes": ["NoNormalization"],
                    "use_mask_for_norm": [False],
                    "resampling_fn_data": "resample_data_or_seg_to_shape",
                    "resampling_fn_data_kwargs": {"is_seg": False, **RESAMPLING},
                    "resampling_fn_seg": "resample_data_or_seg_to_shape",
                    "resampling_fn_seg_kwargs": {"is_seg": True, **RESAMPLING},
                }
            },
        }
    )
    properties = {"spacing": [2.0, 1.0, 1.5]}
    data, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        volume[None], None, properties, plans, plans.get_configuration("3d_fullres"), {"labels": {"background": 0}}
    )
    return data[0], properties


@pytest.mark.parametrize("transpose", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
@pytest.mark.parametrize("factor", [1.0, 0.7, 1.6])
def test_places_fall_where_nnunet_puts_the_image(transpose, factor):
    """A volume whose intensity is a place: nnU-Net crops, turns and resamples it as `to_preprocessed` does."""
    z, y, x = np.mgrid[:12, :15, :18].astype(np.float32)
    place = 3 + z + 20 * y + 400 * x
    inside = np.zeros(place.shape, bool)
    inside[2:11, 1:13, 3:18] = True
    # The spacing asked for is in the order of the turned axes.
    spacing = [factor * [2.0, 1.0, 1.5][axis] for axis in transpose]
    image, properties = preprocessed(np.where(inside, place, 0), transpose, spacing)
    ours = to_preprocessed(place[None], properties, image.shape, transpose, linear=True)[0]
    assert ours.shape == image.shape
    # Away from the border, where nnU-Net mixes in the zeros outside.
    middle = tuple(slice(2, -2) for _ in range(3))
    assert np.abs(ours[middle] - image[middle]).max() < 0.05


def test_labels_keep_their_values():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, (1, 6, 8, 10)).astype(np.int16)
    properties = {"bbox_used_for_cropping": [[1, 6], [0, 8], [2, 10]]}
    turned = to_preprocessed(label, properties, (5, 8, 8), [0, 1, 2], linear=False)
    assert (turned == label[:, 1:, :, 2:]).all()
    finer = to_preprocessed(label, properties, (10, 16, 16), [0, 1, 2], linear=False)
    assert (finer == turned.repeat(2, 1).repeat(2, 2).repeat(2, 3)).all()
    assert finer.dtype == np.int16


def test_kept_on_disk_once(tmp_path):
    asked: list[str] = []

    def load(case: str) -> Registered | None:
        asked.append(case)
        if case == "failed":
            return None
        position = np.indices((4, 5, 6)).astype(np.float32)
        return Registered("far" if case == "c" else "near", position, np.full((4, 5, 6), 2, np.uint8))

    def shape(case: str):
        return (4, 5, 6)

    def properties(case: str):
        return {"bbox_used_for_cropping": [[0, 4], [0, 5], [0, 6]]}

    arguments = (["a", "c", "failed"], load, shape, properties, [0, 1, 2])
    first = RegisteredCases(tmp_path / "kept", *arguments)
    assert asked == ["a", "c", "failed"]
    again = RegisteredCases(tmp_path / "kept", *arguments)
    assert len(asked) == 3
    assert again.frames == first.frames == {"a": 1, "c": 0, "failed": -1}
    values, labels = again("a", (4, 5, 6))
    assert (np.stack(values[:3]) == np.indices((4, 5, 6))).all()
    assert (values[3] == 1).all()
    assert (labels[0] == 2).all()
    assert not np.any(again("failed", (4, 5, 6))[1][0])
    RegisteredCases(tmp_path / "kept", ["a"], *arguments[1:])
    assert len(asked) == 4
    # The dataset was preprocessed again, to another spacing.
    finer = RegisteredCases(tmp_path / "kept", ["a"], load, lambda case: (4, 10, 12), *arguments[3:])
    assert len(asked) == 5
    assert finer("a", (4, 10, 12))[1][0].shape == (4, 10, 12)
