"""How much memory this process may still take, so that a volume that cannot fit is refused and not killed."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nnunet_ext.errors import InputError

# cgroup v1 writes "no limit" as a number near 2**63.
UNLIMITED = 1 << 60
CGROUP = Path("/sys/fs/cgroup")


class NoRoom(InputError):
    """A volume cannot fit into the memory that is left now."""


class Room(NamedTuple):
    """Bytes left under the tightest limit, and that limit's name."""

    size: int
    limit: str


def room() -> Room:
    """Bytes that this process can still allocate: the least of RLIMIT_DATA, RLIMIT_AS, its cgroup and free RAM."""
    rooms = []
    if available := _sizes("/proc/meminfo").get("MemAvailable"):
        rooms.append(Room(available, "free memory"))
    status = _sizes("/proc/self/status")
    for name, limit, used in (
        ("RLIMIT_DATA", resource.RLIMIT_DATA, status.get("VmData", 0)),
        ("RLIMIT_AS", resource.RLIMIT_AS, status.get("VmSize", 0)),
    ):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            rooms.append(Room(soft - used, name))
    for limit_file, used_file, stat_file, prefix in (
        ("memory.max", "memory.current", "memory.stat", ""),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
    ):
        most, now = _number(limit_file), _number(used_file)
        if most is not None and now is not None and most < UNLIMITED:
            # What was read from files counts as used, until the kernel needs the place.
            stat = _counters(stat_file)
            cached = sum(stat.get(f"{prefix}{name}", 0) for name in ("inactive_file", "active_file"))
            rooms.append(Room(most - max(now - cached, 0), "the container's memory limit"))
    return min(rooms, default=Room(UNLIMITED, "no limit"))


def require_room(name: str, size: Sequence[int], needed: int) -> Room:
    """The room there is, when `needed` bytes fit into it.

    Args:
        name: the scan's file.
        size: its voxels along x, y and z.

    Raises:
        NoRoom: in one line that says how much is needed, how much is left and which limit it is.
    """
    left = room()
    if needed > left.size:
        voxels = " x ".join(str(n) for n in size)
        raise NoRoom(
            f"{name}: {voxels} voxels need about {gigabytes(needed)} of memory, "
            f"{gigabytes(left.size)} are left ({left.limit}); a larger limit or a smaller scan is needed"
        )
    return left


def gigabytes(size: int) -> str:
    """`1500000000` -> `1.5 GB`."""
    return f"{max(size, 0) / 1e9:.1f} GB"


def _sizes(file: str) -> dict[str, int]:
    """The sizes in a file of /proc, in bytes; nothing where there is no /proc."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def _number(name: str) -> int | None:
    try:
        return int((CGROUP / name).read_text())
    except (OSError, ValueError):
        return None


def _counters(name: str) -> dict[str, int]:
    """The lines `name number` of a cgroup's file; nothing where there is none."""
    try:
        lines = (CGROUP / name).read_text().splitlines()
    except OSError:
        return {}
    return {key: int(value) for key, value in map(str.split, lines)}
