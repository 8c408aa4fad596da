"""What the verbs `predict` and `package` do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import joblib

from nnunet_ext.device import pick_device
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json
from nnunet_ext.inference.folder import Case, find_cases, predict_folder, require_apart
from nnunet_ext.inference.model import Model
from nnunet_ext.inference.package import check_name, load_model, write_package
from nnunet_ext.inference.predictor import FAST_STEP, STEP, Predictor
from nnunet_ext.inference.sockets import parse_sockets
from nnunet_ext.inference.trained import read_trained
from nnunet_ext.jobs import Backend, job_backend
from nnunet_ext.progress import progress

# So many shares per process: few enough to load the model rarely, enough that none waits long for the others.
SHARES_PER_JOB = 4


@dataclass(frozen=True)
class Request:
    """What to predict with; the same in every process."""

    models: tuple[Path, ...]
    folds: tuple[str, ...] = ()
    checkpoint: str = "checkpoint_final.pth"
    device: str | None = None
    fast: bool = False

    def load(self) -> Model:
        return load_model(self.models, self.folds, self.checkpoint)

    def predictor(self, model: Model) -> Predictor:
        return Predictor(model, self.device, FAST_STEP if self.fast else STEP, mirror=not self.fast)


def predict(
    request: Request,
    scans: Path,
    target: Path,
    pattern: str | None = None,
    output: str | None = None,
    again: bool = False,
    backend: Backend = "loky",
    jobs: int = 1,
) -> str:
    """Predict a folder of scans, and grade them where the package has a Koos model; a line that says what was done.

    Args:
        pattern, output: as in `find_cases`.
        again: predict cases whose mask is there, too.
        backend, jobs: joblib's, for several processes or machines, each with a resident model of its own. One job of
            `loky` is this process.

    Raises:
        InputError: for a bad model or folder, and when any case failed (after all others were predicted).
    """
    model = request.load()
    cases = find_cases(scans, model.first.channels, pattern, output)
    require_apart(cases, target)
    grader = None
    if model.koos is not None:
        from nnunet_ext.koos.packaged import Grader

        grader = Grader(model, pick_device(request.device))
    if backend == "loky" and jobs == 1:
        failed = predict_folder(request.predictor(model), cases, target, again)
    else:
        failed = _predict_in_jobs(request, cases, target, again, backend, jobs)
    if grader is not None:
        failed |= grader.grade_folder([case for case in cases if case.name not in failed], target)
    if failed:
        raise InputError(f"{scans}: {len(failed)} of {len(cases)} cases failed, the others are in {target}")
    return f"{len(cases)} cases in {target}"


def package(
    folders: Sequence[Path],
    target: Path,
    folds: Sequence[str],
    checkpoint: str,
    sockets: Path | None,
    postprocessing: Path | None,
    koos: Path | None = None,
) -> str:
    """Write a model package; returns a line that says what is in it."""
    check_name(target)
    model = read_trained(folders, folds, checkpoint, postprocessing)
    if sockets is not None:
        model = replace(model, sockets=parse_sockets(read_json(sockets), str(sockets)))
    told = ""
    if koos is not None:
        from nnunet_ext.koos.packaged import attach

        model, told = attach(model, koos)
    model.check(str(sockets or folders[0]))
    write_package(model, target)
    members = "; ".join(f"{member.name}, folds {' '.join(member.folds)}" for member in model.members)
    return f"{target}: {members}; {len(model.postprocessing)} post-processing steps{told}"


def _predict_in_jobs(
    request: Request, cases: list[Case], target: Path, again: bool, backend: Backend, jobs: int
) -> dict[str, str]:
    failed: dict[str, str] = {}
    with job_backend(backend, jobs):
        processes = joblib.cpu_count() if jobs == -1 else jobs
        size = math.ceil(len(cases) / (processes * SHARES_PER_JOB))
        shares = [cases[i : i + size] for i in range(0, len(cases), size)]
        parallel = joblib.Parallel(n_jobs=jobs, return_as="list" if backend == "ray" else "generator_unordered")
        work = parallel(joblib.delayed(_predict_share)(request, share, target, again) for share in shares)
        for found in progress(work, "predicting shares of the folder", total=len(shares)):
            failed.update(found)
    return failed


def _predict_share(request: Request, cases: list[Case], target: Path, again: bool) -> dict[str, str]:
    return predict_folder(_resident(request), cases, target, again)


@lru_cache(maxsize=1)
def _resident(request: Request) -> Predictor:
    """The process's own predictor, loaded with its first share."""
    return request.predictor(request.load())
