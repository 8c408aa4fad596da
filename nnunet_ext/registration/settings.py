"""What a registration is made with; a store on disk belongs to exactly one of these."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator

from nnunet_ext.training.settings import Section

STORE_VERSION = 1


class RegistrationSettings(Section):
    """Settings of `nnunet_ext register`. Lengths that suit hearts and hippocampi alike are relative to the organ."""

    transform: Literal["affine", "deformable"] = Field("deformable", description="affine, or a displacement as well")
    scheme: Literal["pairs", "template"] = Field("pairs", description="every pair, or composed through one template")

    channel: int = Field(0, ge=0, description="image channel that is registered")

    search_size: int = Field(96, ge=16, description="voxels on the longer in-plane side during the search for a start")
    max_rotation: float = Field(75, ge=0, le=180, description="largest in-plane rotation tried, degrees")
    rotation_step: float = Field(15, gt=0, description="degrees between two rotations tried")
    scales: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.6, 0.7, 0.83, 1.0, 1.2, 1.4, 1.6),
        min_length=1,
        description="in-plane sizes tried, unlabelled organ / labelled organ",
    )
    margin: float = Field(0.1, ge=0, le=1, description="neighbourhood of the organ that counts, share of its extent")
    central_prior: float = Field(
        1.0, ge=0, description="penalty for an off-centre organ: this times (distance / field of view) squared"
    )
    candidates: int = Field(6, ge=1, description="starts kept for each pair")
    agreement: float = Field(0.5, ge=0, description="weight of the agreement with the other labelled volumes' starts")

    refine_size: int = Field(40, ge=8, description="voxels across the organ during refinement")
    window: int = Field(7, ge=3, description="side of the local correlation window, voxels; odd")
    affine_iterations: int = Field(40, ge=0, description="steps of the affine refinement")
    affine_stiffness: float = Field(1.0, ge=0, description="penalty on the affine change away from the start")
    deformable_iterations: int = Field(60, ge=0, description="steps of the deformable refinement")
    deformable_stiffness: float = Field(1.0, ge=0, description="penalty on the displacement's gradient")
    control_spacing: int = Field(3, ge=1, description="voxels between the control points of the displacement")

    weight_rmse: float = Field(1.0, ge=0, description="weight of the cycle's RMSE (eq. 6.10), intensities in [0, 1]")
    weight_mi: float = Field(1.0, ge=0, description="weight of the cycle's mutual information, nats; enters negatively")
    selection: Literal["cycle", "similarity", "agreement"] = Field(
        "similarity", description="what chooses the best labelled volume; cycle is eq. 6.10"
    )
    fusion: Literal["best", "majority", "weighted", "staple"] = Field(
        "weighted", description="how the labels of several labelled volumes become one"
    )

    max_scale: float = Field(3.0, gt=1, description="a registration that scales any axis by more has failed")
    max_folding: float = Field(0.01, ge=0, le=1, description="a displacement that folds a larger share has failed")
    min_overlap: float = Field(0.5, ge=0, le=1, description="share of the organ that must land inside the volume")

    @field_validator("window")
    @classmethod
    def _odd(cls, side: int) -> int:
        if side % 2 == 0:
            raise ValueError("an odd number of voxels is needed")
        return side

    def flags(self) -> str:
        """What makes `nnunet_ext register` use these settings."""
        changed = self.model_dump(exclude_defaults=True, exclude={"transform", "scheme"})
        assignments = " ".join(shlex.quote(f"{key}={json.dumps(value)}") for key, value in changed.items())
        return f"--transform {self.transform} --scheme {self.scheme}" + (f" --set {assignments}" if changed else "")

    def digest(self, labelled: Sequence[str]) -> str:
        """Twelve characters that name a store: what pairs are registered with, the store's version, labelled cases."""
        settings = self.model_dump(exclude={"selection", "fusion"})  # these only choose among what is stored
        content = {"version": STORE_VERSION, "settings": settings, "labelled": sorted(labelled)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
