"""MS-CMRSeg (multi-sequence cardiac MR, MICCAI 2019): `NAME_{C0,T2,LGE,DE}.nii.gz` with `_gt` or `_manual`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from nnunet_ext.data.dataset import Case
from nnunet_ext.data.images import by_stem, ending, natural, stem
from nnunet_ext.data.layouts.layout import Layout, existing_folder, nothing_found
from nnunet_ext.errors import InputError

LABELS = {"RV": 1, "MYO": 2, "LV": 3}
# The challenge's own values, and those of the copies that already use ACDC's.
LABEL_MAP = {0: 0, 1: 1, 2: 2, 3: 3, 200: 2, 500: 3, 600: 1}

Sequence = Literal["LGE", "C0", "T2"]
NAMES: dict[str, tuple[str, ...]] = {"LGE": ("LGE", "DE"), "C0": ("C0",), "T2": ("T2",)}
LABEL_SUFFIX = re.compile(r"_(gt|manual)$")


def find(source: Path, sequence: Sequence = "LGE") -> Layout:
    """The scans of one sequence, anywhere under `source`; `train/` and `val/` folders make a fold.

    Args:
        source: the challenge's folder; images and labels may lie in one folder or in several.
        sequence: LGE (late gadolinium, also named DE), C0 (balanced SSFP cine) or T2.
    """
    existing_folder(source)
    wanted = re.compile(rf"(?P<subject>.+)_({'|'.join(NAMES[sequence])})(_gt|_manual)?")
    files = sorted(p for p in source.rglob("*") if ending(p) and wanted.fullmatch(stem(p)))
    found = by_stem(files)
    labels = {LABEL_SUFFIX.sub("", name): path for name, path in found.items() if LABEL_SUFFIX.search(name)}
    images = {name: path for name, path in found.items() if not LABEL_SUFFIX.search(name)}
    for name, path in labels.items():
        if name not in images:
            raise InputError(f"{path}: no image {name} under {source}, the pair of image and label is needed")
    if not images:
        raise nothing_found(source, f"NAME_{NAMES[sequence][0]}.nii.gz")
    cases = [
        Case(
            name,
            (path,),
            labels.get(name),
            subject=name.rsplit("_", 1)[0],
            domain=sequence.lower(),
            label_map=LABEL_MAP,
        )
        for name, path in sorted(images.items(), key=lambda item: natural(item[0]))
    ]
    parts = {
        part: [c.name for c in cases if part in c.images[0].relative_to(source).parts[:-1]] for part in ("train", "val")
    }
    fold = parts if all(parts.values()) else None
    # The challenge published most LGE scans without labels.
    return Layout(f"MSCMR_{sequence}", cases, [sequence], LABELS, fold=fold, pairs=False)
