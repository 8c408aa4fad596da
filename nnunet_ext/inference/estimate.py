"""How much memory a case needs, estimated before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

from nnunet_ext.inference.model import Member
from nnunet_ext.inference.resampling import SLAB_BYTES, resampling

FLOAT, HALF, DOUBLE = 4, 2, 8
# Input, output, concatenation and the convolution library's own copies of the largest layer, in multiples of its size.
LIVE_LAYERS = 8
UNKNOWN_WIDTH = 64
# Imports, thread stacks and allocator caches that a case adds to what was resident when the model was loaded.
OVERHEAD = 200 << 20


class Stages(NamedTuple):
    """Bytes of each stage of a case: preprocessing (with the scan; float64 while a channel is resampled), inference
    (input and float16 sums of every class) and the way back (float16 logits, one slab of all classes, the mask)."""

    preprocessing: int
    inference: int
    back: int


def needed_bytes(member: Member, shape: Sequence[int], spacing: Sequence[float]) -> Stages:
    """Memory of a case beyond the loaded model, without the network's own activations.

    Args:
        shape: z, y, x of the scan.
        spacing: its spacing in mm, z, y, x.
    """
    forward = member.manager.transpose_forward
    old = [int(shape[i]) for i in forward]
    current = [float(spacing[i]) for i in forward]
    target = list(member.conf.spacing) if len(member.conf.spacing) == 3 else [current[0], *member.conf.spacing]
    new = [int(n) for n in compute_new_shape(old, current, target)]
    patch = member.conf.patch_size
    tiled = [max(n, p) for n, p in zip(new, [1] * (3 - len(patch)) + list(patch), strict=True)]
    before, after, padded = math.prod(old), math.prod(new), math.prod(tiled)
    channels, heads = member.channels, member.labels.num_segmentation_heads

    scan = before * FLOAT * channels
    preprocessing = 2 * scan + 3 * before
    if new != old:
        preprocessing += before * DOUBLE * (channels + 1) + after * (2 * DOUBLE + FLOAT * channels)
    inference = after * FLOAT * channels + padded * (FLOAT * channels + HALF * heads + HALF)
    slab = min(SLAB_BYTES, before * heads * FLOAT) + old[1] * old[2] * heads * FLOAT
    back = after * HALF * heads + 3 * before + 4 * slab
    if resampling(member.conf, old, target, current) is None:
        back += before * (HALF * heads + 3 * DOUBLE)
    return Stages(preprocessing + OVERHEAD, inference + OVERHEAD, back + OVERHEAD)


def activation_bytes(member: Member) -> int:
    """Memory of one pass over one tile, from the widest layer that the plans describe.

    A network that a trainer builds by itself is taken to have `UNKNOWN_WIDTH` features at full resolution.
    """
    voxels = math.prod(member.conf.patch_size)
    options = member.conf.network_arch_init_kwargs
    largest = member.channels * voxels
    if member.network_of_plans and {"features_per_stage", "strides"} <= set(options):
        for features, stride in zip(options["features_per_stage"], options["strides"], strict=True):
            voxels /= math.prod(stride) if isinstance(stride, list | tuple) else stride ** len(member.conf.patch_size)
            largest = max(largest, features * voxels)
    else:
        largest = UNKNOWN_WIDTH * voxels
    return int(LIVE_LAYERS * FLOAT * largest)
