"""Why a write on the primary does not end: pure, from what was seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional, Sequence, Tuple

from relaunch.bus.messages import DISK_FULL, NO_ACKNOWLEDGEMENT, UNEXPLAINED

LONG_SECONDS = 5.0
FULL_BYTES = 8 * 1024 * 1024
WORKS_BYTES = 64 * 1024  # written within a second: more than a server does that waits for its disk
LATELY_SECONDS = 3.0
NO_SPACE = ("free some space", "free space", "disk space")  # as MariaDB and MySQL say that they wait for some
ACKNOWLEDGEMENT = ("semi-sync ack", "semisync")


@dataclass(frozen=True)
class WriteSeen:
    """`state`: what the server says our own write is doing. `others`: (seconds, state) of other statements.

    `works`: its process has written to its disk lately; `commits`: it has committed something."""

    state: str = ""
    required: bool = False
    waiting_commits: int = 0
    free_bytes: Optional[int] = None
    read_only_disk: bool = False
    others: Sequence[Tuple[float, str]] = ()
    works: bool = True
    commits: bool = False


class Progress:
    """What the server gets done besides the write that is watched. Moments of the monotonic clock."""

    def __init__(self) -> None:
        self._executed = ""
        self._committed = float("-inf")
        self._wrote = float("-inf")
        self._measured: Tuple[float, Optional[int]] = float("-inf"), None

    def look(self, now: float, executed: str, written_bytes: Callable[[], Optional[int]]) -> None:
        """`written_bytes`: asked once a second; None when nobody tells: then it is taken to work, as being slow is no
        failure."""
        if executed != self._executed:
            self._committed, self._executed = now if self._executed else float("-inf"), executed
        began, before = self._measured
        if now - began < 1.0 and before is not None:
            return
        written = written_bytes()
        if written is None or (before is not None and written - before >= WORKS_BYTES * (now - began)):
            self._wrote = now
        self._measured = now, written

    def works(self, now: float) -> bool:
        return now - self._wrote < LATELY_SECONDS

    def commits(self, now: float, *, within: float = LATELY_SECONDS) -> bool:
        return now - self._committed < within


def stall(seen: WriteSeen) -> str:
    """The first cause that fits, the surest first."""
    state = seen.state.lower()
    if seen.read_only_disk:
        return "read-only file system"
    if any(words in state for words in NO_SPACE) or (seen.free_bytes is not None and seen.free_bytes < FULL_BYTES):
        return DISK_FULL
    if any(word in state for word in ACKNOWLEDGEMENT) or (seen.required and seen.waiting_commits > 0):
        return NO_ACKNOWLEDGEMENT
    if "lock" in state:
        return f"waits for a lock: {seen.state}"
    if seen.commits:
        return "overloaded: other writes end"
    longest = max(seen.others, default=(0.0, ""))
    if longest[0] >= LONG_SECONDS and seen.works:  # on a disk that hangs every commit is long, and nothing is written
        return f"long transaction: {longest[0]:.0f} s {longest[1]}".rstrip()
    return UNEXPLAINED
