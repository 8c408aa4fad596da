"""A packaged model, a good case, and the program that is to process it."""

from __future__ import annotations

import resource
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_models import made_scan, make_model
from program_harness import RELATIVE, SLUG, Case, Run, Server, command, environment, start_server

from nnunet_ext.inference.package import load_model, write_package
from nnunet_ext.inference.predictor import Predictor


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unpacked package of a small 2D model, as it lies in `/opt/ml/model`."""
    root = tmp_path_factory.mktemp("package")
    write_package(load_model([make_model(root / "trained")]), root / "model.tar.gz")
    with tarfile.open(root / "model.tar.gz") as tar:
        tar.extractall(root / "model", filter="data")
    return root / "model"


@pytest.fixture(scope="session")
def predictor(package: Path) -> Predictor:
    return Predictor(load_model([package]), "cpu")


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A good case: one socket with one scan."""
    made = Case(tmp_path / "input", tmp_path / "output")
    made.input.mkdir()
    made.output.mkdir()
    made.list_sockets((SLUG, RELATIVE))
    made.put(made_scan())
    return made


@pytest.fixture
def run(case: Case, package: Path) -> Run:
    """Run the program once as a process; `limits` are resource limits in bytes."""

    def once(
        *options: str, model: Path = package, limits: dict[int, int] | None = None
    ) -> subprocess.CompletedProcess[str]:
        def limit() -> None:
            for which, size in (limits or {}).items():
                resource.setrlimit(which, (size, size))

        return subprocess.run(
            command(case, model, *options),
            capture_output=True,
            text=True,
            env=environment(),
            preexec_fn=limit,
            timeout=120,
        )

    return once


@pytest.fixture(scope="session")
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(package: Path, tmp_path_factory: pytest.TempPathFactory, free_port: int) -> Iterator[Server]:
    """One server for a module; each test puts its own case into the folders."""
    root = tmp_path_factory.mktemp("server")
    made = Case(root / "input", root / "output")
    made.empty()
    running = start_server(made, package, free_port)
    yield running
    running.process.kill()
    running.process.communicate()
