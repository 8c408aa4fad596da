"""The resident predictor: a model that stays loaded and turns scans into label maps, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nnunet_ext.device import pick_device
from nnunet_ext.errors import InputError
from nnunet_ext.inference import postprocessing
from nnunet_ext.inference.estimate import Stages, activation_bytes, needed_bytes
from nnunet_ext.inference.images import Scan
from nnunet_ext.inference.memory import require_room, room
from nnunet_ext.inference.model import Member, Model
from nnunet_ext.inference.network import build_network, fast_on_cpu
from nnunet_ext.inference.resampling import Resampling, resample_by_class, resampling, slabs
from nnunet_ext.inference.sliding_window import Lanes, Window, flip_groups, predict_logits

log = logging.getLogger(__name__)

STEP = 0.5
FAST_STEP = 0.75


@dataclass
class Prepared:
    """A case before the network: for each member, preprocessed data (C, z, y, x) and nnU-Net's properties; nothing
    for a scan without contrast."""

    scan: Scan
    data: list[torch.Tensor | None]
    properties: list[dict[str, Any]]


@dataclass
class Logits:
    """A case after the network: for each member, float16 logits (heads, z, y, x) on its own grid."""

    scan: Scan
    logits: list[torch.Tensor]
    properties: list[dict[str, Any]]


@dataclass
class Prediction:
    """`mask` (z, y, x), uint8 or uint16, on `scan.grid`; `probability` is the mean probability of each class or region
    over the voxels given to it (before post-processing), None for one that is absent, where it was asked for."""

    mask: np.ndarray
    probability: dict[str, float | None] | None = None


class Predictor:
    """Loads once, then predicts case by case without worker processes.

    `prepare`, `logits` and `finish` are the three stages, so that a folder of scans can overlap them; `predict` is all
    three. Stages of one predictor may run in different threads, `logits` in one at a time.

    Args:
        model: what to predict with.
        device: `cpu`, `cuda` or `cuda:N`; None for a GPU where there is one.
        step: distance between tiles as a part of the patch size.
        mirror: average over mirrored copies where the training allows it.

    Raises:
        InputError: for a device that is not there, or weights that do not fit their network.
    """

    def __init__(self, model: Model, device: str | None = None, step: float = STEP, mirror: bool = True) -> None:
        self.model = model
        self.device = pick_device(device)
        on_cpu = self.device.type == "cpu"
        self.networks = [[self._network(member, fold) for fold in member.folds] for member in model.members]
        self._threads = torch.get_num_threads() if on_cpu else 1
        self._executor = ThreadPoolExecutor(self._threads, "network", _one_core) if on_cpu else None
        self._windows = [
            Window(tuple(member.conf.patch_size), member.mirror_axes if mirror else None, step)
            for member in model.members
        ]
        copies = [max(len(group) for group in flip_groups(window)) for window in self._windows]
        sizes = [n * activation_bytes(member) for n, member in zip(copies, model.members, strict=True)]
        self._pass = max(sizes) if on_cpu else 0

    def predict(self, scan: Scan, probabilities: bool = False) -> Prediction:
        """Predict one case. The scan's channels are given up to save memory.

        Raises:
            InputError: for a wrong number of channels, or a volume that cannot fit into the memory that is left.
        """
        return self.finish(self.logits(self.prepare(scan)), probabilities)

    def prepare(self, scan: Scan) -> Prepared:
        """Crop, normalise and resample, as nnU-Net's preprocessor does."""
        channels, wanted = scan.channels.shape[0], self.model.first.channels
        if channels != wanted:
            raise InputError(f"{scan.name}: {channels} channels, the model's number is needed: {wanted}")
        self._require_room(scan)
        array, scan.channels = scan.channels, np.empty((0, 0, 0, 0), np.float32)
        # A scan without contrast shows nothing; after normalisation the network would only see rounding errors.
        if all(channel.min() == channel.max() for channel in array):
            return Prepared(scan, [], [])
        data: list[torch.Tensor | None] = []
        properties: list[dict[str, Any]] = []
        for member in self.model.members:
            preprocessor = member.conf.preprocessor_class(verbose=False)
            props: dict[str, Any] = {"spacing": list(scan.spacing)}
            values, _, props = preprocessor.run_case_npy(
                array, None, props, member.manager, member.conf, member.dataset
            )
            data.append(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)))
            properties.append(props)
        return Prepared(scan, data, properties)

    def logits(self, prepared: Prepared) -> Logits:
        """Run the networks."""
        found = []
        for i, data in enumerate(prepared.data):
            member = self.model.members[i]
            assert data is not None
            lanes = Lanes(self.device, self._executor, self._workers(member, prepared.scan, data))
            heads = member.labels.num_segmentation_heads
            found.append(predict_logits(self.networks[i], data, heads, self._windows[i], lanes))
            prepared.data[i] = None  # the next member's logits may need its place
        return Logits(prepared.scan, found, prepared.properties)

    def finish(self, logits: Logits, probabilities: bool = False) -> Prediction:
        """Resample to the scan's grid, take the labels, undo cropping and axis order, post-process."""
        x, y, z = logits.scan.grid.size
        dtype = np.uint8 if max(self.model.first.labels.all_labels) <= 255 else np.uint16
        mask = np.zeros((z, y, x), dtype)
        means = _Means(self.model) if probabilities else None
        if logits.logits:
            self._fill(mask, logits, means)
            mask = postprocessing.apply(mask, self.model.postprocessing)
        return Prediction(mask, means.result() if means else None)

    def _fill(self, mask: np.ndarray, logits: Logits, means: _Means | None) -> None:
        """Write labels into `mask` slab by slab along the first axis of the network's axis order."""
        members, forward = self.model.members, self.model.first.manager.transpose_forward
        labels = self.model.first.labels
        bbox = logits.properties[0]["bbox_used_for_cropping"]
        inside = mask.transpose(forward)[tuple(slice(a, b) for a, b in bbox)]
        planes = [
            self._planes(m, one, props) for m, one, props in zip(members, logits.logits, logits.properties, strict=True)
        ]
        heads = labels.num_segmentation_heads
        averaging = len(members) > 1 or means is not None
        for start, stop in slabs(inside.shape, heads):
            slab = planes[0](start, stop)
            if averaging:
                slab = labels.apply_inference_nonlin(slab)
                for other in planes[1:]:
                    slab += labels.apply_inference_nonlin(other(start, stop))
                slab /= len(members)
                found = labels.convert_probabilities_to_segmentation(slab)
            else:
                found = labels.convert_logits_to_segmentation(slab)
            inside[start:stop] = np.asarray(found)
            if means is not None:
                means.add(slab.numpy(), inside[start:stop])

    def _planes(
        self, member: Member, logits: torch.Tensor, properties: dict[str, Any]
    ) -> Callable[[int, int], torch.Tensor]:
        """A function that gives the logits of a range of planes of the cropped scan."""
        spacing = [properties["spacing"][i] for i in member.manager.transpose_forward]
        target = member.conf.spacing
        current = list(target) if len(target) == 3 else [spacing[0], *target]
        shape = properties["shape_after_cropping_and_before_resampling"]
        how: Resampling | None = resampling(member.conf, shape, current, spacing)
        if how is not None:
            return lambda start, stop: how.slab(logits, start, stop)
        full = resample_by_class(logits, member.conf.resampling_fn_probabilities, shape, (current, spacing))
        return lambda start, stop: full[:, start:stop]

    def _network(self, member: Member, fold: str) -> torch.nn.Module:
        network = build_network(
            member.plans,
            member.configuration,
            member.dataset,
            member.trainer,
            member.network_of_plans,
            member.folds[fold],
        )
        if self.device.type == "cpu":
            return fast_on_cpu(network, len(member.conf.patch_size))
        return network.to(self.device)

    def _require_room(self, scan: Scan) -> None:
        """Raise `NoRoom` for a scan that cannot be predicted with the memory that is left."""
        needed = max(max(self._stages(member, scan)) for member in self.model.members)
        # What the scan itself holds is already taken.
        require_room(scan.name, scan.grid.size, needed + self._pass - scan.channels.nbytes)

    def _workers(self, member: Member, scan: Scan, data: torch.Tensor) -> int:
        """How many passes may run at once beside the sums over this volume."""
        left = room().size - (self._stages(member, scan).inference - data.nbytes)
        return max(1, min(self._threads, left // max(self._pass, 1)))

    @staticmethod
    def _stages(member: Member, scan: Scan) -> Stages:
        return needed_bytes(member, scan.grid.size[::-1], scan.spacing)


class _Means:
    """Running mean of each class's or region's probability over the voxels given to it."""

    def __init__(self, model: Model) -> None:
        labels = model.first.labels
        names = model.class_names
        self.names = list(names)
        self.labels = [list(c) if isinstance(c, list | tuple) else [c] for c in names.values()]
        # Channel of each class: with regions there is none for the background.
        numbers = [labels.all_labels.index(c[0]) for c in self.labels]
        self.channels = list(range(len(names))) if labels.has_regions else numbers
        self.sums = np.zeros(len(names))
        self.counts = np.zeros(len(names), dtype=np.int64)

    def add(self, probabilities: np.ndarray, mask: np.ndarray) -> None:
        for i, (channel, labels) in enumerate(zip(self.channels, self.labels, strict=True)):
            where = np.isin(mask, labels)
            self.sums[i] += probabilities[channel][where].sum(dtype=np.float64)
            self.counts[i] += np.count_nonzero(where)

    def result(self) -> dict[str, float | None]:
        return {
            name: float(total / count) if count else None
            for name, total, count in zip(self.names, self.sums, self.counts, strict=True)
        }


def _one_core() -> None:
    """Start of a network thread: it computes alone, the other threads have the other cores."""
    torch.set_num_threads(1)
