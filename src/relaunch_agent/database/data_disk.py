"""The disk that a database server's data lies on: the room there is, and how much has been written to it."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Optional, Tuple

SECTOR_BYTES = 512
SECTORS_WRITTEN = 6  # which number of a block device's statistics (Documentation/block/stat.rst)


def room(folder: str) -> Tuple[Optional[int], bool]:
    """Free bytes for those who are not root, and whether it is mounted read-only; None when that cannot be told."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None, False
    return found.f_bavail * found.f_frsize, bool(found.f_flag & os.ST_RDONLY)


def written_bytes(statistics: str) -> Optional[int]:
    """Since it is there; `statistics` is a file as `statistics_of` finds it."""
    try:
        return int(Path(statistics).read_text().split()[SECTORS_WRITTEN]) * SECTOR_BYTES
    except (OSError, ValueError, IndexError):
        return None


def statistics_of(folder: str) -> str:
    """Where the kernel counts what its disk does; "" when its file system (overlay, tmpfs) is on none of its own."""
    if not folder:
        return ""
    number, source = mount_of(Path("/proc/self/mountinfo").read_text(), os.path.realpath(folder))
    places = [f"/sys/dev/block/{number}/stat"]
    if source.startswith("/dev/"):  # btrfs has a number of its own; and a container need not have the device
        with contextlib.suppress(OSError):
            device = Path(source).stat().st_rdev
            places.append(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
        places.append(f"/sys/class/block/{Path(source).name}/stat")
    return next((place for place in places if Path(place).exists()), "")


def mount_of(mounts: str, path: str) -> Tuple[str, str]:
    """The device's number and the source of what is mounted there; `mounts` is of proc_pid_mountinfo(5)."""
    best, found = "", ("", "")
    for line in mounts.splitlines():
        words = line.split()
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), words[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # the later of two at one place lies above
            best, found = point, (words[2], words[words.index("-") + 2])
    return found
