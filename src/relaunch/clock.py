"""Time as an argument: what the pure middle and the tests are handed instead of now()."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """The present moment, aware, UTC."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class SteadyClock:
    """Goes on from the moment that another clock says at first, and does not jump when that is set."""

    def __init__(self, clock: Clock) -> None:
        self._first, self._began = clock.now(), time.monotonic()

    def now(self) -> datetime:
        return self._first + timedelta(seconds=time.monotonic() - self._began)


@dataclass(slots=True)
class SetClock:
    """A clock that stands until it is moved: for tests."""

    at: datetime = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC))

    def now(self) -> datetime:
        return self.at

    def move(self, by: timedelta) -> None:
        self.at += by
