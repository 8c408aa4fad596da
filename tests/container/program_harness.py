"""A case as the platform lays it out, and the program as a process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import SimpleITK as sitk

from container import __main__ as program

REPOSITORY = Path(__file__).resolve().parents[2]
SLUG, RELATIVE = "short-axis-mri", "images/cardiac"


@dataclass
class Case:
    """Folders of one case."""

    input: Path
    output: Path

    def put(self, image: sitk.Image | bytes, folder: str = RELATIVE, name: str = "0a1b.mha") -> Path:
        path = self.input / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            sitk.WriteImage(image, str(path))
        return path

    def list_sockets(self, *sockets: tuple[str, str], keys: Sequence[str] = ("socket",)) -> None:
        entries = []
        for slug, relative in sockets:
            one = {"slug": slug, "relative_path": relative, "kind": "Image", "is_image_kind": True}
            entries.append({**dict.fromkeys(keys, one), "image": {"name": "scan.mha"}, "value": None})
        self.put_inputs(entries)

    def put_inputs(self, content: Any) -> None:
        self.input.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (self.input / "inputs.json").write_text(text)

    def empty(self) -> None:
        for folder in (self.input, self.output):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()

    def written(self) -> list[str]:
        """Every file in the output, hidden ones too."""
        return sorted(p.relative_to(self.output).as_posix() for p in self.output.rglob("*") if p.is_file())

    def mask(self) -> sitk.Image:
        assert self.written() == ["images/segmentation/segmentation.mha"]
        return sitk.ReadImage(str(self.output / "images/segmentation/segmentation.mha"))


Run = Callable[..., subprocess.CompletedProcess[str]]


def command(case: Case, model: Path, *options: str) -> list[str]:
    folders = ["--input-folder", str(case.input), "--output-folder", str(case.output), "--model", str(model)]
    return [sys.executable, "-m", "container", *folders, "--device", "cpu", *options]


def in_process(case: Case, model: Path, *options: str) -> int:
    """The program without the cost of a new process, its signals left alone."""
    arguments = command(case, model, *options)[3:]
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        return program.main(arguments)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def environment() -> dict[str, str]:
    # HOME is a folder that cannot exist, as on the platform it cannot be written.
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HOME": "/proc/none"}


@dataclass
class Server:
    """A running `invoke` server."""

    process: subprocess.Popen[str]
    port: int
    case: Case
    cpu_seconds_to_healthy: float = 0.0

    def health(self) -> int:
        return self._request("GET", "/health")[0]

    def invoke(self) -> tuple[int, dict[str, Any]]:
        return self._request("POST", "/invoke")

    def resident(self) -> int:
        """Resident memory in bytes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

    def _request(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        except (urllib.error.URLError, ConnectionError):
            return 0, {}


def start_server(case: Case, model: Path, port: int, wait: bool = True) -> Server:
    start = time.monotonic()
    process = subprocess.Popen(
        command(case, model, "--api", "invoke", "--port", str(port)),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    server = Server(process, port, case)
    while wait and server.health() != 200:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() - start < 90, "the server did not become healthy"
        time.sleep(0.05)
    server.cpu_seconds_to_healthy = sum(psutil.Process(process.pid).cpu_times()[:2])
    return server
