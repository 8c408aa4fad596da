"""A trained model folder of nnU-Net (`TRAINER__PLANS__CONFIGURATION`), read where it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nnunet_ext.errors import InputError, opening
from nnunet_ext.files import read_json
from nnunet_ext.inference.model import Member, Model, Weights
from nnunet_ext.inference.network import has_network_of_plans
from nnunet_ext.inference.postprocessing import KeepLargest, read_postprocessing

CHECKPOINT = "checkpoint_final.pth"


def read_trained(
    folders: Sequence[Path],
    folds: Sequence[str] = (),
    checkpoint: str = CHECKPOINT,
    postprocessing: Path | None = None,
) -> Model:
    """Read one or several trained configurations.

    The checkpoints are nnU-Net's own, whose loading executes a pickle: only for models that you trained or trust.

    Args:
        folders: model folders; the probabilities of several are averaged.
        folds: `0`, `1`, ..., `all`; by default every numbered fold that has the checkpoint, or else `all`.
        checkpoint: file name in the fold folders.
        postprocessing: nnU-Net's `postprocessing.json` or `.pkl`. By default the one that nnU-Net left in the folder
            for exactly these folds, where a single configuration is read.

    Raises:
        InputError: when a folder, a fold or a checkpoint is missing or is not nnU-Net's.
    """
    if not folders:
        raise InputError("MODEL: none given, at least one trained model folder is needed")
    members = tuple(_member(Path(folder), folds, checkpoint) for folder in folders)
    steps: tuple[KeepLargest, ...] = ()
    if postprocessing is None and len(members) == 1:
        postprocessing = _found_postprocessing(Path(folders[0]), members[0])
    if postprocessing is not None:
        steps = read_postprocessing(postprocessing)
    model = Model(members, steps)
    model.check(str(folders[0]))
    return model


def is_trained(folder: Path) -> bool:
    """Whether a folder looks like a trained model folder."""
    return (folder / "plans.json").is_file() and (folder / "dataset.json").is_file()


def _member(folder: Path, folds: Sequence[str], checkpoint: str) -> Member:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, a trained model folder (TRAINER__PLANS__CONFIGURATION) is needed")
    plans, dataset = read_json(folder / "plans.json"), read_json(folder / "dataset.json")
    names = _folds(folder, folds, checkpoint)
    contents = {name: _load(folder / f"fold_{name}" / checkpoint) for name in names}
    first = contents[names[0]]
    weights: dict[str, Weights] = {name: content["network_weights"] for name, content in contents.items()}
    axes = first.get("inference_allowed_mirroring_axes")
    return Member(
        plans=plans,
        dataset=dataset,
        configuration=first["init_args"]["configuration"],
        trainer=first["trainer_name"],
        network_of_plans=has_network_of_plans(first["trainer_name"]),
        mirror_axes=None if axes is None else tuple(int(a) for a in axes),
        folds=weights,
    )


def _folds(folder: Path, folds: Sequence[str], checkpoint: str) -> list[str]:
    there = sorted(p.parent.name.removeprefix("fold_") for p in folder.glob(f"fold_*/{checkpoint}"))
    wanted = list(folds) or [name for name in there if name != "all"] or there
    if not wanted:
        raise InputError(f"{folder}: no fold has {checkpoint}, a finished training (or another checkpoint) is needed")
    for name in wanted:
        if name not in there:
            raise InputError(f"{folder}: fold {name} has no {checkpoint} (there: {', '.join(there) or 'none'})")
    return wanted


def _load(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=False)
        _ = content["network_weights"], content["trainer_name"], content["init_args"]["configuration"]
    except KeyError as error:
        raise InputError(f"{path}: holds no {error}, a checkpoint of nnU-Net v2 is needed") from None
    except Exception as error:
        raise InputError(f"{path}: not readable ({opening(error)}), a checkpoint of nnU-Net v2 is needed") from None
    return content


def _found_postprocessing(folder: Path, member: Member) -> Path | None:
    results = folder / f"crossval_results_folds_{'_'.join(member.folds)}"
    found = [results / name for name in ("postprocessing.json", "postprocessing.pkl") if (results / name).is_file()]
    return found[0] if found else None
