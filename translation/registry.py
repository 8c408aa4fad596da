"""The methods there are, by the names of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnunet_ext.errors import InputError
from nnunet_ext.training.settings import assignment, read_section
from translation import settings as s

if TYPE_CHECKING:
    from translation.method import TranslationMethod


@dataclass(frozen=True)
class Entry:
    """A method: where its class lives, and its settings."""

    location: str
    settings: type[s.VolumeSettings]

    def load(self) -> type[TranslationMethod]:
        module, _, attribute = self.location.partition(":")
        return getattr(import_module(module), attribute)


METHODS: dict[str, Entry] = {
    "histogram": Entry("translation.methods.histogram:Histogram", s.HistogramSettings),
    "cyclegan": Entry("translation.methods.cyclegan:CycleGAN", s.CycleGANSettings),
    "cut": Entry("translation.methods.cut:CUT", s.CUTSettings),
    "qsattn": Entry("translation.methods.cut:CUT", s.QSAttnSettings),
    "tanq": Entry("translation.methods.tanq:TANQ", s.TANQSettings),
    "msfnet": Entry("translation.methods.msfnet:MSFNet", s.MSFNetSettings),
}


def entry(method: str) -> Entry:
    """The entry of a method.

    Raises:
        InputError: for a method that does not exist; the message names those that do.
    """
    if method not in METHODS:
        raise InputError(f"--method {method}: no such method, one of {', '.join(METHODS)} is needed")
    return METHODS[method]


def build_settings(method: str, preset: str = "paper", overrides: tuple[str, ...] = ()) -> s.VolumeSettings:
    """Settings of a method from a preset and `key=value` overrides, whose values are JSON or plain text.

    Raises:
        InputError: for an unknown preset or key (the message names the valid ones) or a bad value.
    """
    cls = entry(method).settings
    if preset not in s.PRESETS:
        raise InputError(f"--preset {preset}: no such preset, one of {', '.join(s.PRESETS)} is needed")
    values: dict[str, Any] = {k: v for k, v in s.PRESETS[preset].items() if k in cls.model_fields}
    values |= map(assignment, overrides)
    return read_section({method: values}, method, cls, "--set")
