"""Those who wait for an agent to connect, or for a run of its to end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from relaunch.bus.messages import RunState


@dataclass(slots=True)
class Waiter:
    """Someone who waits for news of an instance, or only of one run there."""

    instance: str
    run: str = ""
    ended: RunState | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def woken(self, seconds: float) -> bool:
        """Whether there was news within that time; what was told is forgotten."""
        try:
            await asyncio.wait_for(self.news.wait(), seconds)
        except TimeoutError:
            return False
        self.news.clear()
        return True


class Waiters:
    def __init__(self) -> None:
        self._all: list[Waiter] = []

    @contextmanager
    def waiting(self, instance: str, run: str = "") -> Iterator[Waiter]:
        waiter = Waiter(instance, run)
        self._all.append(waiter)
        try:
            yield waiter
        finally:
            self._all.remove(waiter)

    def wake(self, instance: str, run: str = "", ended: RunState | None = None) -> None:
        """All who wait for this instance; with `run` only those who wait for that."""
        for waiter in self._all:
            if waiter.instance == instance and (not run or waiter.run == run):
                waiter.ended = ended or waiter.ended
                waiter.news.set()
