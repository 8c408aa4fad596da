"""The low-level encoder: MSF-Net's, read from the folder or the checkpoint that `translate fit` left, or a random one.

A fitted MSF-Net's checkpoint maps `weights` to a state dictionary whose `encoder.*` entries are those of a
`ResNetEncoder`; `method.json` beside it holds the settings that it was built with, `preparation.json` the spacing of
the scans that it saw.
"""

from __future__ import annotations

import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from nnunet_ext.errors import InputError, opening
from nnunet_ext.files import read_json, sha256
from nnunet_ext.koos.settings import KoosSettings
from nnunet_ext.networks.generators import ResNetEncoder, initialise
from nnunet_ext.seeding import seeded
from nnunet_ext.training.settings import Section

log = logging.getLogger(__name__)

NONE = "none"
PREFIX = "encoder."
CHECKPOINT, DESCRIPTION, RECORD = "checkpoint_final.pth", "method.json", "preparation.json"
PAPER_SPACING = (1.0, 0.4102, 0.4102)


class EncoderSpec(Section):
    """What a low-level encoder is built from; kept with the model."""

    slices: int = Field(ge=1, description="neighbouring slices that it sees as channels")
    width: int = Field(ge=1, description="channels of its first layer; it ends with four times as many")
    blocks: int = Field(ge=0, description="residual blocks")
    antialias: bool = Field(False, description="blur before each halving")
    origin: str = Field(NONE, description="SHA-256 of the MSF-Net checkpoint, or none")

    def build(self) -> ResNetEncoder:
        """The network, untrained."""
        return ResNetEncoder(self.slices, self.width, self.blocks, antialias=self.antialias)


@dataclass(frozen=True)
class LowLevel:
    """A low-level encoder.

    Attributes:
        spec: how it is built.
        weights: its state dictionary.
        spacing: mm along slices, rows and columns of the scans it was fitted on, None where not recorded.
    """

    spec: EncoderSpec
    weights: dict[str, torch.Tensor]
    spacing: tuple[float | None, float | None, float | None] = (None, None, None)

    def working_spacing(self, settings: KoosSettings) -> tuple[float, float, float]:
        """The spacing to work on: that of the settings, else its own, else the paper's. Warns of a mismatch."""
        if settings.spacing is None:
            found = [p if s is None else s for s, p in zip(self.spacing, PAPER_SPACING, strict=True)]
            return found[0], found[1], found[2]
        known = [(a, b) for a, b in zip(self.spacing, settings.spacing, strict=True) if a is not None]
        if any(abs(a - b) > 0.25 * a for a, b in known):
            own = ", ".join("as scanned" if s is None else f"{s:g}" for s in self.spacing)
            log.warning("spacing %s mm: the encoder was fitted on (%s) mm", settings.spacing, own)
        return settings.spacing


def low_level(source: str, settings: KoosSettings) -> LowLevel:
    """The encoder that `--encoder` names: an MSF-Net model folder, its checkpoint, or `none` for a random one.

    Raises:
        InputError: when there is no finished MSF-Net fit.
    """
    if source == NONE:
        s = settings
        spec = EncoderSpec(slices=s.encoder_slices, width=s.encoder_width, blocks=s.encoder_blocks)
        with seeded(s.seed):
            encoder = spec.build()
            initialise(encoder)
        return LowLevel(spec, encoder.state_dict())
    path = Path(source)
    path = path / CHECKPOINT if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"--encoder {source}: no {path.name} there, a fitted MSF-Net or `{NONE}` is needed")
    described = read_json(path.parent / DESCRIPTION)
    if not isinstance(described, dict) or described.get("method") != "msfnet":
        found = described.get("method") if isinstance(described, dict) else described
        raise InputError(f"--encoder {source}: a fit of {found}, one of msfnet or `{NONE}` is needed")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)["weights"]
        own = {k.removeprefix(PREFIX): v for k, v in weights.items() if k.startswith(PREFIX)}
        s = described["settings"]
        spec = EncoderSpec(
            slices=s["slices"],
            width=s["width"],
            blocks=s["blocks"] - s["decoder_blocks"],
            antialias=s["antialias"],
            origin=sha256(path),
        )
        spec.build().load_state_dict(own)
    except (KeyError, TypeError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"--encoder {source}: not MSF-Net's checkpoint ({opening(error)}), a finished fit is needed"
        ) from None
    return LowLevel(spec, own, _spacing(path.parent / RECORD))


def _spacing(record: Path) -> tuple[float | None, float | None, float | None]:
    """MSF-Net's record has two in-plane axes (columns, rows) and then the one across slices."""
    if not record.is_file():
        return None, None, None
    content: dict[str, Any] = read_json(record)
    if content.get("volume", {}).get("histogram_matching"):
        log.warning(
            "%s: the encoder saw histogram-matched scans, here they are scaled by percentiles; match them before",
            record,
        )
    columns, rows, slices = content.get("spacing") or (None, None, None)
    return slices, rows, columns
