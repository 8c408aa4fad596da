"""The model folder: what a fit leaves behind and `apply` loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, sha256
from nnunet_ext.paths import results_root
from nnunet_ext.training.settings import read_section
from translation.cohort import Cohort
from translation.method import LearnedMethod, TranslationMethod
from translation.registry import entry
from translation.settings import MSFNetSettings, VolumeSettings
from translation.volume.preparation import RECORD, Preparation, atlas_of, read_preparation

DESCRIPTION = "method.json"
LATEST, FINAL = "checkpoint_latest.pth", "checkpoint_final.pth"


def default_folder(source: Cohort, target: Cohort, method: str) -> Path:
    """`nnUNet_results/translation/SOURCE__TARGET/METHOD`."""
    sides = "__".join(c.name + (f"-{c.domain}" if c.domain else "") for c in (source, target))
    return results_root() / "translation" / sides / method


def description(folder: Path, method: str, settings: VolumeSettings, source: Cohort, target: Cohort) -> dict[str, Any]:
    """What a fit is, for `method.json` of its folder.

    Raises:
        InputError: when the folder holds a fit with other settings or data.
    """
    # Through JSON, so that it compares equal to what is read back.
    content: dict[str, Any] = {
        "method": method,
        "settings": settings.model_dump(mode="json"),
        **{
            side: {
                "dataset": cohort.name,
                "domain": cohort.domain,
                "cases": list(cohort.cases),
                "files": cohort.digest(labels=side == "source"),
            }
            for side, cohort in (("source", source), ("target", target))
        },
    }
    path = folder / DESCRIPTION
    if path.exists():
        there = read_json(path)
        # A setting that is newer than the fit had the default that it has now.
        there["settings"] = type(settings)().model_dump(mode="json") | there.get("settings", {})
        # Nor does a fit from before `files` say what they were.
        for side in ("source", "target"):
            there[side] = {"files": content[side]["files"]} | there.get(side, {})
        for part, value in content.items():
            if there.get(part) != value:
                keys = value if isinstance(value, dict) else {}
                different = [k for k in keys if there.get(part, {}).get(k) != keys[k]]
                raise InputError(
                    f"{folder}: holds a fit with other {part} ({', '.join(different) or there.get(part)}); the same are"
                    " needed to continue it, or another folder by --output, or remove this one"
                )
    return content


@dataclass(frozen=True)
class Model:
    """A fitted method, ready to translate.

    Attributes:
        folder: where it lies.
        name: of the method.
        method: on its device, in evaluation mode.
        preparation: how scans are brought to it.
        sha256: of the checkpoint, or of the record for a method without weights.
    """

    folder: Path
    name: str
    method: TranslationMethod
    preparation: Preparation
    sha256: str


def load_model(folder: Path, device: torch.device) -> Model:
    """Load what `fit` left in a folder. No pickled code is executed.

    Raises:
        InputError: when the folder holds no finished fit, or another atlas than that of the fit.
    """
    if not (folder / DESCRIPTION).is_file() or not (folder / RECORD).is_file():
        raise InputError(f"{folder}: holds no translation method, run `nnunet_ext translate fit` first")
    described = read_json(folder / DESCRIPTION)
    kind = entry(described["method"])
    settings = read_section({"settings": described["settings"]}, "settings", kind.settings, str(folder / DESCRIPTION))
    if isinstance(settings, MSFNetSettings):
        settings = settings.model_copy(update={"vgg19": None})
    preparation = read_preparation(folder)
    atlas_of(preparation, folder)
    cls = kind.load()
    if not issubclass(cls, LearnedMethod):
        return Model(folder, described["method"], cls(settings, preparation), preparation, sha256(folder / RECORD))
    path = folder / FINAL
    if not path.is_file():
        raise InputError(f"{folder}: the fit is not finished (no {FINAL}), run `nnunet_ext translate fit` again")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    further = {"further": checkpoint["further"]} if checkpoint["further"] else {}
    method = cls(settings, preparation, **further)
    method.load_state_dict(checkpoint["weights"])
    return Model(folder, described["method"], method.to(device).eval(), preparation, sha256(path))
