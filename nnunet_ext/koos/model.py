"""A fitted MSF-Koos-Net: one file without pickled code, and `grade`, which is all that prediction needs."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from nnunet_ext.errors import InputError, opening
from nnunet_ext.inference.memory import require_room
from nnunet_ext.koos.box import CUT_BYTES, binary, cut
from nnunet_ext.koos.encoder import EncoderSpec
from nnunet_ext.koos.grades import Grade
from nnunet_ext.koos.network import KoosNet
from nnunet_ext.koos.settings import KoosSettings
from nnunet_ext.training.checkpoint import plain
from nnunet_ext.training.checkpoint import write as write_checkpoint
from nnunet_ext.training.settings import read_section

FORMAT = 1
FILE = "koos.pth"
#: parts that only the pre-training needs
_LEFT_OUT = ("project_self.", "project_supervised.")


@dataclass(frozen=True)
class KoosModel:
    """A network ready to grade, and how scans are brought to it.

    Attributes:
        settings: those of the fit.
        spec: of the low-level encoder.
        spacing: mm along slices, rows, columns of the box.
        tumour: label values that make up the tumour in a label map.
        network: in evaluation mode, on its device.
    """

    settings: KoosSettings
    spec: EncoderSpec
    spacing: tuple[float, float, float]
    tumour: tuple[int, ...]
    network: KoosNet


def grade(volume: sitk.Image, mask: sitk.Image | NDArray, model: KoosModel, name: str = "volume") -> Grade:
    """Grade one scan.

    A mask without tumour gets the lowest class and no probabilities: "no tumour found" is less than the least tumour.

    Args:
        volume: a 3D scan, in its own orientation and units.
        mask: a label map on the same grid, or an array of labels (z, y, x); an array of bool is the tumour itself.
        model: from `load_model`.
        name: of the scan, for messages.

    Returns:
        the class and the probability of every class.

    Raises:
        InputError: when the scan is not 3D, the sizes differ, or the scan does not fit into the memory that is left.
    """
    s = model.settings
    require_room(name, volume.GetSize(), CUT_BYTES * volume.GetNumberOfPixels())
    box = cut(volume, binary(mask, model.tumour, volume), s.size, model.spacing, s.percentiles)
    if box is None:
        return Grade(s.classes[0], {})
    device = next(model.network.parameters()).device
    with torch.inference_mode():
        image, inside = (torch.from_numpy(a)[None].to(device) for a in (box.image, box.mask))
        probabilities = model.network(image, inside).float().softmax(1)[0].tolist()
    by_class = dict(zip(s.classes, probabilities, strict=True))
    return Grade(max(by_class, key=lambda c: by_class[c]), by_class)


def save_model(model: KoosModel, target: Path) -> None:
    """Write the model atomically; `torch.load(..., weights_only=True)` reads it."""
    weights = {k: v.detach().cpu() for k, v in model.network.state_dict().items() if not k.startswith(_LEFT_OUT)}
    content = {
        "format": FORMAT,
        "settings": model.settings.model_dump(mode="json"),
        "encoder": model.spec.model_dump(mode="json"),
        "spacing": list(model.spacing),
        "tumour": list(model.tumour),
    }
    write_checkpoint({**plain(content), "weights": weights}, target)


def load_model(source: Path, device: torch.device | None = None) -> KoosModel:
    """Load a model from its file, or from the folder that `koos fit` wrote. No pickled code is executed.

    Raises:
        InputError: when it is missing, of another format or not a model of `koos fit`.
    """
    path = model_file(source)
    return read_model(path.read_bytes(), str(path), device)


def model_file(source: Path) -> Path:
    """The file of a model that a user names by it, or by the folder that `koos fit` wrote.

    Raises:
        InputError: when there is none.
    """
    path = source / FILE if source.is_dir() else source
    if not path.is_file():
        raise InputError(f"{source}: no {FILE} there, the folder or file of a finished `koos fit` is needed")
    return path


def read_model(file: bytes, where: str, device: torch.device | None = None) -> KoosModel:
    """A model from the content of its file, as `load_model`; messages name `where`."""
    try:
        content = torch.load(io.BytesIO(file), map_location="cpu", weights_only=True)
        if content["format"] != FORMAT:
            raise InputError(f"{where}: format {content['format']}, this version reads format {FORMAT}")
        settings = read_section({"koos": content["settings"]}, "koos", KoosSettings, where)
        spec = EncoderSpec.model_validate(content["encoder"])
        network = KoosNet(settings, spec)
        found = network.load_state_dict(content["weights"], strict=False)
        if found.unexpected_keys or any(not k.startswith(_LEFT_OUT) for k in found.missing_keys):
            raise KeyError("weights of another network")
        slices, rows, columns = content["spacing"]
        tumour = tuple(content["tumour"])
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{where}: not readable as a model of `koos fit` ({opening(error)})") from None
    network.to(device or torch.device("cpu")).eval()
    return KoosModel(settings, spec, (slices, rows, columns), tumour, network)
