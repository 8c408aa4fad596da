"""The case in `/input` as the platform lays it out: `inputs.json` and one image per socket."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json
from nnunet_ext.inference.sockets import Sockets

INPUTS = "inputs.json"
IMAGE_ENDINGS = (".mha", ".tif", ".tiff")


class Socket(NamedTuple):
    """A socket of this case: its slug, and its folder relative to the input."""

    slug: str
    path: str


def has_sockets(folder: Path) -> bool:
    """Whether the input is a platform's case; otherwise it is a folder of scans."""
    return (folder / INPUTS).exists()


def case_files(folder: Path, sockets: Sockets, channels: int) -> list[Path]:
    """The image file of each channel of the model, in order.

    Args:
        folder: `/input`.
        sockets: the model's socket map.
        channels: the model's number of channels.

    Raises:
        InputError: for an `inputs.json` that is invalid, a socket that the model does not know or that is missing, and
            a socket's folder that does not hold exactly one image.
    """
    found = image_sockets(folder)
    slugs = [socket.slug for socket in found]
    wanted = sockets.inputs or _only_socket(folder, slugs, channels)
    by_slug = {socket.slug: socket for socket in found}
    for slug in wanted:
        if slug not in by_slug:
            raise InputError(
                f"{folder / INPUTS}: sockets {', '.join(slugs) or 'none'}, the model needs {', '.join(wanted)}"
            )
    return [_image(folder, by_slug[slug]) for slug in wanted]


def image_sockets(folder: Path) -> list[Socket]:
    """The sockets of `inputs.json` that hold an image, whichever of the two names it uses for them."""
    file = folder / INPUTS
    entries = read_json(file)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{file}: {type(entries).__name__}, a list of sockets is needed")
    found = []
    for i, entry in enumerate(entries):
        socket = entry.get("socket") or entry.get("interface")
        slug, path = (_text(socket, "slug"), _text(socket, "relative_path")) if isinstance(socket, dict) else ("", "")
        if not slug or not path:
            raise InputError(f"{file}: entry {i} has no socket with slug and relative_path, both are needed")
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise InputError(f"{file}: {slug} lies at {path}, a path inside the input is needed")
        if _is_image(entry, socket, path):
            found.append(Socket(slug, path))
    if len({socket.slug for socket in found}) < len(found):
        raise InputError(f"{file}: a socket is listed twice, each once is needed")
    return found


def _is_image(entry: dict[str, Any], socket: dict[str, Any], path: str) -> bool:
    kind = socket.get("super_kind") or socket.get("kind")
    if socket.get("is_image_kind") is not None:
        return bool(socket["is_image_kind"])
    if isinstance(kind, str):
        return kind.lower() in ("image", "segmentation", "heat map", "displacement field")
    return entry.get("image") is not None or PurePosixPath(path).suffix == ""


def _only_socket(folder: Path, slugs: list[str], channels: int) -> tuple[str, ...]:
    if channels != 1:
        raise InputError(f"sockets.json: no inputs, a model of {channels} channels needs one slug for each")
    if len(slugs) != 1:
        raise InputError(
            f"{folder / INPUTS}: image sockets {', '.join(slugs) or 'none'}, "
            "exactly one is needed (or inputs in the model's sockets.json)"
        )
    return (slugs[0],)


def _image(folder: Path, socket: Socket) -> Path:
    place = folder / socket.path
    if not place.is_dir():
        raise InputError(f"{place}: no such folder, one image of {socket.slug} is needed in it")
    files = sorted(p for p in place.iterdir() if p.suffix.lower() in IMAGE_ENDINGS and not p.name.startswith("."))
    if len(files) != 1:
        names = ", ".join(p.name for p in files) or "none"
        raise InputError(f"{place}: {len(files)} images ({names}), exactly one ({', '.join(IMAGE_ENDINGS)}) is needed")
    return files[0]


def _text(socket: dict[str, Any], key: str) -> str:
    value = socket.get(key)
    return value if isinstance(value, str) else ""
