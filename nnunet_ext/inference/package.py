"""The model package: everything the container loads, as plain data with checksums, and no pickle in it.

manifest.json        versions, the members (configuration, trainer, folds), SHA-256 of every other file
sockets.json         which socket feeds which channel, where outputs go
postprocessing.json  the steps, maybe none
models/0/            plans.json, dataset.json, fold_0.pth, ... (tensors only, `weights_only=True` loads them)
models/koos.pth      a fitted Koos model that grades the masks, if any (`weights_only=True` loads it)
"""

from __future__ import annotations

import gzip
import io
import pickle
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from nnunet_ext.errors import InputError, opening
from nnunet_ext.files import atomic_path, make_folder, read_json, sha256, write_json
from nnunet_ext.inference.model import Member, Model, Weights
from nnunet_ext.inference.postprocessing import KeepLargest
from nnunet_ext.inference.sockets import parse_sockets
from nnunet_ext.inference.trained import CHECKPOINT, is_trained, read_trained

FORMAT = 1
MANIFEST, SOCKETS, POSTPROCESSING = "manifest.json", "sockets.json", "postprocessing.json"
KOOS = "models/koos.pth"
LARGEST_UINT8 = 255


def check_name(target: Path) -> None:
    """Raises `InputError` for a package's name that `load_model` would not take for one."""
    if not target.name.endswith(".tar.gz"):
        raise InputError(f"-o {target}: a name ending in .tar.gz is needed")


