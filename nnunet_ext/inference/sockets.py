"""The socket map of a packaged model: which socket feeds which channel, and where outputs go."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nnunet_ext.errors import InputError

DEFAULT_MASK_PATH = "images/segmentation"
DEFAULT_KOOS_PATH = "koos.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Output(_Part):
    """One output, in a path relative to `/output`.

    A `segmentation` is a folder that receives one `.mha`. `volumes` is a JSON file with the volume of each class in
    millilitres, `probabilities` one with the mean probability of each class over the voxels that were given to it
    (null for a class that is absent). Of a package with a Koos model, `koos_class` is a JSON file with the grade alone,
    an integer, and `koos` one with the grade, the probability of every grade and whether a tumour was found.
    """

    kind: Literal["segmentation", "volumes", "probabilities", "koos", "koos_class"]
    path: str = Field(description="relative to /output, as the interface's relative_path")

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise ValueError("a path inside /output is needed")
        return str(pure)

    @model_validator(mode="after")
    def _suffix(self) -> Output:
        if self.kind != "segmentation" and not self.path.endswith(".json"):
            raise ValueError(f"{self.kind} goes to a file ending in .json")
        return self


class Sockets(_Part):
    """Slugs of the input sockets in the order of the model's channels, and the outputs.

    Without `inputs`, a model of one channel takes the one image socket that there is.
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = (Output(kind="segmentation", path=DEFAULT_MASK_PATH),)

    @model_validator(mode="after")
    def _distinct(self) -> Sockets:
        for what, values in (("input", self.inputs), ("output path", tuple(o.path for o in self.outputs))):
            if len(set(values)) != len(values):
                raise ValueError(f"an {what} is named twice")
        if sum(o.kind == "segmentation" for o in self.outputs) != 1:
            raise ValueError("exactly one segmentation is needed among the outputs")
        return self

    @property
    def grades(self) -> bool:
        """Whether an output takes a Koos grade."""
        return any(output.kind in ("koos", "koos_class") for output in self.outputs)

    def check(self, channels: int, where: str) -> None:
        """Raise an `InputError` when the number of inputs is not the model's number of channels."""
        if self.inputs and len(self.inputs) != channels:
            raise InputError(
                f"{where}: {len(self.inputs)} inputs, the model's number of channels is needed: {channels}"
            )


def parse_sockets(content: Any, where: str) -> Sockets:
    """Validate a socket map read from JSON; what is wrong with it is an `InputError` that names `where`."""
    try:
        return Sockets.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the map"
        raise InputError(f"{where}: {place}: {first['msg']}") from None
