"""Synapse multi-organ CT (BTCV, MICCAI 2015): `Training/img/imgNNNN.nii.gz`, `Training/label/labelNNNN.nii.gz`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from nnunet_ext.data.dataset import Case
from nnunet_ext.data.images import by_stem, ending, natural, stem
from nnunet_ext.data.layouts.layout import Layout, existing_folder, nothing_found
from nnunet_ext.errors import InputError

Organs = Literal["13", "8"]

# Values in the published label maps.
VALUES = {
    "spleen": 1,
    "right_kidney": 2,
    "left_kidney": 3,
    "gallbladder": 4,
    "esophagus": 5,
    "liver": 6,
    "stomach": 7,
    "aorta": 8,
    "inferior_vena_cava": 9,
    "portal_and_splenic_vein": 10,
    "pancreas": 11,
    "right_adrenal_gland": 12,
    "left_adrenal_gland": 13,
}
# The eight that TransUNet and its successors score, in their order.
EIGHT = ("aorta", "gallbladder", "left_kidney", "right_kidney", "liver", "pancreas", "spleen", "stomach")
FILE = re.compile(r"(?P<kind>img|label)(?P<number>\d{4})")


def find(source: Path, organs: Organs = "13") -> Layout:
    """The 30 training scans as `caseNNNN`; in `--labelled` and `--split`, `imgNNNN` names them too.

    Args:
        source: the folder above `img` and `label`, or above `Training`.
        organs: all 13, or the usual 8 with the others as background.
    """
    existing_folder(source)
    roots = (source / "Training", source / "RawData" / "Training")
    root = next((p for p in roots if p.is_dir()), source)
    files = by_stem(sorted(p for p in root.rglob("*") if ending(p) and FILE.fullmatch(stem(p))))
    matches = {name: match for name in files if (match := FILE.fullmatch(name))}
    images = {m["number"]: files[n] for n, m in matches.items() if m["kind"] == "img"}
    labels = {m["number"]: files[n] for n, m in matches.items() if m["kind"] == "label"}
    for number, path in labels.items():
        if number not in images:
            raise InputError(f"{path}: no img{number} under {root}, the pair of image and label is needed")
    if not images:
        raise nothing_found(root, "imgNNNN.nii.gz")
    names = tuple(VALUES) if organs == "13" else EIGHT
    written = {name: i for i, name in enumerate(names, start=1)}
    mapping = {0: 0} | {value: written.get(name, 0) for name, value in VALUES.items()}
    cases = [
        Case(f"case{n}", (path,), labels.get(n), subject=f"img{n}", domain="ct", label_map=mapping)
        for n, path in sorted(images.items(), key=lambda item: natural(item[0]))
    ]
    return Layout("Synapse" if organs == "13" else "Synapse8", cases, ["CT"], written)
