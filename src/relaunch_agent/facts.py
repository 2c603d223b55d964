"""What this machine is and how it does: read from /proc, nothing kept."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Dict

from relaunch.bus.messages import Alive


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def enrolment_facts() -> Dict[str, object]:
    release = {}
    file = Path("/etc/os-release")
    if file.exists():
        release = dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
    return {
        "host_name": os.uname().nodename,
        "kernel": os.uname().release,
        "machine": os.uname().machine,
        "os": release.get("PRETTY_NAME", "").strip('"'),
        "python": platform.python_version(),
        "processors": os.cpu_count() or 1,
        "memory_bytes": _memory()["MemTotal"],
    }


def alive() -> Alive:
    memory = _memory()
    return Alive(
        boot_id=boot_id(),
        uptime_seconds=float(Path("/proc/uptime").read_text().split()[0]),
        load=os.getloadavg()[0],
        memory_used_bytes=memory["MemTotal"] - memory["MemAvailable"],
        memory_total_bytes=memory["MemTotal"],
    )


def _memory() -> Dict[str, int]:
    wanted = {"MemTotal": 0, "MemAvailable": 0}
    with Path("/proc/meminfo").open() as lines:
        for line in lines:
            name, _, rest = line.partition(":")
            if name in wanted:
                wanted[name] = int(rest.split()[0]) * 1024
    return wanted
