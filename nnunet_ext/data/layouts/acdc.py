"""ACDC (Automated Cardiac Diagnosis Challenge, MICCAI 2017): `patientNNN/patientNNN_frameFF.nii.gz` and `..._gt`."""

from __future__ import annotations

import re
from pathlib import Path

from nnunet_ext.data.dataset import Case
from nnunet_ext.data.images import by_stem, ending, stem
from nnunet_ext.data.layouts.layout import Layout, existing_folder, nothing_found
from nnunet_ext.errors import InputError

LABELS = {"RV": 1, "MYO": 2, "LV": 3}
FRAME = re.compile(r"patient\d{3}_frame\d{2}(_gt)?")


def find(source: Path) -> Layout:
    """The end-diastolic and end-systolic frames; `_4d` cine series are passed over.

    Args:
        source: the folder with the patients' folders, or the one above it (`training/` is then taken).
    """
    existing_folder(source)
    root = next((p for p in (source / "training", source / "database" / "training") if p.is_dir()), source)
    files = sorted(p for p in root.glob("patient*/*") if ending(p) and FRAME.fullmatch(stem(p)))
    found = by_stem(files)
    labels = {name.removesuffix("_gt"): path for name, path in found.items() if name.endswith("_gt")}
    images = {name: path for name, path in found.items() if not name.endswith("_gt")}
    for name, path in labels.items():
        if name not in images:
            raise InputError(f"{path}: no image {name} beside it, the pair of image and _gt is needed")
    if not images:
        raise nothing_found(root, "patientNNN/patientNNN_frameFF.nii.gz")
    cases = [
        Case(name, (path,), labels.get(name), subject=name.split("_")[0], domain="cine")
        for name, path in images.items()
    ]
    return Layout("ACDC", cases, ["cineMRI"], LABELS)
