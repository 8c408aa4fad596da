"""nnU-Net's dataset fingerprint from the labelled cases alone.

nnU-Net counts every voxel above 0 as foreground, so the `ignore` label that fills unlabelled cases would put whole
scans, air included, into the intensity statistics that normalise CT. It does keep a fingerprint that is already there
(unless `--clean` is given), so writing ours first makes plain `nnUNetv2_plan_and_preprocess` plan from labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ext.files import read_json, write_json
from nnunet_ext.progress import progress

PERCENTILES = {"percentile_00_5": 0.5, "median": 50.0, "percentile_99_5": 99.5}
# nnU-Net draws 1e8 voxels in total; with a handful of cases that is gigabytes for no gain in the percentiles.
VOXELS_IN_ALL, VOXELS_PER_CASE = 100_000_000, 1_000_000


def write_fingerprint(dataset: Path, labelled: Sequence[str], target: Path) -> None:
    """Write nnU-Net's `dataset_fingerprint.json`.

    Args:
        dataset: the raw dataset's folder.
        labelled: the cases to take into account, at least one.
        target: the file to write.
    """
    write_json(target, _fingerprint(dataset, read_json(dataset / "dataset.json"), labelled))


def _fingerprint(dataset: Path, description: dict[str, Any], cases: Sequence[str]) -> dict[str, Any]:
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    ending, channels = description["file_ending"], len(description["channel_names"])
    samples = min(VOXELS_IN_ALL // len(cases), VOXELS_PER_CASE)
    shapes, spacings, sizes, intensities = [], [], [], []
    for case in progress(cases, "fingerprint of labelled cases"):
        shape, spacing, voxels, _, size = DatasetFingerprintExtractor.analyze_case(
            [str(dataset / "imagesTr" / f"{case}_{i:04d}{ending}") for i in range(channels)],
            str(dataset / "labelsTr" / f"{case}{ending}"),
            SimpleITKIO,
            samples,
        )
        shapes.append([int(n) for n in shape])
        spacings.append([float(s) for s in spacing])
        sizes.append(float(size))
        intensities.append(voxels)
    return {
        "spacings": spacings,
        "shapes_after_crop": shapes,
        "foreground_intensity_properties_per_channel": {
            str(i): _statistics(np.concatenate([voxels[i] for voxels in intensities])) for i in range(channels)
        },
        "median_relative_size_after_cropping": float(np.median(sizes)),
    }


def _statistics(values: np.ndarray) -> dict[str, float]:
    if not values.size:
        values = np.zeros(1)  # labelled cases without any foreground
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
        **{name: float(np.percentile(values, p)) for name, p in PERCENTILES.items()},
    }
