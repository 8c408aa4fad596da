"""Labelled and unlabelled patches."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_ext.errors import InputError
from nnunet_ext.training.batches import SeededBatches
from nnunet_ext.training.streams import (
    ImagesOnly,
    Patches,
    TwoStreams,
    halves,
    without_benchmarks,
)

SHAPE = (5, 30, 26)
LABELS = LabelManager({"background": 0, "disc": 1, "ignore": 2}, None)
CASES = ["a", "b"]


class Nothing(BasicTransform):
    """Cut the centre out and change nothing."""

    def __init__(self, patch_size):
        super().__init__()
        self.patch_size = patch_size

    def apply(self, data_dict, **params):
        for name in ("image", "segmentation", "regression_target"):
            if name in data_dict:
                shape = data_dict[name].shape[1:]
                cut = tuple(slice((n - p) // 2, (n - p) // 2 + p) for n, p in zip(shape, self.patch_size, strict=True))
                data_dict[name] = data_dict[name][(slice(None), *cut)]
        return data_dict


def nnunet_augmentation(patch_size, scales=None):
    return without_benchmarks(
        nnUNetTrainer.get_training_transforms(patch_size, (-0.5, 0.5), scales, tuple(range(len(patch_size))), False)
    )


@pytest.fixture(params=[nnUNetDatasetBlosc2, nnUNetDatasetNumpy])
def dataset(request, tmp_path: Path):
    """Two preprocessed cases whose voxels hold their own flat index; a block of label 1 in the middle."""
    for number, case in enumerate(CASES):
        image = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(1, *SHAPE) + 1 + 10_000 * number
        segmentation = np.zeros((1, *SHAPE), np.int8)
        segmentation[:, 1:4, 10:20, 8:18] = 1
        everywhere = np.argwhere(segmentation >= 0)
        locations = {1: np.argwhere(segmentation == 1), (-1, 0, 1): everywhere}
        sizes = {} if request.param is nnUNetDatasetNumpy else {"chunks": (1, *SHAPE), "blocks": (1, *SHAPE)}
        request.param.save_case(image, segmentation, {"class_locations": locations}, str(tmp_path / case), **sizes)
    return request.param(str(tmp_path))


def coordinates(identifier, shape):
    """Where in the preprocessed volume each pixel of a patch comes from: voxel indices z, y, x and a mask of ones."""
    axes = [
        np.broadcast_to(np.arange(n, dtype=np.float32).reshape([-1 if a == i else 1 for a in range(len(shape))]), shape)
        for i, n in enumerate(shape)
    ]
    return [*axes, np.broadcast_to(np.float32(1), shape)], []


def patches(dataset, patch_size=(16, 16), batch_size=3, transforms=None, **kwargs) -> Patches:
    initial = [n + 8 for n in patch_size] if len(patch_size) == 2 else [patch_size[0], *(n + 8 for n in patch_size[1:])]
    transforms = transforms or Nothing(patch_size)
    return Patches(dataset, batch_size, initial, patch_size, LABELS, transforms, **kwargs)


def first(make, seed=0):
    return next(SeededBatches(make, seed=seed, stream="test"))


@pytest.mark.parametrize("patch_size", [(16, 16), (4, 16, 16)])
def test_without_extras_a_batch_is_nnunets(dataset, patch_size):
    transforms = nnunet_augmentation(patch_size)
    ours = patches(dataset, patch_size, transforms=transforms, oversample_foreground=0.33, complete=False)
    initial = [n + 8 for n in patch_size] if len(patch_size) == 2 else [4, 24, 24]
    theirs = nnUNetDataLoader(dataset, 3, initial, list(patch_size), LABELS, 0.33, transforms=transforms)
    a, b = first(ours), first(theirs.generate_train_batch)
    assert torch.equal(a["data"], b["data"])
    assert torch.equal(a["target"], b["target"])
    assert a["keys"] == list(b["keys"])


@pytest.mark.parametrize("patch_size", [(16, 16), (4, 16, 16)])
def test_what_follows_changes_nothing_else(dataset, patch_size):
    transforms = nnunet_augmentation(patch_size)
    plain = first(patches(dataset, patch_size, transforms=transforms))
    with_extras = first(patches(dataset, patch_size, transforms=transforms, following=coordinates))
    assert torch.equal(plain["data"], with_extras["data"])
    assert torch.equal(plain["target"], with_extras["target"])
    assert plain["keys"] == with_extras["keys"]
    assert with_extras["regression_target"].shape == (3, 4, *patch_size)
    assert "following_labels" not in with_extras


@pytest.mark.parametrize("patch_size", [(16, 16), (4, 16, 16)])
def test_coordinates_point_at_the_voxels_of_the_patch(dataset, patch_size):
    batch = first(patches(dataset, patch_size, batch_size=20, following=coordinates))
    seen = 0
    for image, where, key in zip(batch["data"], batch["regression_target"], batch["keys"], strict=True):
        inside = where[3] == 1
        flat = torch.from_numpy(np.ravel_multi_index(where[:3, inside].long().numpy(), SHAPE))
        assert torch.equal(image[0, inside], flat.float() + 1 + 10_000 * CASES.index(key))
        assert (image[0, ~inside] == 0).all()
        seen += int(inside.sum())
    assert seen > 1000


def labels_too(key, shape):
    values, _ = coordinates(key, shape)
    return values, [(values[2] > 12).astype(np.int8), np.full(shape, 7, np.int8)]


@pytest.mark.parametrize("scales", [None, [[1.0, 1.0], [0.5, 0.5]]])
def test_following_labels_stay_with_the_image_through_rotation(dataset, scales):
    transforms = nnunet_augmentation((16, 16), scales)
    batch = first(patches(dataset, batch_size=30, transforms=transforms, following=labels_too))
    following, where = batch["following_labels"], batch["regression_target"]
    assert following.shape == (30, 2, 16, 16)
    inside = where[:, 3] > 0.999
    assert (following[:, 1][inside] == 7).all()
    clear = inside & ((where[:, 2] - 12.5).abs() > 1)
    assert torch.equal(following[:, 0][clear] == 1, where[:, 2][clear] > 12.5)
    if scales is None:
        assert batch["target"].shape == (30, 1, 16, 16)
    else:
        assert [tuple(t.shape) for t in batch["target"]] == [(30, 1, 16, 16), (30, 1, 8, 8)]


def test_foreground_oversampling(dataset):
    batch = first(patches(dataset, (4, 4), batch_size=12, oversample_foreground=1.0))
    assert (batch["target"] == 1).any(dim=(1, 2, 3)).all()


def test_unlabelled_patches_open_no_label(dataset):
    folder = Path(dataset.source_folder)
    transforms = nnunet_augmentation((16, 16))
    with_labels = first(patches(dataset, transforms=transforms))
    if isinstance(dataset, nnUNetDatasetBlosc2):
        hidden = [*folder.glob("*_seg.b2nd"), *folder.glob("*.pkl")]
    else:
        for case in CASES:
            np.savez(folder / f"{case}.npz", data=np.load(folder / f"{case}.npz")["data"])
        hidden = [*folder.glob("*.pkl")]
    assert len(hidden) >= 2
    for file in hidden:
        file.unlink()
    without = first(patches(ImagesOnly(dataset), transforms=transforms, oversample_foreground=1.0))
    assert torch.equal(with_labels["data"], without["data"])
    assert (without["target"] == 0).all()


def test_the_mask_of_masked_normalisation_is_found_again(dataset):
    dataset.load_case = lambda case: pytest.fail("labels were opened")
    images = ImagesOnly(dataset, masked=True)
    images._image = lambda stem: np.stack([np.array([[[0.0, 1.0, 0.0]]]), np.array([[[0.0, 0.0, 2.0]]])])
    assert images.load_case("a")[1].tolist() == [[[[-1, 0, 0]]]]


def test_two_streams(dataset):
    near, far = type(dataset)(dataset.source_folder, ["a"]), type(dataset)(dataset.source_folder, ["b"])
    transforms = nnunet_augmentation((16, 16))
    labelled = patches(near, batch_size=2, transforms=transforms)
    unlabelled = patches(ImagesOnly(far), batch_size=5, transforms=transforms, following=coordinates)
    batch = first(TwoStreams(labelled, unlabelled))
    assert (batch["keys"], batch["unlabelled_keys"]) == (["a"] * 2, ["b"] * 5)
    assert batch["data"].shape == (2, 1, 16, 16)
    assert batch["target"].shape == (2, 1, 16, 16)
    assert batch["unlabelled"].shape == (5, 1, 16, 16)
    assert batch["unlabelled_regression_target"].shape == (5, 4, 16, 16)
    assert batch["unlabelled"].max() > 5000 > batch["data"].max()


def test_streams_can_be_sent_to_spawned_workers(dataset):
    streams = TwoStreams(
        patches(dataset, transforms=nnunet_augmentation((16, 16))),
        patches(ImagesOnly(dataset), following=coordinates),
    )
    again = pickle.loads(pickle.dumps(streams))
    assert torch.equal(first(streams)["unlabelled"], first(again)["unlabelled"])


def test_timed_choices_are_switched_off_everywhere():
    inner = [getattr(t, "transform", t) for t in nnunet_augmentation((16, 16)).transforms]
    blurs = [t for t in inner if isinstance(t, GaussianBlurTransform)]
    assert [b.benchmark for b in blurs] == [False]


def test_halves():
    assert [halves(n) for n in (1, 2, 7, 8)] == [(1, 1), (1, 1), (3, 4), (4, 4)]
    # Two processes with an odd number each have half of all patches labelled.
    assert [sum(parts) for parts in zip(halves(3), halves(3, rank=1), strict=True)] == [3, 3]


def test_no_case_to_draw_from(dataset):
    dataset.identifiers = []
    with pytest.raises(InputError, match="no case to draw patches from"):
        patches(dataset)
