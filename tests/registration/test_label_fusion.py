"""Labels carried over and fused, on masks small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.registration.consensus import choose
from nnunet_ext.registration.fusion import fuse, propagate
from nnunet_ext.registration.search import Start
from nnunet_ext.registration.transform_files import map_points, read_transform, write_transform

IDENTITY = sitk.Transform(3, sitk.sitkIdentity)


def row(*values: int) -> sitk.Image:
    return sitk.GetImageFromArray(np.array(values, np.uint8)[None, None].repeat(2, 0).repeat(2, 1))


def first(image: sitk.Image) -> list[int]:
    return sitk.GetArrayFromImage(image)[0, 0].tolist()


def test_a_translation_pulls_labels_back():
    """x -> x + 2: the label at 3 appears at 1, and what comes from outside is background."""
    moved = propagate(row(0, 0, 0, 5, 7), row(0, 0, 0, 0, 0), sitk.TranslationTransform(3, (2.0, 0.0, 0.0)))
    assert first(moved) == [0, 5, 7, 0, 0]
    assert moved.GetPixelID() == sitk.sitkUInt8


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("best", [0, 2, 2, 0]),
        ("majority", [0, 1, 1, 0]),
        # Weights of scores 0.5, 0.4, 0.4 at temperature 0.1 are 1, 1/e, 1/e: 1 > 2/e, so the first one wins alone.
        ("weighted", [0, 2, 2, 0]),
        ("staple", [0, 1, 1, 0]),
    ],
)
def test_fusion_by_hand(how, expected):
    votes = [row(0, 2, 2, 0), row(0, 1, 1, 0), row(0, 1, 1, 0)]
    assert first(fuse(votes, row(0, 0, 0, 0), [IDENTITY] * 3, [0.5, 0.4, 0.4], how)) == expected


def test_equal_weights_are_a_vote():
    votes = [row(0, 2, 2, 0), row(0, 1, 1, 0), row(0, 1, 1, 3)]
    assert first(fuse(votes, row(0, 0, 0, 0), [IDENTITY] * 3, [0.4] * 3, "weighted")) == [0, 1, 1, 0]


def test_a_look_alike_is_outvoted():
    """The third volume's first start is elsewhere and correlates best; the others' labels say where the organ is."""
    labels = sitk.GetImageFromArray(np.zeros((3, 20, 40), np.uint8))
    labels[3:9, 6:12, 0:3] = 1
    here, there = np.eye(4), np.eye(4)
    there[0, 3] = -25.0
    agreed = [Start(0.6, here), Start(0.5, there)]
    mistaken = [Start(0.65, there), Start(0.6, here)]
    picks, agreements = choose([agreed, agreed, mistaken], [labels] * 3, labels, weight=0.5)
    assert picks == [0, 0, 1]
    assert min(agreements) > 0.7
    assert choose([agreed, agreed, mistaken], [labels] * 3, labels, weight=0)[0] == [0, 0, 0]


def test_transforms_survive_the_disk(tmp_path):
    rng = np.random.default_rng(0)
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((np.eye(3) + 0.1 * rng.random((3, 3))).ravel().tolist())
    affine.SetTranslation((4.0, -3.0, 2.0))
    field = sitk.GetImageFromArray(rng.random((3, 4, 5, 3)), isVector=True)
    field.SetOrigin((1.0, 2.0, 3.0))
    field.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.2, 0.1, 0.4).GetMatrix())
    composite = sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])
    points = [(2.0, 3.0, 4.0), (3.1, 4.2, 4.5), (50.0, 0.0, 0.0)]
    expected = [composite.TransformPoint(p) for p in points]
    write_transform(affine, tmp_path / "a.b")
    write_transform(composite, tmp_path / "deformed")
    for point in points:
        assert read_transform(tmp_path / "a.b").TransformPoint(point) == pytest.approx(affine.TransformPoint(point))
    found = [read_transform(tmp_path / "deformed").TransformPoint(p) for p in points]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # Outside the field the affine map holds.
    assert found[2] == pytest.approx(affine.TransformPoint(points[2]))


def test_mapped_points_are_the_transform_of_every_voxel():
    like = sitk.Image([4, 3, 2], sitk.sitkFloat32)
    like.SetSpacing((1.0, 2.0, 5.0))
    like.SetOrigin((-7.0, 3.0, 1.0))
    like.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.1).GetMatrix())
    transform = sitk.AffineTransform((1.1, 0.2, 0, -0.1, 0.9, 0, 0, 0.05, 1.0), (5.0, 6.0, 7.0))
    points = map_points(transform, like)
    assert points.shape == (3, 2, 3, 4)
    for index in [(0, 0, 0), (3, 1, 1), (2, 2, 0)]:
        expected = transform.TransformPoint(like.TransformIndexToPhysicalPoint(index))
        assert points[:, index[2], index[1], index[0]] == pytest.approx(expected, abs=1e-4)
