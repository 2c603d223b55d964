"""The disk that a database server's data lies on: the room there is, and how much has been written to it."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional, Tuple

SECTOR_BYTES = 512
SECTORS_WRITTEN = 6  # which number of a block device's statistics (Documentation/block/stat.rst)
LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Room:
    """For those who are not root, as df(1) counts it."""

    free_bytes: int
    size_bytes: int
    read_only: bool


def room(folder: str) -> Optional[Room]:
    """None when that cannot be told."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    free, used = found.f_bavail * found.f_frsize, (found.f_blocks - found.f_bfree) * found.f_frsize
    return Room(free_bytes=free, size_bytes=used + free, read_only=bool(found.f_flag & os.ST_RDONLY))


class RoomWatch:
    """Looks in a thread of its own: a disk that hangs may not answer even this, and nobody is to wait for it."""

    def __init__(self, folder: Callable[[], str]) -> None:
        self._folder = folder
        self.newest: Optional[Room] = None

    def start(self) -> None:
        threading.Thread(target=self._look_for_ever, name="room on the database's disk", daemon=True).start()

    def _look_for_ever(self) -> None:
        while True:
            if self._folder():
                self.newest = room(self._folder())
            time.sleep(LOOK_SECONDS if self.newest else 0.5)


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
    number, source = mount_of(Path("/proc/self/mountinfo").read_text(errors="replace"), os.path.realpath(folder))
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
