"""Patches of labelled and unlabelled cases, and batches that hold both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import (
    nnUNetBaseDataset,
    nnUNetDatasetBlosc2,
    nnUNetDatasetNumpy,
)
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from threadpoolctl import threadpool_limits

from nnunet_ext.errors import InputError
from nnunet_ext.training.batches import Batch

# What follows a case's image through cropping and spatial augmentation. Called with the case and its spatial shape,
# it returns channels of that shape: some to be interpolated linearly, and some label maps.
Following = Callable[[str, tuple[int, ...]], tuple[Sequence[np.ndarray], Sequence[np.ndarray]]]


class ImagesOnly(nnUNetBaseDataset):
    """A preprocessed dataset of which only the images are opened, neither labels nor what was derived from them.

    Args:
        dataset: nnU-Net's own dataset of the same cases.
        masked: the images were normalised inside their non-zero mask only; it is then found again from them, as
            nnU-Net marks it in its segmentations, with -1 outside.
    """

    def __init__(self, dataset: nnUNetBaseDataset, masked: bool = False) -> None:
        super().__init__(dataset.source_folder, list(dataset.identifiers))
        if not isinstance(dataset, nnUNetDatasetBlosc2 | nnUNetDatasetNumpy):
            raise TypeError(f"{type(dataset).__name__}: not a format of nnU-Net 2.8 that this class knows")
        self._blosc2 = isinstance(dataset, nnUNetDatasetBlosc2)
        self._mapping = getattr(dataset, "mmap_kwargs", {})
        self._masked = masked

    def load_case(self, identifier: str) -> tuple[Any, np.ndarray, None, dict[str, Any]]:
        """Image (C, Z, Y, X), an empty segmentation (1, Z, Y, X), no previous stage, no class locations."""
        image = self._image(Path(self.source_folder) / identifier)
        if self._masked:
            segmentation = -(np.asarray(image[:]) == 0).all(axis=0, keepdims=True).astype(np.int8)
        else:
            segmentation = np.broadcast_to(np.int8(0), (1, *image.shape[1:]))
        return image, segmentation, None, {"class_locations": None}

    def _image(self, stem: Path) -> Any:
        if self._blosc2:
            import blosc2

            return blosc2.open(urlpath=f"{stem}.b2nd", mode="r", dparams={"nthreads": 1}, **self._mapping)
        unpacked = Path(f"{stem}.npy")
        return np.load(unpacked, mmap_mode="r") if unpacked.is_file() else np.load(f"{stem}.npz")["data"]

    @staticmethod
    def save_case(data: np.ndarray, seg: np.ndarray, properties: dict, output_filename_truncated: str) -> None:
        raise NotImplementedError("images are only read here")

    @staticmethod
    def get_identifiers(folder: str) -> list[str]:
        raise NotImplementedError("the cases are those of the dataset given")


class Patches(nnUNetDataLoader):
    """nnU-Net's random patches, optionally with what follows the image through its spatial augmentation.

    Args:
        dataset: the cases to draw from; `ImagesOnly` for unlabelled ones.
        batch_size: patches in a batch.
        initial_patch_size, patch_size: before and after spatial augmentation, 2 or 3 axes.
        label_manager: of the dataset.
        transforms: nnU-Net's augmentation, applied to one patch at a time.
        oversample_foreground: share of the batch that is centred on a voxel of a foreground class.
        complete: the cases are labelled everywhere or nowhere, so patches need not be centred on annotated voxels
            even though the dataset declares the ignore label.
        following: see `Following`.
    """

    def __init__(
        self,
        dataset: nnUNetBaseDataset,
        batch_size: int,
        initial_patch_size: Sequence[int],
        patch_size: Sequence[int],
        label_manager: LabelManager,
        transforms: BasicTransform,
        *,
        oversample_foreground: float = 0.0,
        probabilistic_oversampling: bool = False,
        complete: bool = True,
        following: Following | None = None,
    ) -> None:
        if not dataset.identifiers:
            raise InputError(f"{dataset.source_folder}: no case to draw patches from, at least one is needed")
        unlabelled = isinstance(dataset, ImagesOnly)
        super().__init__(
            dataset,
            batch_size,
            list(initial_patch_size),
            list(patch_size),
            label_manager,
            oversample_foreground_percent=0.0 if unlabelled else oversample_foreground,
            probabilistic_oversampling=probabilistic_oversampling and not unlabelled,
            transforms=transforms,
        )
        self.has_ignore: bool = label_manager.has_ignore_label and not (complete or unlabelled)
        self.following = following

    def __call__(self) -> Batch:
        """One batch.

        Returns:
            `data` (B, C, *patch) float32, `target` (B, 1, *patch) int16 or a list of them for deep supervision, and
            `keys`, the cases. With `following` also `regression_target` (B, R, *patch) float32 and
            `following_labels` (B, L, *patch) int16, whose pixels outside the volume are 0.
        """
        if self.following is None:
            batch = self.generate_train_batch()
            return {**batch, "keys": [str(k) for k in batch["keys"]]}
        keys = [str(k) for k in self.get_indices()]
        with torch.no_grad(), threadpool_limits(limits=1):
            samples = [self._sample(key, self.get_do_oversample(number)) for number, key in enumerate(keys)]
        return {**{name: _stack([s[name] for s in samples]) for name in samples[0]}, "keys": keys}

    def _sample(self, key: str, force_foreground: bool) -> dict[str, Any]:
        image, segmentation, _, properties = self._data.load_case(key)
        shape = tuple(image.shape[1:])
        lower, upper = self.get_bbox(shape, force_foreground, properties["class_locations"])
        box = [[a, b] for a, b in zip(lower, upper, strict=True)]
        assert self.following is not None
        values, labels = self.following(key, shape)

        def crop(volume: Any, padding: int, dtype: Any) -> torch.Tensor:
            patch = np.ascontiguousarray(crop_and_pad_nd(volume, box, padding), dtype=dtype)
            return torch.from_numpy(patch[:, 0] if self.patch_size_was_2d else patch)

        sample = {
            "image": crop(image, 0, np.float32),
            "segmentation": torch.cat(
                [crop(segmentation, -1, np.int16), *(crop(channel[None], -1, np.int16) for channel in labels)]
            ),
        }
        if values:
            sample["regression_target"] = torch.cat([crop(channel[None], 0, np.float32) for channel in values])
        sample = self.transforms(**sample)
        levels = sample["segmentation"] if isinstance(sample["segmentation"], list) else [sample["segmentation"]]
        own = levels[0].shape[0] - len(labels)
        target = [level[:own] for level in levels]
        result = {"data": sample["image"], "target": target if isinstance(sample["segmentation"], list) else target[0]}
        if labels:
            result["following_labels"] = levels[0][own:]
        if values:
            result["regression_target"] = sample["regression_target"]
        return result


class TwoStreams:
    """Batches of a labelled and an unlabelled part, or of a source and a target domain.

    Args:
        labelled: patches with labels.
        unlabelled: patches without.
    """

    def __init__(self, labelled: Patches, unlabelled: Patches) -> None:
        self.labelled = labelled
        self.unlabelled = unlabelled

    def __call__(self) -> Batch:
        """One batch: what `labelled` gives, and `unlabelled` (B, C, *patch) with `unlabelled_keys`.

        What follows the unlabelled images is there as `unlabelled_regression_target` and `unlabelled_following_labels`.
        """
        batch = self.labelled()
        other = self.unlabelled()
        batch["unlabelled"] = other["data"]
        for name in ("keys", "regression_target", "following_labels"):
            if name in other:
                batch[f"unlabelled_{name}"] = other[name]
        return batch


def halves(batch_size: int, rank: int = 0) -> tuple[int, int]:
    """How many patches of a process's batch are labelled and how many are not; at least one each.

    The odd one is unlabelled in the first process, labelled in the second, and so on.
    """
    less, more = max(1, batch_size // 2), max(1, batch_size - batch_size // 2)
    return (more, less) if rank % 2 else (less, more)


def without_benchmarks(transform: Any) -> Any:
    """`transform` with nnU-Net's timed choice between two blurs switched off, everywhere inside it.

    The choice depends on how busy the machine is, and the two differ in the last bits.
    """
    for inner in [*getattr(transform, "transforms", []), getattr(transform, "transform", None)]:
        if inner is not None:
            without_benchmarks(inner)
    if isinstance(transform, GaussianBlurTransform):
        transform.benchmark = False
    return transform


def geometric_only(transform: Any) -> Any:
    """A copy of nnU-Net's augmentation without what changes intensities at random."""
    if not isinstance(transform, ComposeTransforms):
        return transform
    return ComposeTransforms(
        [
            geometric_only(inner)
            for inner in transform.transforms
            if not (isinstance(inner, RandomTransform) and isinstance(inner.transform, ImageOnlyTransform))
        ]
    )


def _stack(values: list[Any]) -> Any:
    if isinstance(values[0], list):
        return [torch.stack(level) for level in zip(*values, strict=True)]
    return torch.stack(values)
