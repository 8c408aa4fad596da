"""The synthetic hearts: seeded, plausible, different in kind between the modalities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.data.phantoms import LABELS, heart, write_hearts
from nnunet_ext.errors import InputError

SEEDS = range(8)


@pytest.fixture(scope="module")
def hearts() -> dict[str, list[tuple[sitk.Image, sitk.Image]]]:
    return {modality: [heart(seed, modality) for seed in SEEDS] for modality in ("cine", "lge")}


def arrays(pair: tuple[sitk.Image, sitk.Image]) -> tuple[np.ndarray, np.ndarray]:
    return sitk.GetArrayFromImage(pair[0]), sitk.GetArrayFromImage(pair[1])


def test_a_seed_fixes_everything(hearts: dict) -> None:
    again = heart(3, "lge")
    for first, second in zip(hearts["lge"][3], again, strict=True):
        assert np.array_equal(sitk.GetArrayFromImage(first), sitk.GetArrayFromImage(second))
        assert first.GetDirection() == second.GetDirection()
    assert not np.array_equal(arrays(again)[0], arrays(heart(4, "lge"))[0])


@pytest.mark.parametrize("modality", ["cine", "lge"])
def test_anatomy(modality: str, hearts: dict) -> None:
    for pair in hearts[modality]:
        image, label = arrays(pair)
        assert image.dtype == np.int16
        assert 6 <= image.shape[0] <= 12
        assert set(np.unique(label)) == {0, 1, 2, 3}
        spacing = pair[0].GetSpacing()
        assert spacing[2] > 3 * spacing[0]
        litres = {name: (label == v).sum() * np.prod(spacing) / 1e6 for name, v in LABELS.items()}
        assert 0.02 < litres["LV"] < 0.35
        assert 0.02 < litres["RV"] < 0.45
        assert 0.04 < litres["MYO"] < 0.45
        # The wall closes around the cavity: no voxel of the cavity touches anything but cavity and wall in its slice.
        around = ndimage.binary_dilation(label == 3, np.ones((1, 3, 3))) & (label != 3)
        assert set(np.unique(label[around])) == {2}


def test_geometry_is_that_of_scanners(hearts: dict) -> None:
    directions = [np.reshape(p[0].GetDirection(), (3, 3)) for ps in hearts.values() for p in ps]
    oblique = [np.abs(d).max(axis=0).min() < 0.999 for d in directions]
    assert 0.2 < np.mean(oblique) < 0.8
    for direction in directions:
        np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(direction) == pytest.approx(1)
    for pairs in hearts.values():
        for image, label in pairs:
            assert label.GetOrigin() == image.GetOrigin() != (0, 0, 0)
            assert label.GetSpacing() == image.GetSpacing()


def test_modalities_differ_in_kind_and_not_by_a_curve(hearts: dict) -> None:
    def spread(image: np.ndarray, mask: np.ndarray) -> float:
        return float(image[mask].std() / image[mask].mean())

    scarred, cine_spread, lge_spread = 0, [], []
    for seed in SEEDS:
        image, label = arrays(hearts["cine"][seed])
        assert np.median(image[label == 3]) > 1.5 * np.median(image[label == 2])
        cine_spread.append(spread(image, label == 2))
        image, label = arrays(hearts["lge"][seed])
        assert np.median(image[label == 3]) > 1.2 * np.median(image[label == 2])
        lge_spread.append(spread(image, label == 2))
        # Scar: myocardium clearly brighter than typical blood, which no monotone or inverted curve of cine yields.
        inner = ndimage.binary_erosion(label == 2, np.ones((1, 3, 3)))
        smooth = ndimage.median_filter(image, (1, 3, 3))
        scarred += np.mean(smooth[inner] > np.median(image[label == 3])) > 0.04
    assert scarred >= 4
    assert np.mean(lge_spread) > 1.5 * np.mean(cine_spread)


def test_one_seed_is_one_person_in_both_modalities(hearts: dict) -> None:
    def volumes(pair: tuple[sitk.Image, sitk.Image]) -> float:
        return float((arrays(pair)[1] == 3).sum() * np.prod(pair[1].GetSpacing()))

    cine, lge = ([volumes(p) for p in hearts[m]] for m in ("cine", "lge"))
    assert np.corrcoef(cine, lge)[0, 1] > 0.95


def test_no_threshold_finds_the_heart(hearts: dict) -> None:
    """What is bright is not the ventricle: fat, aorta and stomach are as bright."""
    for seed in SEEDS:
        image, label = arrays(hearts["cine"][seed])
        truth = label == 3
        best = max(
            2 * (truth & (image > t)).sum() / (truth.sum() + (image > t).sum())
            for t in np.percentile(image, [70, 80, 90, 95, 98])
        )
        assert best < 0.6


def test_written_hearts_are_an_ordinary_folder(tmp_path: Path) -> None:
    names = write_hearts(tmp_path, 2, "cine", seed=5)
    assert names == ["cine_000", "cine_001"]
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.nii.gz")) == [
        f"{part}/{name}.nii.gz" for part in ("images", "labels") for name in names
    ]
    image = sitk.ReadImage(str(tmp_path / "images" / "cine_001.nii.gz"))
    label = sitk.ReadImage(str(tmp_path / "labels" / "cine_001.nii.gz"))
    assert image.GetOrigin() == label.GetOrigin()
    # A longer series begins with the same hearts.
    write_hearts(tmp_path / "more", 3, "cine", seed=5)
    for name in names:
        assert (tmp_path / "more" / "images" / f"{name}.nii.gz").read_bytes() == (
            tmp_path / "images" / f"{name}.nii.gz"
        ).read_bytes()


def test_bad_requests() -> None:
    with pytest.raises(InputError, match="modality ct"):
        heart(0, "ct")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least one"):
        write_hearts(Path("nowhere"), 0, "cine")
    with pytest.raises(InputError, match=r"\.png"):
        write_hearts(Path("nowhere"), 1, "cine", file_ending=".png")
