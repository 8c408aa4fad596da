from __future__ import annotations

import numpy as np
import pytest
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.training.registered import (
    Registered,
    RegisteredCases,
    keep_registered,
    thick_axis,
    to_preprocessed,
)


def preprocessed(
    volume: np.ndarray, transpose: list[int], own: list[float], spacing: list[float]
) -> tuple[np.ndarray, dict, int | None]:
    """What nnU-Net itself makes of a volume of spacing `own`, and the axis along which it repeats slices."""
    resampling = {"order": 1, "order_z": 0, "force_separate_z": None}
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
                    "resampling_fn_data_kwargs": {"is_seg": False, **resampling},
                    "resampling_fn_seg": "resample_data_or_seg_to_shape",
                    "resampling_fn_seg_kwargs": {"is_seg": True, **resampling},
                }
            },
        }
    )
    configuration = plans.get_configuration("3d_fullres")
    data, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        volume[None], None, {"spacing": own}, plans, configuration, {"labels": {"background": 0}}
    )
    return data[0], properties, thick_axis(properties["spacing"], configuration, transpose)


@pytest.mark.parametrize("transpose", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
@pytest.mark.parametrize("factor", [1.0, 0.7, 1.6])
@pytest.mark.parametrize("own", [[2.0, 1.0, 1.5], [8.0, 1.0, 1.5]], ids=["like", "thick"])
def test_places_fall_where_nnunet_puts_the_image(transpose, factor, own):
    """A volume whose intensity is a place: nnU-Net crops, turns and resamples it as `to_preprocessed` does."""
    z, y, x = np.mgrid[:12, :15, :18].astype(np.float32)
    place = 3 + z + 20 * y + 400 * x
    inside = np.zeros(place.shape, bool)
    inside[2:11, 1:13, 3:18] = True
    # The spacing asked for is in the order of the turned axes.
    spacing = [factor * own[axis] for axis in transpose]
    image, properties, thick = preprocessed(np.where(inside, place, 0), transpose, own, spacing)
    # nnU-Net repeats slices that are more than three times as thick as wide.
    assert thick == (transpose.index(0) if own[0] == 8 else None)
    ours = to_preprocessed(place[None], properties, image.shape, transpose, linear=True, thick=thick)[0]
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
    folder = tmp_path / "kept"
    cases = ["a", "c", "failed"]

    def load(case: str) -> Registered | None:
        asked.append(case)
        if case == "failed":
            return None
        position = np.indices((4, 5, 6)).astype(np.float32)
        return Registered("far" if case == "c" else "near", position, np.full((4, 5, 6), 2, np.uint8))

    def keep(cases: list[str], finer: int = 1) -> None:
        def onto_grid(case: str, volume: np.ndarray, linear: bool) -> np.ndarray:
            return volume.repeat(finer, 2)

        keep_registered(folder, cases, load, lambda case: (4, 5 * finer, 6), onto_grid)

    keep(cases)
    assert asked == cases
    keep(cases)
    assert asked == cases
    registered = RegisteredCases(folder, cases)
    assert registered.frames == {"a": 1, "c": 0, "failed": -1}
    values, labels = registered("a", (4, 5, 6))
    assert (np.stack(values[:3]) == np.indices((4, 5, 6))).all()
    assert (values[3] == 1).all()
    assert (labels[0] == 2).all()
    assert not np.any(registered("failed", (4, 5, 6))[1][0])
    # A further case is added, and one is written again after the dataset was preprocessed to another spacing.
    keep(["a", "b"])
    assert asked == [*cases, "b"]
    keep(["a"], finer=2)
    assert asked == [*cases, "b", "a"]
    assert RegisteredCases(folder, ["a"])("a", (4, 10, 6))[1][0].shape == (4, 10, 6)


def test_an_interrupted_run_keeps_the_cases_that_it_finished(tmp_path):
    asked: list[str] = []

    def keep(dies_at: str | None) -> None:
        def load(case: str) -> Registered | None:
            asked.append(case)
            if case == dies_at:
                raise KeyboardInterrupt
            return Registered("f", np.zeros((3, 2, 2, 2), np.float32), np.ones((2, 2, 2), np.uint8))

        keep_registered(tmp_path, ["a", "b", "c"], load, lambda case: (2, 2, 2), lambda case, volume, linear: volume)

    with pytest.raises(KeyboardInterrupt):
        keep("b")
    keep(None)
    assert asked == ["a", "b", "b", "c"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("b")) == [
        "b.json", "b_label.npy", "b_position.npy"
    ]  # fmt: skip
