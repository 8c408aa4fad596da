"""`nnunet_ext doctor`: is everything in place for nnU-Net and this plugin, and if not, what to mend."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.specifiers import SpecifierSet

from nnunet_ext.environment import FOLDERS
from nnunet_ext.paths import trainer_folder

REQUIRED = {"nnunetv2": ">=2.8.1", "torch": ">=2.1.2,!=2.9.*", "SimpleITK": ">=2.3", "monai": ">=1.4"}
GIGABYTE = 1 << 30
FREE_DISK = 10 * GIGABYTE
# torch's data-loading workers hand batches over through shared memory; a container's default of 64 MB is too little.
SHARED_MEMORY = 1 * GIGABYTE


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what was found and, where it is not as it should be, what to do."""

    what: str
    found: str
    mend: str | None = None

    def __str__(self) -> str:
        line = f"[{'ok' if self.mend is None else '!!'}] {self.what}: {self.found}"
        return line if self.mend is None else f"{line}\n     -> {self.mend}"


def examine() -> Iterator[Finding]:
    """Look at versions, variables, trainers, device, disk and shared memory, cheapest first."""
    yield from _versions()
    yield from _variables()
    yield from _trainers()
    yield _device()
    yield from _space()


def _versions() -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", python, None if sys.version_info >= (3, 10) else "install Python 3.10 or newer")
    for package, needed in REQUIRED.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            yield Finding(package, "not installed", f"pip install '{package}{needed}'")
            continue
        fits = SpecifierSet(needed).contains(found.split("+")[0], prereleases=True)
        yield Finding(package, found, None if fits else f"pip install '{package}{needed}'")


def _variables() -> Iterator[Finding]:
    for variable in FOLDERS:
        value = os.environ.get(variable)
        if not value:
            yield Finding(variable, "not set", 'eval "$(nnunet_ext env --root DIR)"')
        elif not Path(value).is_dir():
            yield Finding(variable, f"{value} is not a folder", f"mkdir -p {value}")
        elif not os.access(value, os.W_OK):
            yield Finding(variable, f"{value} is not writable", "choose a folder of your own")
        else:
            yield Finding(variable, value)


def _trainers() -> Iterator[Finding]:
    listed = [Path(p).resolve() for p in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if p]
    if trainer_folder() not in listed:
        found = os.environ.get("nnUNet_extTrainer") or "not set"
        yield Finding("nnUNet_extTrainer", found, f'it must name {trainer_folder()}: eval "$(nnunet_ext env)"')
        return
    yield Finding("nnUNet_extTrainer", os.environ["nnUNet_extTrainer"])
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    found_names: list[str] = []
    broken: list[str] = []
    folder = str(trainer_folder())
    for file in sorted(trainer_folder().glob("nnUNetTrainer*.py")):
        try:
            trainer = recursive_find_python_class(folder, file.stem, None, folder, False, True)
        except Exception as error:
            broken.append(f"{file.stem} ({error})")
            continue
        (found_names if trainer is not None else broken).append(file.stem)
    if broken:
        yield Finding(
            "trainers", f"not importable: {', '.join(broken)}", "reinstall nnunet_ext: pip install --force-reinstall"
        )
    else:
        yield Finding("trainers", ", ".join(found_names))


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / GIGABYTE
        return Finding("device", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GB, CUDA {torch.version.cuda}")
    if torch.backends.mps.is_available():
        return Finding("device", "Apple GPU (-device mps)")
    return Finding("device", f"CPU only, {os.cpu_count()} cores: use -device cpu and nnunet_ext configure --preset cpu")


def _space() -> Iterator[Finding]:
    for variable in FOLDERS:
        value = os.environ.get(variable)
        if value and Path(value).is_dir():
            free = shutil.disk_usage(value).free
            mend = None if free >= FREE_DISK else f"free at least {FREE_DISK // GIGABYTE} GB"
            yield Finding(f"disk of {variable}", f"{free / GIGABYTE:.0f} GB free", mend)
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        mend = None if free >= SHARED_MEMORY else "docker/podman run --shm-size=2g, or nnUNet_n_proc_DA=0"
        yield Finding("shared memory", f"{free / GIGABYTE:.1f} GB free", mend)
