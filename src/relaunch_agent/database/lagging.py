"""Which replicas are too far behind to read from: by the newest heartbeat row each has, as seen from here. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import FrozenSet, Mapping

FRESH_SECONDS = 5.0  # what was asked longer ago says nothing about now


@dataclass(frozen=True)
class Beat:
    """`at`: when the primary wrote the newest row there, seconds by its clock; `asked`: by our own, monotonic."""

    at: float
    asked: float


def lagging(
    beats: Mapping[str, Beat], primary: str, before: FrozenSet[str], *, limit: float, now: float
) -> FrozenSet[str]:
    """Addresses. Both rows are of the primary's clock, so no other counts; a primary that stands still, or that is not
    heard, leaves nobody behind. One that was too far behind is back once it is within half of the limit."""
    own = beats.get(primary)
    if own is None or now - own.asked > FRESH_SECONDS:
        return frozenset()
    return frozenset(
        address
        for address, beat in beats.items()
        if address != primary
        and now - beat.asked <= FRESH_SECONDS
        and own.at - beat.at > (limit / 2 if address in before else limit)
    )
