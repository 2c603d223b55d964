"""A silent server is made unreachable from here for a moment, so that nothing waits for it.

MariaDB's receiver, when it is stopped, wants to end its connection on the source and tries for a whole second. The
routes carry a mark of ours: whatever an earlier agent left is removed by `forget_all`.
"""

from __future__ import annotations

import contextlib
import subprocess
from typing import Iterator

MARK = "186"  # of a route's origin ("protocol"); numbers from 4 to 255 are free for administrators
SECONDS = 2.0


@contextlib.contextmanager
def unreachable(address: str) -> Iterator[None]:
    """Connections to the address fail at once inside; without `ip`, or without the right to, nothing changes."""
    made = bool(address) and _ip("route", "add", "unreachable", f"{address}/32", "proto", MARK)
    try:
        yield
    finally:
        if made:
            _ip("route", "del", "unreachable", f"{address}/32", "proto", MARK)


def forget_all() -> None:
    _ip("route", "flush", "proto", MARK)


def _ip(*words: str) -> bool:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
