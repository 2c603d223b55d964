"""One control group per instance: what belongs to it, its limits, and the one write that kills all of it at once.

Without a group of its own every guest's systemd would manage the same tree, and stop the services of its neighbours.
Where systemd runs the host it makes the groups (see nspawn.py); this module makes them everywhere else. Memory and CPU
limits are best effort there: on cgroup v1 always, on a pure cgroup v2 only when its controllers may be handed down.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

CPU_PERIOD_US = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    memory_bytes: int | None = None
    cpus: float | None = None


def unified_root(mounts: str | None = None) -> Path | None:
    """Where cgroup v2 is mounted, alone or beside v1; None when it is not."""
    return _mounted("cgroup2", "", mounts)


def _mounted(kind: str, option: str, mounts: str | None = None) -> Path | None:
    for line in (mounts or Path("/proc/self/mounts").read_text()).splitlines():
        _, where, fstype, options, *_ = line.split(" ")
        if fstype == kind and (not option or option in options.split(",")):
            return Path(where)
    return None


def make_groups(bridge: str, instance: str, limits: Limits) -> list[Path]:
    """Make the instance's groups in every hierarchy that matters; the folders to join, that of cgroup v2 first."""
    inside = Path("relaunch", bridge, instance)
    folders = []
    unified = unified_root()
    if unified is not None:
        if limits.memory_bytes or limits.cpus:
            _hand_down(unified, inside)
        folders.append(unified / inside)
        (unified / inside).mkdir(parents=True, exist_ok=True)
        _write(unified / inside / "memory.max", limits.memory_bytes)
        if limits.cpus:
            _write(unified / inside / "cpu.max", f"{int(limits.cpus * CPU_PERIOD_US)} {CPU_PERIOD_US}")
    for option in ("name=systemd", "memory", "cpu"):
        root = _mounted("cgroup", option)
        if root is None:
            continue
        with contextlib.suppress(OSError):
            (root / inside).mkdir(parents=True, exist_ok=True)
            folders.append(root / inside)
    memory, cpu = _mounted("cgroup", "memory"), _mounted("cgroup", "cpu")
    if memory is not None:
        _write(memory / inside / "memory.limit_in_bytes", limits.memory_bytes)
    if cpu is not None and limits.cpus:
        _write(cpu / inside / "cpu.cfs_quota_us", int(limits.cpus * CPU_PERIOD_US))
    return folders


def _hand_down(root: Path, inside: Path) -> None:
    for folder in [root, *(root / parent for parent in reversed(inside.parents) if parent != Path())]:
        folder.mkdir(exist_ok=True)
        for controller in ("+memory", "+cpu"):
            _write(folder / "cgroup.subtree_control", controller)


def _write(file: Path, value: object) -> None:
    if value is not None and file.exists():
        with contextlib.suppress(OSError):
            file.write_text(str(value))


def remove_groups(bridge: str, instance: str = "") -> None:
    """Remove the (empty) groups of an instance, or of a whole cloud; gone already is no error."""
    roots = [unified_root(), *(_mounted("cgroup", option) for option in ("name=systemd", "memory", "cpu"))]
    for root in roots:
        if root is None:
            continue
        top = root / "relaunch" / bridge / instance
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        if not instance:
            with contextlib.suppress(OSError):
                (root / "relaunch").rmdir()


def group_of(pid: int) -> Path | None:
    """The cgroup v2 folder a process is in."""
    root = unified_root()
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    inside = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    return root / inside if root is not None and inside is not None else None


def is_populated(group: Path) -> bool:
    """Does any process live in it or below."""
    try:
        return "populated 1" in (group / "cgroup.events").read_text()
    except (FileNotFoundError, OSError):
        return False


def kill_all(group: Path) -> None:
    """SIGKILL to every process in it and below, at once (Linux 5.14)."""
    with contextlib.suppress(FileNotFoundError):
        (group / "cgroup.kill").write_text("1")


def first_process(group: Path) -> int | None:
    """The container's init: the process in the group, or below, that is number 1 in its own namespace."""
    for folder, _, files in os.walk(group):
        if "cgroup.procs" not in files:
            continue
        with contextlib.suppress(OSError):
            for pid in (Path(folder) / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    status = Path(f"/proc/{pid}/status").read_text()
                    numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
                    if len(numbers) > 1 and numbers[-1] == "1":
                        return int(pid)
    return None
