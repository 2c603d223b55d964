"""Small writes that come together become one transaction: a commit costs a flush of the disk, whatever is in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class GroupCommit(Generic[Item, Answer]):
    """`write` gets what was put within `settle_seconds` of the first, in that order; one answer for each.

    An answer that is an exception is raised where that item is waited for; an exception of `write` itself, everywhere.
    """

    def __init__(
        self, write: Callable[[Sequence[Item]], Sequence[Answer | Exception]], *, settle_seconds: float
    ) -> None:
        self._write = write
        self._settle_seconds = settle_seconds
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._timer: asyncio.TimerHandle | None = None

    def put(self, item: Item) -> asyncio.Future[Answer]:
        """Done once it is committed."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, future))
        if self._timer is None:
            self._timer = loop.call_later(self._settle_seconds, self.flush)
        return future

    def flush(self) -> None:
        """Write at once what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        taken, self._waiting = self._waiting, []
        if not taken:
            return
        try:
            answers = self._write([item for item, _ in taken])
        except Exception as error:  # whoever waits decides what it means
            answers = [error] * len(taken)
        for (_, future), answer in zip(taken, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
