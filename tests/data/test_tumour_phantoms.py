"""The synthetic tumours: graded as they say, one person in two modalities, and not gradable by volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.data.tumour_phantoms import GRADES, LABELS, anatomy, tumour, write_tumours
from nnunet_ext.errors import InputError


def test_one_seed_is_one_person_in_both_modalities() -> None:
    (first, label, grade), (second, other, same) = tumour(5, "ceT1"), tumour(5, "hrT2")
    assert grade == same
    assert np.array_equal(sitk.GetArrayFromImage(label), sitk.GetArrayFromImage(other))
    assert (first.GetOrigin(), first.GetSpacing(), first.GetDirection()) == (
        second.GetOrigin(),
        second.GetSpacing(),
        second.GetDirection(),
    )
    assert not np.array_equal(sitk.GetArrayFromImage(first), sitk.GetArrayFromImage(second))
    again = tumour(5, "ceT1")
    assert np.array_equal(sitk.GetArrayFromImage(first), sitk.GetArrayFromImage(again[0]))
    assert set(np.unique(sitk.GetArrayFromImage(label))) == {0, *LABELS.values()}


@pytest.mark.parametrize("grade", GRADES)
def test_the_grade_says_where_the_tumour_ends(grade: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        a = anatomy(grade, rng)
        beyond = a.reach - a.cistern
        assert a.cistern > 0
        if grade == 1:
            assert a.reach == 0
        elif grade == 2:
            assert a.reach > 0
            assert beyond < -2
        elif grade == 3:
            assert 0 <= beyond < 1
        else:
            assert beyond >= 4


def test_fluid_parts_tumour_and_brainstem_only_below_grade_3() -> None:
    """On hrT2 fluid is bright: along the line from tumour to brainstem it shows in grade 2 and not in 3 and 4."""
    between: dict[int, list[float]] = {2: [], 3: [], 4: []}
    for grade, seen in between.items():
        for seed in range(6):
            image, label, _ = tumour(seed, "hrT2", grade)
            mask = sitk.GetArrayFromImage(label) == LABELS["VS"]
            ear = np.argwhere(sitk.GetArrayFromImage(label) == LABELS["cochlea"]).mean(0)
            values = sitk.GetArrayFromImage(image) / np.percentile(sitk.GetArrayFromImage(image), 99)
            points = np.argwhere(mask)
            medial = 1 if points[:, 2].mean() > ear[2] else -1
            tip = points[np.argmax(medial * points[:, 2])]
            ahead = values[tip[0], tip[1], tip[2] : tip[2] + medial * 4 : medial]
            seen.append(float(ahead[1:].max()))
    assert np.median(between[2]) > np.median(between[3]) + 0.1
    assert np.median(between[2]) > np.median(between[4]) + 0.1


def test_grades_2_to_4_have_tumours_of_one_range_of_sizes() -> None:
    rng = np.random.default_rng(1)
    reach = {g: np.array([anatomy(g, rng).reach for _ in range(400)]) for g in (2, 3, 4)}
    assert max(r.mean() for r in reach.values()) - min(r.mean() for r in reach.values()) < 1.0


def test_writing_gives_every_grade_and_names_that_the_converter_reads(tmp_path: Path) -> None:
    grades = write_tumours(tmp_path, 4, ("ceT1",), seed=3)
    assert grades == {"ceT1_000": 1, "ceT1_001": 2, "ceT1_002": 3, "ceT1_003": 4}
    assert sorted(p.name for p in (tmp_path / "labels").iterdir()) == [f"{name}.nii.gz" for name in grades]
    more = tmp_path / "more"
    write_tumours(more, 2, ("ceT1",), seed=3)
    name = "images/ceT1_001.nii.gz"
    assert np.array_equal(*(sitk.GetArrayFromImage(sitk.ReadImage(str(f / name))) for f in (tmp_path, more)))


def test_what_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="modality CT"):
        tumour(0, "CT")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="grade 5"):
        tumour(0, "ceT1", 5)
    with pytest.raises(InputError, match="at least one"):
        write_tumours(tmp_path, 0)
