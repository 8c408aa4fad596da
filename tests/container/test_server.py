"""The `invoke` server: health, cases in a row, bad cases, memory, signals and ports."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from made_models import made_scan
from program_harness import RELATIVE, SLUG, Case, Server, command, environment, start_server

CREATED, UNPROCESSABLE, OK = 201, 422, 200
MOST_CPU_SECONDS_TO_HEALTHY = 8
# Beyond the allocator's first cases, fifty more may not add what one leaked scan a case would.
MOST_GROWTH = 8 << 20


def put_case(server: Server, image: sitk.Image | bytes) -> None:
    server.case.empty()
    server.case.list_sockets((SLUG, RELATIVE))
    server.case.put(image)


def mask_after_invoke(server: Server, image: sitk.Image) -> np.ndarray:
    put_case(server, image)
    status, answer = server.invoke()
    assert (status, answer) == (CREATED, {"outputs": ["images/segmentation/segmentation.mha"]})
    return sitk.GetArrayFromImage(server.case.mask())


def test_health_is_200_only_once_the_model_is_loaded() -> None:
    from fastapi.testclient import TestClient

    from container.server import State, make_app

    state = State()
    client = TestClient(make_app(state))
    assert client.get("/health").status_code == 503
    assert client.post("/invoke").status_code == 503
    state.process = lambda: ["a.mha"]
    assert client.get("/health").status_code == OK
    assert client.post("/invoke").status_code == CREATED


def test_an_unexpected_error_is_500_and_the_server_goes_on() -> None:
    from fastapi.testclient import TestClient

    from container.server import State, make_app

    def process() -> list[str]:
        raise RuntimeError("surprise")

    client = TestClient(make_app(State(process)), raise_server_exceptions=False)
    answer = client.post("/invoke")
    assert (answer.status_code, answer.json()) == (500, {"detail": "RuntimeError: surprise"})
    assert client.get("/health").status_code == OK


def test_the_server_is_healthy_soon(server: Server) -> None:
    """Processor time, which other programs do not stretch as they do the time on the clock."""
    assert server.cpu_seconds_to_healthy < MOST_CPU_SECONDS_TO_HEALTHY


def test_input_may_be_empty_until_a_case_comes(server: Server) -> None:
    server.case.empty()
    assert server.health() == OK
    status, answer = server.invoke()
    assert status == UNPROCESSABLE
    assert "inputs.json: no such file" in answer["detail"]
    assert server.case.written() == []


def test_two_invokes_do_not_leak_into_each_other(server: Server) -> None:
    first = mask_after_invoke(server, made_scan(1))
    other = mask_after_invoke(server, made_scan(2, (30, 52, 4)))
    assert other.shape == (4, 52, 30)
    assert np.array_equal(mask_after_invoke(server, made_scan(1)), first)


def test_a_bad_case_then_a_good_one(server: Server) -> None:
    put_case(server, b"not an image")
    status, answer = server.invoke()
    assert status == UNPROCESSABLE
    assert "0a1b.mha: not readable as an image" in answer["detail"]
    assert server.case.written() == []
    assert server.health() == OK
    assert mask_after_invoke(server, made_scan()).shape == (5, 40, 45)


def test_fifty_invokes_in_a_row_with_flat_memory(server: Server) -> None:
    put_case(server, made_scan(3, (64, 64, 4)))
    for _ in range(15):
        assert server.invoke()[0] == CREATED
    before = server.resident()
    for _ in range(50):
        assert server.invoke()[0] == CREATED
    assert server.resident() - before < MOST_GROWTH


def test_a_second_process_on_the_port_is_refused(server: Server, package: Path, tmp_path: Path) -> None:
    case = Case(tmp_path / "input", tmp_path / "output")
    case.empty()
    second = subprocess.run(
        command(case, package, "--api", "invoke", "--port", str(server.port)),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 2
    line = second.stderr.strip().splitlines()[-1]
    assert line == f"container: port {server.port}: in use by another process, a free port is needed (--port)"
    assert server.health() == OK


def test_a_bad_model_ends_the_server(tmp_path: Path, free_port: int) -> None:
    case = Case(tmp_path / "input", tmp_path / "output")
    case.empty()
    started = start_server(case, tmp_path / "no-model", free_port + 1, wait=False)
    _, stderr = started.process.communicate(timeout=60)
    assert started.process.returncode == 2
    assert "no manifest.json" in stderr.strip().splitlines()[-1]


# The last test of the module: it ends the server.
@pytest.mark.parametrize("busy", [True])
def test_sigterm_ends_the_server_within_5_seconds(server: Server, busy: bool) -> None:
    import threading
    import time

    put_case(server, made_scan(4, (256, 256, 60)))
    threading.Thread(target=server.invoke, daemon=True).start()
    time.sleep(0.5)  # the case is being processed
    start = time.monotonic()
    server.process.terminate()
    server.process.wait(timeout=30)
    assert time.monotonic() - start < 5
    assert server.process.returncode == 128 + signal.SIGTERM
    assert server.case.written() == []
