"""When a primary must stop by itself: nobody else could then know that it still takes writes."""

from __future__ import annotations

from typing import Optional

from relaunch.databases.dialect import ServerState

LEASE_SECONDS = 6.0


class Lease:
    """Moments of the monotonic clock. It counts only while the group is in mode SYNC: in any other, no one else may be
    made the primary without this one being confirmed fenced first."""

    def __init__(self, now: float) -> None:
        self._renewed = now

    def is_over(self, now: float, *, holds: bool, controller_heard: float, acknowledged: bool) -> bool:
        """`holds`: it is a primary that takes writes in mode SYNC. `acknowledged`: it hears a replica that does so;
        without one no write can be answered, with one no other server can be promoted."""
        if not holds or acknowledged:
            self._renewed = now
        self._renewed = max(self._renewed, controller_heard)
        return now - self._renewed >= LEASE_SECONDS


def hears_replica(state: Optional[ServerState], *, waits: bool) -> bool:
    """`waits`: the heartbeat's row has been waiting for an acknowledgement, and nothing else got one.

    A replica that was silently cut off counts as connected until TCP gives up, a quarter of an hour later: what it
    acknowledges is what tells."""
    return state is not None and bool(state.acknowledgers) and not waits
