"""nnU-Net's four variables: printing them."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from nnunet_ext.files import make_folder
from nnunet_ext.paths import VARIABLES, trainer_folder

FOLDERS = dict(zip(VARIABLES[:3], ("raw", "preprocessed", "results"), strict=True))


def export_lines(root: Path | None) -> str:
    """Lines for `eval` that set nnU-Net's variables.

    Args:
        root: folder for the three data folders, which are made if missing. Without it the variables that are set
            are kept and the others lie under `./nnunet`.

    Raises:
        InputError: when a folder cannot be made.
    """
    lines = []
    for variable, folder in FOLDERS.items():
        value = os.environ.get(variable) if root is None else None
        path = Path(value) if value else (root or Path("nnunet")).expanduser().resolve() / folder
        make_folder(path)
        lines.append(f"export {variable}={shlex.quote(str(path))}")
    # Trainers of the user's own stay in reach: nnU-Net takes a list of folders.
    ours = str(trainer_folder())
    others = [p for p in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if p and p != ours]
    lines.append(f"export nnUNet_extTrainer={shlex.quote(os.pathsep.join([ours, *others]))}")
    return "\n".join(lines)
