"""nnU-Net's post-processing as data: read once where the model was trained, applied anywhere without a pickle."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json

KEEP_LARGEST = "remove_all_but_largest_component_from_segmentation"


class KeepLargest(BaseModel):
    """Keep the largest connected component of the union of some labels; the rest of it becomes `background`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keep_largest: tuple[int, ...] = Field(min_length=1, description="labels that are taken together")
    background: int = Field(0, description="what removed voxels become")


def apply(mask: np.ndarray, steps: Iterable[KeepLargest]) -> np.ndarray:
    """Apply the steps in their order to a label map (z, y, x); the input is left as it is.

    Components touch by faces, edges or corners, and components of equal size are all kept, as in nnU-Net.
    """
    for step in steps:
        chosen = np.isin(mask, step.keep_largest)
        if chosen.any():
            from acvl_utils.morphology.morphology_helper import remove_all_but_largest_component

            removed = chosen & ~remove_all_but_largest_component(chosen)
            mask = np.where(removed, mask.dtype.type(step.background), mask)
    return mask


def read_postprocessing(path: Path) -> tuple[KeepLargest, ...]:
    """The steps of nnU-Net's `postprocessing.json` or `postprocessing.pkl`.

    The pickle is not executed: only the names of functions in it are read.

    Raises:
        InputError: when the file is unreadable or holds a function other than nnU-Net's.
    """
    if path.suffix == ".json":
        content = read_json(path)
        try:
            functions, options = content["postprocessing_fns"], content["postprocessing_kwargs"]
        except (KeyError, TypeError):
            raise InputError(f"{path}: no postprocessing_fns, nnU-Net's postprocessing.json is needed") from None
    else:
        functions, options = _read_pickle(path)
    return tuple(_step(path, f, o) for f, o in zip(functions, options, strict=True))


def _step(path: Path, function: str, options: dict[str, Any]) -> KeepLargest:
    if function != KEEP_LARGEST or not set(options) <= {"labels_or_regions", "background_label"}:
        raise InputError(f"{path}: post-processing function {function}, only {KEEP_LARGEST} can be packaged")
    labels = sorted(set(_flat(options["labels_or_regions"])))
    return KeepLargest(keep_largest=tuple(labels), background=int(options.get("background_label", 0)))


def _flat(labels: Any) -> list[int]:
    """A label, a region or a list of both: nnU-Net takes the union, so nesting carries no meaning."""
    if isinstance(labels, list | tuple):
        return [i for part in labels for i in _flat(part)]
    return [int(labels)]


class _Name(str):
    """Stands for a function of a pickle: only its name is known."""


class _NamesOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("dtype", "scalar"):  # labels may be NumPy integers
            return super().find_class(module, name)
        return _Name(name)


def _read_pickle(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        with path.open("rb") as stream:
            functions, options = _NamesOnly(stream).load()
        return [str(f) for f in functions], [dict(o) for o in options]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, nnU-Net's postprocessing.pkl is needed") from None
    except Exception as error:
        raise InputError(f"{path}: not nnU-Net's post-processing ({error}), its postprocessing.pkl is needed") from None
