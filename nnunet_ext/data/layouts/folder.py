"""Any folder of images beside a folder of labels, one or more channels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_ext.data.dataset import IGNORE, Case
from nnunet_ext.data.images import natural, scans
from nnunet_ext.data.layouts.layout import Layout, existing_folder
from nnunet_ext.errors import InputError

IMAGE_FOLDERS = ("images", "imagesTr", "image", "img")
LABEL_FOLDERS = ("labels", "labelsTr", "label", "masks")
CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def find(
    source: Path,
    labels: Mapping[str, int],
    channels: Sequence[str] = (),
    images_folder: str | None = None,
    labels_folder: str | None = None,
    domain: str = "",
) -> Layout:
    """`images/CASE.nii.gz` or `images/CASE_0000.nii.gz, CASE_0001.nii.gz, ...` with `labels/CASE.nii.gz`.

    Args:
        source: the folder above both.
        labels: name -> value in the files. Values other than 1..n are renumbered in their order.
        channels: one name per channel; "channel0", ... without.
        images_folder: its name under `source`; the first of images, imagesTr, image, img without.
        labels_folder: its name under `source`; the first of labels, labelsTr, label, masks without.
        domain: recorded for every case.
    """
    existing_folder(source)
    image_folder = _subfolder(source, images_folder, IMAGE_FOLDERS)
    if image_folder is None:
        raise InputError(f"{source}: no image folder, one of {', '.join(IMAGE_FOLDERS)} is needed")
    label_folder = _subfolder(source, labels_folder, LABEL_FOLDERS)
    label_files = scans(label_folder) if label_folder else {}
    images = _group_channels(scans(image_folder), label_files, image_folder)
    for name, path in label_files.items():
        if name not in images:
            raise InputError(f"{path}: no image of {name} in {image_folder}, the pair of image and label is needed")
    count = max(len(files) for files in images.values())
    channels = list(channels) or [f"channel{i}" for i in range(count)]
    if len(channels) != count:
        raise InputError(f"--channel: {len(channels)} names, {count} are needed for the channels in {image_folder}")
    written = _renumbered(labels)
    mapping = {0: 0} | {labels[name]: value for name, value in written.items()}
    cases = [
        Case(name, files, label_files.get(name), domain=domain, label_map=mapping)
        for name, files in sorted(images.items(), key=lambda item: natural(item[0]))
    ]
    title = re.sub(r"[^A-Za-z0-9_-]", "", source.resolve().name).lstrip("_-")
    return Layout(title or "Folder", cases, channels, written)


def _subfolder(source: Path, given: str | None, usual: Sequence[str]) -> Path | None:
    if given is not None:
        if not (source / given).is_dir():
            raise InputError(f"{source / given}: no such folder, a folder with scans is needed")
        return source / given
    return next((source / name for name in usual if (source / name).is_dir()), None)


def _group_channels(files: Mapping[str, Path], labels: Mapping[str, Path], folder: Path) -> dict[str, tuple[Path, ...]]:
    """Case -> files in channel order. `scan_0007` is a case, not a channel, where a label has that very name."""
    matches = {name: CHANNEL.fullmatch(name) for name in files}
    numbered = all(matches.values()) and any(m and m["channel"] == "0000" for m in matches.values())
    if not numbered or set(files) & set(labels):
        return {name: (path,) for name, path in files.items()}
    grouped: dict[str, dict[int, Path]] = {}
    for name, match in matches.items():
        if match:
            grouped.setdefault(match["case"], {})[int(match["channel"])] = files[name]
    count = max(len(channels) for channels in grouped.values())
    for case, channels in grouped.items():
        missing = sorted(set(range(count)) - set(channels))
        if missing:
            raise InputError(f"{folder}: no file {case}_{missing[0]:04d}, all {count} channels of a case are needed")
    return {case: tuple(channels[i] for i in sorted(channels)) for case, channels in grouped.items()}


def _renumbered(labels: Mapping[str, int]) -> dict[str, int]:
    """The same names with the values 1..n that nnU-Net needs, `ignore` last."""
    named = {name: value for name, value in labels.items() if name != "background"}
    if not named:
        raise InputError("--label: none given, NAME=VALUE is needed for every structure")
    twice = sorted(n for n, v in named.items() if v == 0 or list(named.values()).count(v) > 1)
    if twice:
        raise InputError(f"--label {twice[0]}={named[twice[0]]}: a value of its own, other than 0, is needed")
    order = sorted(named, key=lambda name: (name == IGNORE, named[name]))
    return {name: number for number, name in enumerate(order, start=1)}
