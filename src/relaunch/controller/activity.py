"""Wakes whoever looks on when something changed: one place where workflows, agents and output meet their viewers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager


class Activity:
    def __init__(self) -> None:
        self._viewers: set[asyncio.Event] = set()
        self.ending = False

    def changed(self, _event: object = None) -> None:
        """Something did; callable from any listener of the event loop."""
        for viewer in self._viewers:
            viewer.set()

    def end(self) -> None:
        """The controller stops: streams end, so that their connections do not hold it up."""
        self.ending = True
        self.changed()

    @contextmanager
    def watch(self) -> Iterator[asyncio.Event]:
        """An event that is set after each change; the viewer clears it."""
        viewer = asyncio.Event()
        self._viewers.add(viewer)
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)

    async def changes(self) -> AsyncIterator[None]:
        """Yields once after each change, or burst of changes; ends when the controller stops."""
        with self.watch() as woken:
            while True:
                await woken.wait()
                woken.clear()
                if self.ending:
                    return
                yield None
