"""The boxes of all cases, cut once and kept beside the model, so that an interrupted fit does not cut them again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ext.files import atomic_path
from nnunet_ext.koos.box import Box, binary, cut
from nnunet_ext.koos.cohort import View
from nnunet_ext.koos.settings import KoosSettings
from nnunet_ext.progress import progress

log = logging.getLogger(__name__)


class Boxes:
    """Case -> its box, read from disk when asked for; cases with an empty mask have none.

    Args:
        folder: where they lie, one file per case whose name tells what it was made from.
        views: the cases.
        settings: size and percentiles.
        spacing: mm along slices, rows, columns.
        tumour: label values that make up the tumour.
    """

    def __init__(
        self,
        folder: Path,
        views: Iterable[View],
        settings: KoosSettings,
        spacing: tuple[float, float, float],
        tumour: tuple[int, ...],
    ) -> None:
        self.files: dict[str, Path] = {}
        self.empty: list[str] = []
        for view in progress(list(views), "cutting boxes"):
            made_from = [
                [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in (view.image, view.mask)],
                [settings.size, spacing, settings.percentiles, tumour],
            ]
            digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
            path = folder / f"{view.case}-{digest}.npz"
            if not path.exists():
                image, label = view.read()
                box = cut(image, binary(label, tumour, image), settings.size, spacing, settings.percentiles)
                arrays: dict[str, Any] = {} if box is None else {"image": box.image, "mask": box.mask}
                with atomic_path(path) as partial, partial.open("wb") as stream:
                    np.savez(stream, **arrays)
            with np.load(path) as stored:
                if not stored.files:
                    self.empty.append(view.case)
            self.files[view.case] = path

    def __getitem__(self, case: str) -> Box:
        with np.load(self.files[case]) as stored:
            return Box(stored["image"], stored["mask"])
