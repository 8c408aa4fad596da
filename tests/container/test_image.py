"""The real image: built, saved, and run as the platform runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_koos import make_koos
from made_models import make_model
from program_harness import REPOSITORY

from nnunet_ext.cli import main

TAG = "localhost/nnunet_ext_test:latest"
SECONDS = 1500
# Torch and what it needs, several times over: while it is installed, as layers, saved, and loaded again.
GIGABYTES = 15


def tool() -> str:
    """A container tool that answers; the test skips without one."""
    for name in filter(None, (os.environ.get("CONTAINER_TOOL"), "docker", "podman")):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True).returncode == 0:
            return name
    pytest.skip("neither docker nor podman is usable here")


def require_room(name: str) -> None:
    """Skips where the container tool's storage has too little room for the image."""
    where = "{{.Store.GraphRoot}}" if "podman" in name else "{{.DockerRootDir}}"
    found = subprocess.run([name, "info", "--format", where], capture_output=True, text=True).stdout.strip()
    folder = Path(found) if found and Path(found).is_dir() else Path("/")
    if (free := shutil.disk_usage(folder).free / 1e9) < GIGABYTES:
        pytest.skip(f"{folder}: {free:.0f} GB free, the image needs {GIGABYTES} GB on its way")


def base() -> list[str]:
    """Options for the base image: IMAGE_BASE, or one made from Debian packages."""
    if named := os.environ.get("IMAGE_BASE"):
        return ["--base", named]
    if os.geteuid() == 0 and shutil.which("debootstrap"):
        return ["--debian-base"]
    pytest.skip("no base image: IMAGE_BASE is not set, and debootstrap (as root) is not there to make one")


def cpu_torch() -> list[str]:
    """A torch without CUDA where pip has one: the image is then built in minutes."""
    listing = [sys.executable, "-m", "pip", "index", "versions", "torch"]
    found = re.findall(r"[\d.]+\+cpu", subprocess.run(listing, capture_output=True, text=True).stdout)
    return ["--torch", f"torch=={found[0]}"] if found else []


def script(name: str, *options: str) -> str:
    """Run a script of the repository; its output is shown when it fails."""
    done = subprocess.run(
        [REPOSITORY / "scripts" / name, *options], capture_output=True, text=True, timeout=SECONDS, env=dict(os.environ)
    )
    assert done.returncode == 0, f"{name}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
def test_the_image_is_built_saved_and_run_as_the_platform_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = tool()
    require_room(name)
    monkeypatch.setenv("CONTAINER_TOOL", name)
    options = [*base(), *cpu_torch()]
    model = make_model(tmp_path)
    koos = make_koos(tmp_path / "koos")
    main(["package", str(model), "-o", str(tmp_path / "model.tar.gz"), "--koos", str(koos)])
    try:
        script("build_image.sh", "--tag", TAG, *options)
        script("save_image.sh", "--image", TAG, "--model", str(tmp_path / "model.tar.gz"), "--output", str(tmp_path))
        subprocess.run([name, "rmi", TAG], capture_output=True, check=True)
        report = script(
            "test_image.sh", "--image", str(tmp_path / "image.tar.gz"), "--model", str(tmp_path / "model.tar.gz")
        )
        assert "all checks passed" in report
    finally:
        subprocess.run([name, "rmi", "--force", TAG], capture_output=True)
