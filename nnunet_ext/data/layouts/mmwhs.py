"""MM-WHS 2017 (Multi-Modality Whole Heart Segmentation): `{ct,mr}_train/{ct,mr}_train_NNNN_{image,label}.nii.gz`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from nnunet_ext.data.dataset import Case
from nnunet_ext.data.images import by_stem, ending, natural, stem
from nnunet_ext.data.layouts.layout import Layout, existing_folder, nothing_found
from nnunet_ext.errors import InputError

Modality = Literal["both", "ct", "mr"]
Structures = Literal["all", "four"]

# The challenge's values: blood cavities of left and right ventricle and atrium, left myocardium, ascending aorta,
# pulmonary artery.
VALUES = {"LV": 500, "RV": 600, "LA": 420, "RA": 550, "MYO": 205, "AA": 820, "PA": 850}
# Some copies of the label maps hold voxels of 421 in the left atrium.
STRAY = {421: "LA"}
# What papers on CT-MR adaptation report.
FOUR = ("MYO", "LA", "LV", "AA")
FILE = re.compile(r"(?P<case>(?P<domain>ct|mr)_train_\d+)_(?P<kind>image|label)")


def find(source: Path, modality: Modality = "both", structures: Structures = "all") -> Layout:
    """The 20 + 20 training scans, anywhere under `source`; the encrypted test labels are not for training.

    Args:
        source: folder above `ct_train` and `mr_train`.
        modality: ct, mr, or both in one dataset.
        structures: all seven, or the four (MYO, LA, LV, AA) of the adaptation literature, the others as background.
    """
    existing_folder(source)
    files = by_stem(sorted(p for p in source.rglob("*") if ending(p) and FILE.fullmatch(stem(p))))
    matches = {name: match for name in files if (match := FILE.fullmatch(name))}
    chosen = {n: m for n, m in matches.items() if modality in ("both", m["domain"])}
    images = {m["case"]: (files[n], m["domain"]) for n, m in chosen.items() if m["kind"] == "image"}
    labels = {m["case"]: files[n] for n, m in chosen.items() if m["kind"] == "label"}
    for case, path in labels.items():
        if case not in images:
            raise InputError(f"{path}: no {case}_image under {source}, the pair of image and label is needed")
    if not images:
        raise nothing_found(source, "ct_train_NNNN_image.nii.gz or mr_train_NNNN_image.nii.gz")
    written = {name: i for i, name in enumerate(VALUES if structures == "all" else FOUR, start=1)}
    mapping = {0: 0} | {value: written.get(name, 0) for name, value in VALUES.items()}
    mapping |= {value: written.get(name, 0) for value, name in STRAY.items()}
    cases = [
        Case(case, (path,), labels.get(case), domain=domain, label_map=mapping)
        for case, (path, domain) in sorted(images.items(), key=lambda item: natural(item[0]))
    ]
    # Only CT has a scale of its own; nnU-Net normalises a mixture scan by scan.
    channel = {"ct": "CT", "mr": "MRI", "both": "CT or MRI"}[modality]
    return Layout("MMWHS" if modality == "both" else f"MMWHS_{modality}", cases, [channel], written)