def write_package(model: Model, target: Path) -> None:
    """Write a package (`.tar.gz`). The same model gives the same bytes.

    Raises:
        InputError: when the target is not a `.tar.gz` or a label does not fit the container's uint8 masks.
    """
    check_name(target)
    largest = max(int(label) for label in model.first.labels.all_labels)
    if largest > LARGEST_UINT8:
        raise InputError(f"labels: {largest} is used, at most {LARGEST_UINT8} fits the container's uint8 masks")
    make_folder(target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch, atomic_path(target) as partial:
        root = Path(scratch)
        _write_files(model, root)
        with (
            partial.open("wb") as raw,
            # Weights hardly compress; level 1 makes the file in seconds.
            gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for file in sorted(p for p in root.rglob("*") if p.is_file()):
                info = tarfile.TarInfo(file.relative_to(root).as_posix())
                info.size, info.mode = file.stat().st_size, 0o644
                with file.open("rb") as stream:
                    tar.addfile(info, stream)


def load_model(
    sources: Sequence[Path], folds: Sequence[str] = (), checkpoint: str = CHECKPOINT, postprocessing: Path | None = None
) -> Model:
    """A model from a package (`.tar.gz` or unpacked), or from trained model folders.

    Args:
        sources: one package, or any number of trained model folders.
        folds, checkpoint, postprocessing: as in `read_trained`; a package takes `folds` only.

    Raises:
        InputError: when it is missing, incomplete, changed since it was packaged, or neither of the two.
    """
    source = Path(sources[0]) if sources else None
    if source is None or is_trained(source):
        return read_trained(sources, folds, checkpoint, postprocessing)
    if len(sources) > 1:
        raise InputError(f"-m {source}: a package stands alone, several models must all be trained model folders")
    if source.is_dir():
        return read_package(source, folds)
    if not source.is_file():
        raise InputError(f"{source}: no such model, a model package or a trained model folder is needed")
    with tempfile.TemporaryDirectory() as scratch:
        _unpack(source, Path(scratch))
        return read_package(Path(scratch), folds)


def read_package(root: Path, folds: Sequence[str] = ()) -> Model:
    """Verify and read an unpacked package.

    Raises:
        InputError: when a file is missing, added or changed, or the package is of another format.
    """
    if not (root / MANIFEST).is_file():
        raise InputError(f"{root}: no {MANIFEST}, an unpacked model package (nnunet_ext package) is needed")
    manifest = read_json(root / MANIFEST)
    try:
        if manifest["format"] != FORMAT:
            raise InputError(f"{root / MANIFEST}: format {manifest['format']}, this version reads format {FORMAT}")
        _verify(root, manifest["files"])
        for entry in manifest["members"]:
            if f"{entry['folder']}/plans.json" not in manifest["files"]:
                raise InputError(
                    f"{root / MANIFEST}: does not list {entry['folder']}/plans.json, package the model again"
                )
        members = tuple(_read_member(root, entry, folds) for entry in manifest["members"])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{root / MANIFEST}: incomplete ({error!r}), package the model again") from None
    sockets = parse_sockets(read_json(root / SOCKETS), str(root / SOCKETS))
    steps = tuple(KeepLargest.model_validate(step) for step in read_json(root / POSTPROCESSING))
    # Verified with all the others: what is there is listed.
    koos = (root / KOOS).read_bytes() if (root / KOOS).is_file() else None
    model = Model(members, steps, sockets, koos)
    model.check(str(root))
    return model


def _write_files(model: Model, root: Path) -> None:
    members = []
    for i, member in enumerate(model.members):
        folder = root / "models" / str(i)
        folder.mkdir(parents=True)
        write_json(folder / "plans.json", member.plans)
        write_json(folder / "dataset.json", member.dataset)
        for fold, weights in member.folds.items():
            torch.save(_plain(weights), folder / f"fold_{fold}.pth")
        members.append(
            {
                "folder": f"models/{i}",
                "configuration": member.configuration,
                "trainer": member.trainer,
                "network_of_plans": member.network_of_plans,
                "mirror_axes": member.mirror_axes,
                "folds": list(member.folds),
            }
        )
    if model.koos is not None:
        (root / KOOS).write_bytes(model.koos)
    write_json(root / SOCKETS, model.sockets.model_dump(mode="json"))
    write_json(root / POSTPROCESSING, [step.model_dump(mode="json") for step in model.postprocessing])
    files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    manifest = {
        "format": FORMAT,
        "versions": {
            "python": ".".join(str(n) for n in sys.version_info[:2]),
            **{name: version(name) for name in ("nnunet_ext", "nnunetv2", "torch")},
        },
        "members": members,
        "files": {name: sha256(root / name) for name in files},
    }
    write_json(root / MANIFEST, manifest)


def _plain(weights: Weights) -> dict[str, torch.Tensor]:
    """The tensors alone, each once: nnU-Net's decoder lists its encoder's tensors again under other names."""
    copies: dict[tuple[Any, ...], torch.Tensor] = {}
    plain = {}
    for name, tensor in weights.items():
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if key not in copies:
            copies[key] = tensor.detach().cpu().contiguous().clone()
        plain[name] = copies[key]
    return plain


def _verify(root: Path, files: dict[str, str]) -> None:
    there = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    for name in sorted(there - {MANIFEST, *files}):
        raise InputError(f"{root / name}: not listed in {MANIFEST}, the package must be as it was made")
    for name, digest in files.items():
        if ".." in PurePosixPath(name).parts or not (root / name).is_file():
            raise InputError(f"{root / name}: missing, the package must be as it was made")
        if sha256(root / name) != digest:
            raise InputError(f"{root / name}: changed or corrupt (its SHA-256 differs from {MANIFEST})")
    for name in (SOCKETS, POSTPROCESSING):
        if name not in files:
            raise InputError(f"{root / MANIFEST}: does not list {name}, package the model again")


def _read_member(root: Path, entry: dict[str, Any], folds: Sequence[str]) -> Member:
    folder = root / entry["folder"]
    for fold in folds:
        if fold not in entry["folds"]:
            raise InputError(f"--folds {fold}: the package holds the folds {', '.join(entry['folds'])}")
    axes = entry["mirror_axes"]
    return Member(
        plans=read_json(folder / "plans.json"),
        dataset=read_json(folder / "dataset.json"),
        configuration=entry["configuration"],
        trainer=entry["trainer"],
        network_of_plans=bool(entry["network_of_plans"]),
        mirror_axes=None if axes is None else tuple(axes),
        folds={fold: _tensors(folder / f"fold_{fold}.pth") for fold in (folds or entry["folds"])},
    )


def _tensors(path: Path) -> Weights:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(f"{path}: not loadable as plain tensors ({opening(error)}), package the model again") from None


def _unpack(archive: Path, target: Path) -> None:
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar.getmembers():
                if not member.isfile() or member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
                    raise InputError(f"{archive}: holds {member.name}, only plain files inside it are allowed")
                out = target / member.name
                out.parent.mkdir(parents=True, exist_ok=True)
                stream = tar.extractfile(member)
                assert stream is not None
                with out.open("wb") as copy:
                    while block := stream.read(io.DEFAULT_BUFFER_SIZE * 16):
                        copy.write(block)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{archive}: not readable as a .tar.gz ({error}), a model package is needed") from None
