"""Telling a person what is wrong, once it has stayed so for a while: most is over before anybody could look."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

log = logging.getLogger("relaunch.alerts")

AGAIN_SECONDS = 12 * 3600.0  # what goes on is told again
Tell = Callable[[str, str, tuple[str, ...]], Awaitable[None]]  # subject, alert | over, reasons


@dataclass(slots=True)
class _Wrong:
    text: str
    since: float
    told_at: float | None = None


class Alarm:
    """Of all subjects. Telling goes on by itself, one after the other, however long the telling takes."""

    def __init__(self, tell: Tell | None) -> None:
        self._tell = tell
        self._wrong: dict[str, dict[str, _Wrong]] = {}  # subject → key → what
        self._waiting: asyncio.Queue[tuple[str, str, tuple[str, ...]]] = asyncio.Queue()

    def look(self, subject: str, wrong: Mapping[str, str], now: float, *, stays: float) -> None:
        """All that is wrong with it at this moment: texts by a key that stays the same as long as it is the same thing.
        `now` and `stays`: seconds, of the same clock for the same subject."""
        before = self._wrong.get(subject, {})
        over = tuple(each.text for key, each in before.items() if key not in wrong and each.told_at is not None)
        known = self._wrong[subject] = {key: before.get(key) or _Wrong(text, now) for key, text in wrong.items()}
        due = []
        for key, each in known.items():
            each.text = wrong[key]
            # What is later than now was said before the clock was set back.
            each.since, each.told_at = min(each.since, now), None if each.told_at is None else min(each.told_at, now)
            if now - each.since >= stays and (each.told_at is None or now - each.told_at >= AGAIN_SECONDS):
                each.told_at = now
                due.append(each.text)
        if over:
            self._say(subject, "over", over)
        if due:
            self._say(subject, "alert", tuple(due))

    def at_once(self, subject: str, text: str) -> None:
        """What is told although nobody can help it being so: a failover."""
        self._say(subject, "alert", (text,))

    def _say(self, subject: str, state: str, reasons: tuple[str, ...]) -> None:
        if self._tell is not None:
            self._waiting.put_nowait((subject, state, reasons))

    async def tell_for_ever(self) -> None:
        while self._tell is not None:
            said = await self._waiting.get()
            try:
                await self._tell(*said)
            except Exception:  # outermost frame of this loop: the next one may be told
                log.exception("telling %s", said)
