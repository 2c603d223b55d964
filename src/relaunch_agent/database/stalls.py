"""Why a write on the primary does not end: pure, from what was seen."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

from relaunch.bus.messages import NO_ACKNOWLEDGEMENT

LONG_SECONDS = 5.0
FULL_BYTES = 8 * 1024 * 1024
ACKNOWLEDGEMENT = ("semi-sync ack", "semisync")


@dataclass(frozen=True)
class WriteSeen:
    """`state`: what the server says our own write is doing. `others`: (seconds, state) of other statements."""

    state: str = ""
    required: bool = False
    waiting_commits: int = 0
    free_bytes: Optional[int] = None
    read_only_disk: bool = False
    others: Sequence[Tuple[float, str]] = ()


def stall(seen: WriteSeen) -> str:
    """The first cause that fits, the surest first."""
    state = seen.state.lower()
    if seen.read_only_disk:
        return "read-only file system"
    if "free some space" in state or "free space" in state or (seen.free_bytes or FULL_BYTES) < FULL_BYTES:
        return "disk full"
    if any(word in state for word in ACKNOWLEDGEMENT) or (seen.required and seen.waiting_commits > 0):
        return NO_ACKNOWLEDGEMENT
    if "lock" in state:
        return f"waits for a lock: {seen.state}"
    longest = max(seen.others, default=(0.0, ""))
    if longest[0] >= LONG_SECONDS:
        return f"long transaction: {longest[0]:.0f} s {longest[1]}".rstrip()
    return "unexplained"


def disk(folder: str) -> Tuple[Optional[int], bool]:
    """Free bytes for those who are not root, and whether it is mounted read-only; None when that cannot be told."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None, False
    return found.f_bavail * found.f_frsize, bool(found.f_flag & os.ST_RDONLY)
