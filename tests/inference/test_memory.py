"""The memory that is left, as a container's limit leaves it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_ext.inference import memory

MB = 1 << 20


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": 300, "memory.current": 280}, 20),
        # What the kernel keeps of files read is given up when somebody needs the place.
        (
            {"memory.max": 300, "memory.current": 280, "memory.stat": "anon 7\ninactive_file {100}\nactive_file {50}"},
            170,
        ),
        (
            {
                "memory/memory.limit_in_bytes": 300,
                "memory/memory.usage_in_bytes": 280,
                "memory/memory.stat": "inactive_file 1\ntotal_inactive_file {100}\ntotal_active_file {50}",
            },
            170,
        ),
    ],
)
def test_a_container_s_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, int | str], left: int
) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, int):
            path.write_text(f"{content * MB}\n")
        else:
            path.write_text(content.replace("{100}", str(100 * MB)).replace("{50}", str(50 * MB)) + "\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.room() == (left * MB, "the container's memory limit")


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096)])
def test_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(limit)
    for name in ("memory.current", "memory/memory.usage_in_bytes"):
        (tmp_path / name).write_text("1000")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.room().limit != "the container's memory limit"
