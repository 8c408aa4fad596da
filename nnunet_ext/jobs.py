"""Independent jobs through joblib: processes here, or a Dask or Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import joblib

from nnunet_ext.errors import InputError

Backend = Literal["loky", "dask", "ray"]


@contextmanager
def job_backend(backend: Backend, jobs: int) -> Iterator[None]:
    """Make `backend` joblib's choice; a Dask or Ray cluster that was started here is stopped again.

    Args:
        backend: `dask` starts a local cluster unless a client is already open, `ray` likewise.
        jobs: processes, or -1 for every core.

    Raises:
        InputError: when the backend's package is missing, or `jobs` is 0 or less than -1.
    """
    if jobs == 0 or jobs < -1:
        raise InputError(f"--jobs {jobs}: a positive number, or -1 for every core, is needed")
    if backend == "loky":
        with joblib.parallel_config("loky"):
            yield
    elif backend == "dask":
        try:
            from distributed import Client, LocalCluster, get_client
        except ImportError:
            raise InputError("--backend dask: not installed, pip install 'nnunet_ext[dask]' is needed") from None
        with ExitStack() as stack:
            try:
                get_client()
            except ValueError:
                workers = joblib.cpu_count() if jobs == -1 else jobs
                cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
                stack.enter_context(Client(stack.enter_context(cluster)))
            with joblib.parallel_config("dask"):
                yield
    else:
        try:
            import ray
            from ray.util.joblib import register_ray
        except ImportError:
            raise InputError("--backend ray: not installed, pip install 'nnunet_ext[ray]' is needed") from None
        register_ray()
        running = ray.is_initialized()
        try:
            with joblib.parallel_config("ray"):
                yield
        finally:
            if not running:
                ray.shutdown()
