"""Ends what comes from a server that is silent, where telling our own server to stop would wait for it."""

from __future__ import annotations

import contextlib
import ipaddress
import subprocess
import threading
from typing import Iterator, Optional

PATIENCE_SECONDS = 0.03
COMMAND_SECONDS = 2.0
OURS = "175"  # the mark of our routes: whoever ends in between leaves one that the next start takes away


@contextlib.contextmanager
def severed(address: str, port: int) -> Iterator[None]:
    """When the block is not done in a moment: its connections to there are ended, and new ones fail at once.

    MariaDB's receiver, told to stop, first logs in at its source to end its other half there: 1 to 5 s when the source
    is frozen or cut off. A route that leads nowhere refuses that login; but a receiver that reads would wait on for
    what cannot come (4 s), so its connection is destroyed as well, or there is no route.
    """
    lock, over, routed = threading.Lock(), False, False

    def sever() -> None:
        nonlocal routed
        with lock:
            if over or not _run("ip", "route", "add", "unreachable", address, "proto", OURS):
                return
            routed = True
            closed = _run("ss", "-KHtn", "dst", address, "dport", "=", f":{port}")
            if not closed or not closed.stdout.strip():  # this kernel cannot: then the route does harm
                _take_away(address)
                routed = False

    timer = threading.Timer(PATIENCE_SECONDS, sever)
    timer.daemon = True
    if address and not ipaddress.ip_address(address).is_loopback:  # on our own machine no route of ours is asked
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            over = True
            if routed:
                _take_away(address)


def mend() -> None:
    """Take away what an agent that ended in between has left."""
    _run("ip", "route", "flush", "proto", OURS)


def _take_away(address: str) -> None:
    _run("ip", "route", "del", "unreachable", address, "proto", OURS)


def _run(*words: str) -> Optional[subprocess.CompletedProcess[str]]:
    """None when it failed."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
        return done if done.returncode == 0 else None
    return None
