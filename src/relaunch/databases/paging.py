"""Telling a person what a page says, once it has stayed for a while: most are over before anybody could look."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from relaunch.databases.group import Page

STAYS_SECONDS = 20.0
Tell = Callable[[str, str, tuple[str, ...]], Awaitable[None]]  # subject, alert | over, reasons


class Paging:
    """Of all groups. `now`: seconds of a clock that does not jump. Telling goes on by itself, one after the other."""

    def __init__(self, tell: Tell | None) -> None:
        self._tell = tell
        self._since: dict[tuple[str, str], float] = {}  # (deployment, rule) → when it began
        self._told: set[tuple[str, str]] = set()
        self._waiting: asyncio.Queue[tuple[str, str, tuple[str, ...]]] = asyncio.Queue()

    def look(self, deployment: str, pages: Iterable[Page], now: float) -> None:
        """The pages of now. The same rule is one alert until it is over."""
        texts = {(deployment, page.rule): page.text for page in pages}
        for key, text in texts.items():
            if key not in self._told and now - self._since.setdefault(key, now) >= STAYS_SECONDS:
                self._told.add(key)
                self.at_once(deployment, text)
        for over in [key for key in self._since if key[0] == deployment and key not in texts]:
            del self._since[over]
            if over in self._told:
                self._told.discard(over)
                self._waiting.put_nowait((f"database of {deployment}", "over", (over[1],)))

    def at_once(self, deployment: str, text: str) -> None:
        """What is told although nobody can help it being so: a failover."""
        self._waiting.put_nowait((f"database of {deployment}", "alert", (text,)))

    async def tell_for_ever(self) -> None:
        while True:
            said = await self._waiting.get()
            if self._tell is not None:
                await self._tell(*said)
