"""One volume registered to one or several labelled volumes: a transform with its scores, or a recorded failure.

Direction: `Registration.transform` maps points (patient mm, LPS) of the fixed volume to points of the moving volume,
ITK's convention, so `SimpleITK.Resample(moving_label, fixed, transform)` brings labels onto the fixed volume. It is
the label map T_qj of eq. 6.8 for fixed j and moving q. `inverse` is registered on its own in the other direction (not
inverted), so that the cycle of eq. 6.9 can tell a good registration from a poor one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_ext.registration import consensus
from nnunet_ext.registration.frames import Frame, Matrix, affine_transform, resample_to, scaled
from nnunet_ext.registration.refine import Field, Refined, refine, warp_mask
from nnunet_ext.registration.scores import composite_score, cycle_scores
from nnunet_ext.registration.search import Start, Template, search, template
from nnunet_ext.registration.settings import RegistrationSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registration:
    """Outcome of one pair.

    Attributes:
        transform: fixed points -> moving points, None after a failure.
        inverse: moving points -> fixed points, found independently, None after a failure.
        scores: `similarity` (mean local correlation, larger is better), `agreement` (Dice of the start's labels with
            those of the other labelled volumes, larger is better), `rmse`, `mi`, `cycle` (eq. 6.10, smaller is better).
        seconds: wall time spent on the pair, both directions.
        cpu_seconds: processor time of the process meanwhile.
        failure: why there is no transform, None when there is.
    """

    transform: sitk.Transform | None = None
    inverse: sitk.Transform | None = None
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    failure: str | None = None


@dataclass(frozen=True)
class _Side:
    """A volume ready to be registered: in its frame, in [0, 1]."""

    frame: Frame
    image: sitk.Image


@dataclass(frozen=True)
class _Moving(_Side):
    template: Template
    labels: sitk.Image


def register(
    fixed: sitk.Image,
    moving: sitk.Image,
    settings: RegistrationSettings | None = None,
    *,
    moving_mask: sitk.Image,
) -> Registration:
    """Register a pair. Nothing that is wrong with the images raises: it becomes `failure`.

    Args:
        fixed: the volume that receives labels.
        moving: the labelled volume.
        settings: defaults are affine.
        moving_mask: labels or mask on the grid of `moving`; everything but 0 is organ.
    """
    return register_case(fixed, [(moving, moving_mask)], settings)[0]


def register_case(
    fixed: sitk.Image, labelled: Sequence[tuple[sitk.Image, sitk.Image]], settings: RegistrationSettings | None = None
) -> list[Registration]:
    """Register one volume to several labelled ones (image, labels), whose starts must agree; one outcome each."""
    settings = settings or RegistrationSettings()
    clock = _Clock()
    try:
        target = _side(fixed, None, "the fixed volume")
    except Exception as error:
        return [Registration(failure=_reason(error)) for _ in labelled]
    spent = [clock.lap() / max(len(labelled), 1)] * len(labelled)
    ready: dict[int, tuple[_Moving, list[Start]]] = {}
    outcomes: dict[int, Registration] = {}
    for k, (image, labels) in enumerate(labelled):
        try:
            side = _moving(image, labels, target.frame, settings)
            ready[k] = side, search(target.image, side.template, settings)
        except Exception as error:
            outcomes[k] = Registration(failure=_reason(error))
        spent[k] = spent[k] + clock.lap()
    pixel = max(np.array(fixed.GetSize()) * fixed.GetSpacing()) / settings.search_size
    picks, agreements = consensus.choose(
        [starts for _, starts in ready.values()],
        [side.labels for side, _ in ready.values()],
        resample_to(target.image, (pixel, pixel, pixel)),
        settings.agreement,
    )
    shared = clock.lap() / max(len(ready), 1)
    for (k, (side, starts)), pick, agreement in zip(ready.items(), picks, agreements, strict=True):
        try:
            outcomes[k] = _refine(target, side, starts[pick].matrix, settings)
            outcomes[k].scores["agreement"] = agreement
        except Exception as error:
            outcomes[k] = Registration(failure=_reason(error))
        spent[k] = spent[k] + shared + clock.lap()
    return [replace(outcomes[k], seconds=float(wall), cpu_seconds=float(cpu)) for k, (wall, cpu) in enumerate(spent)]


class _Clock:
    """Wall and processor seconds between laps."""

    def __init__(self) -> None:
        self._last = self._now()

    def lap(self) -> NDArray[np.float64]:
        last, self._last = self._last, self._now()
        return self._last - last

    @staticmethod
    def _now() -> NDArray[np.float64]:
        return np.array([time.perf_counter(), time.process_time()])


def _reason(error: Exception) -> str:
    """One line; a surprise is logged with its traceback, since a run must go on but not hide a fault."""
    if not isinstance(error, ValueError):
        log.warning("registration failed unexpectedly", exc_info=error)
    return " ".join(f"{error}".split()) or type(error).__name__


def _side(image: sitk.Image, like: Frame | None, what: str) -> _Side:
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(f"{what} is not a single-channel 3D volume")
    if min(image.GetSize()) < 2:
        raise ValueError(f"{what} has {image.GetSize()} voxels, at least 2 along every axis are needed")
    values = sitk.GetArrayViewFromImage(image)
    if not np.isfinite(values).all():
        raise ValueError(f"{what} has voxels that are not finite")
    if values.min() == values.max():
        raise ValueError(f"{what} is constant")
    frame = Frame.of(image, like)
    return _Side(frame, scaled(frame.view(sitk.Cast(image, sitk.sitkFloat32))))


def _moving(image: sitk.Image, labels: sitk.Image, like: Frame, settings: RegistrationSettings) -> _Moving:
    side = _side(image, like, "the moving volume")
    if labels.GetSize() != image.GetSize():
        raise ValueError(f"the labels have {labels.GetSize()} voxels, the moving volume {image.GetSize()}")
    view = side.frame.view(labels)
    organ = view != 0
    if not sitk.GetArrayViewFromImage(organ).any():
        raise ValueError("the moving volume's labels are empty")
    return _Moving(side.frame, side.image, template(side.image, organ, settings), view)


def _refine(target: _Side, side: _Moving, start: Matrix, settings: RegistrationSettings) -> Registration:
    near = warp_mask(side.template.mask, target.image, start)
    forward = refine(target.image, near, side.image, start, settings)
    backward = refine(side.image, side.template.mask, target.image, np.linalg.inv(start), settings)
    organ = sitk.Cast(side.labels != 0, sitk.sitkFloat32)
    for refined, name in ((forward, "forward"), (backward, "backward")):
        _check(refined, name, settings)
    _check_overlap(organ, target.image, forward.matrix, settings)
    transform = _to_patient(forward, target.frame, side.frame)
    inverse = _to_patient(backward, side.frame, target.frame)
    inside = sitk.GetArrayFromImage(warp_mask(side.template.mask, target.image, forward.matrix)) > 0.5
    # The round trip runs between the frames; what it does to intensities is the same there.
    rmse, mi = cycle_scores(target.image, side.image, _in_frame(backward), _in_frame(forward), inside)
    scores = {
        "similarity": forward.similarity,
        "rmse": rmse,
        "mi": mi,
        "cycle": composite_score(rmse, mi, settings.weight_rmse, settings.weight_mi),
    }
    return Registration(transform, inverse, scores)


def _check(refined: Refined, name: str, settings: RegistrationSettings) -> None:
    """A map that no anatomy explains is a failure."""
    if not np.isfinite(refined.matrix).all() or not np.isfinite(refined.similarity):
        raise ValueError(f"the {name} affine map is not finite")
    sizes = np.linalg.svd(refined.matrix[:3, :3], compute_uv=False)
    sane = 1 / settings.max_scale <= sizes.min() and sizes.max() <= settings.max_scale
    if not sane or np.linalg.det(refined.matrix[:3, :3]) <= 0:
        raise ValueError(f"the {name} affine map scales by {sizes.min():.2f} to {sizes.max():.2f}")
    if refined.field is not None:
        folded = folding(refined.field)
        if not np.isfinite(refined.field.displacement).all() or folded > settings.max_folding:
            raise ValueError(f"the {name} displacement folds {100 * folded:.1f} % of the region")


def folding(displacement: Field) -> float:
    """Share of voxels where the displacement's Jacobian determinant is not positive."""
    values, spacing = displacement.displacement, displacement.region.GetSpacing()
    jacobian = np.broadcast_to(np.eye(3), (*values.shape[:3], 3, 3)).copy()
    for axis in range(3):
        if values.shape[2 - axis] > 1:
            jacobian[..., axis] += np.gradient(values, spacing[axis], axis=2 - axis)
    return float((np.linalg.det(jacobian) <= 0).mean())


