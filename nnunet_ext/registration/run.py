"""Registering a dataset: one job per case, through joblib, resumable, safe beside another run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import SimpleITK as sitk
import torch
from filelock import Timeout

from nnunet_ext.errors import InputError, reason
from nnunet_ext.files import write_json
from nnunet_ext.jobs import Backend, job_backend
from nnunet_ext.progress import progress
from nnunet_ext.registration.pairwise import Registration, register_case
from nnunet_ext.registration.store import RegistrationStore

log = logging.getLogger(__name__)


def register_dataset(
    store: RegistrationStore, backend: Backend = "loky", jobs: int = 1, cases: Iterable[str] | None = None
) -> list[dict[str, Any]]:
    """Register everything in `store` that is not done, and return the records of all its pairs.

    Two runs on one store share the work. A run that was killed goes on where it stopped.

    Args:
        store: what to register.
        backend: joblib's backend; `dask` starts a local cluster unless a client is already open, `ray` likewise.
        jobs: processes; every one computes on one core.
        cases: register these only.

    Raises:
        InputError: when the backend's package is missing, or `jobs` is 0 or less than -1.
    """
    if jobs == 0 or jobs < -1:
        raise InputError(f"--jobs {jobs}: a positive number, or -1 for every core, is needed")
    store.root.mkdir(parents=True, exist_ok=True)
    store.write_header()
    wanted = set(store.cases if cases is None else cases)
    missing = [case for case in store.missing() if case in wanted]
    log.info("%s: %d of %d cases to register", store.root, len(missing), len(wanted))
    if missing:
        with job_backend(backend, jobs):
            parallel = joblib.Parallel(n_jobs=jobs, return_as="list" if backend == "ray" else "generator_unordered")
            work = parallel(joblib.delayed(register_job)(store, case) for case in missing)
            for _ in progress(work, "registering", total=len(missing)):
                pass
        # Cases that another run had claimed: wait for it, and do them should it have died.
        for case in missing:
            if not store.is_done(case):
                register_job(store, case, wait=True)
    return store.write_index()


def register_job(store: RegistrationStore, case: str, wait: bool = False) -> None:
    """Register one case to all its partners, unless it is done or, without `wait`, claimed by another process."""
    try:
        with store.claim(case).acquire(timeout=-1 if wait else 0), _one_thread():
            if not store.is_done(case):
                partners = store.partners(case)
                for labelled, outcome in zip(partners, _outcomes(store, case, partners), strict=True):
                    store.write_pair(case, labelled, outcome)
    except Timeout:
        log.info("%s: another run is at it", case)


def summary(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts, mean seconds and mean scores over the pairs."""
    good = [pair for pair in pairs if not pair["failure"]]
    names = good[0]["scores"] if good else ()

    def mean(key: str) -> float | None:
        return round(sum(p[key] for p in pairs) / len(pairs), 3) if pairs else None

    return {
        "pairs": len(pairs),
        "failures": len(pairs) - len(good),
        "seconds_per_pair": mean("seconds"),
        "cpu_seconds_per_pair": mean("cpu_seconds"),
        "scores": {name: round(sum(p["scores"][name] for p in good) / len(good), 4) for name in names},
    }


def write_report(file: Path, store: RegistrationStore, pairs: list[dict[str, Any]]) -> None:
    """Summary, settings and every pair, as JSON."""
    content = {"store": str(store.root), "summary": summary(pairs), "settings": store.settings.model_dump()}
    write_json(file, {**content, "pairs": pairs})


def _outcomes(store: RegistrationStore, case: str, partners: tuple[str, ...]) -> list[Registration]:
    """One outcome per partner; a file that cannot be read costs its own pairs only."""
    channel = store.settings.channel
    try:
        fixed = store.cases.image(case, channel)
    except RuntimeError as error:
        return [Registration(failure=f"{case}: not readable ({reason(error)})")] * len(partners)
    readable, labelled, failures = [], [], {}
    for q in partners:
        try:
            labelled.append((store.cases.image(q, channel), store.cases.organ(q)))
            readable.append(q)
        except RuntimeError as error:
            failures[q] = Registration(failure=f"{q}: not readable ({reason(error)})")
    found = dict(zip(readable, register_case(fixed, labelled, store.settings), strict=True))
    return [found.get(q) or failures[q] for q in partners]


@contextmanager
def _one_thread() -> Iterator[None]:
    """One core per job: jobs run side by side."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads(), torch.get_num_threads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before[0])
        torch.set_num_threads(before[1])