def _check_overlap(organ: sitk.Image, like: sitk.Image, matrix: Matrix, settings: RegistrationSettings) -> None:
    """How much of the organ lands inside the fixed volume: its volume there against its volume after scaling."""
    landed = sitk.GetArrayFromImage(warp_mask(organ, like, matrix)).sum() * np.prod(like.GetSpacing())
    whole = sitk.GetArrayViewFromImage(organ).sum() * np.prod(organ.GetSpacing()) / np.linalg.det(matrix[:3, :3])
    if landed < settings.min_overlap * whole:
        raise ValueError(f"only {100 * landed / whole:.0f} % of the labelled organ lands inside the volume")


def _in_frame(refined: Refined) -> sitk.Transform:
    """The map between frames."""
    return _composite(affine_transform(refined.matrix), refined.field, np.eye(4))


def _to_patient(refined: Refined, fixed: Frame, moving: Frame) -> sitk.Transform:
    """The same map between patient coordinates."""
    matrix = moving.to_patient @ refined.matrix @ np.linalg.inv(fixed.to_patient)
    return _composite(affine_transform(matrix), refined.field, fixed.to_patient)


def _composite(affine: sitk.AffineTransform, displacement: Field | None, to_patient: Matrix) -> sitk.Transform:
    """Displacement first, then the affine map (a composite applies what was added last first)."""
    if displacement is None:
        return affine
    rotation = to_patient[:3, :3]
    image = sitk.GetImageFromArray(displacement.displacement @ rotation.T, isVector=True)
    origin = rotation @ np.array(displacement.region.GetOrigin()) + to_patient[:3, 3]
    image.SetOrigin(origin.tolist())
    image.SetSpacing(displacement.region.GetSpacing())
    image.SetDirection(rotation.ravel().tolist())
    return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))])
