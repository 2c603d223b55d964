"""Calls refused to strangers: the first ones of an hour stand in the audit trail each, the others as a number.

Whoever knows no token must not be able to fill the disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import datetime, timedelta

from relaunch.clock import Clock
from relaunch.controller.audit import Audit
from relaunch.controller.times import stamp

log = logging.getLogger("relaunch.http")

WINDOW = timedelta(hours=1)
SINGLE = 20  # per window; with the summary half a thousand entries a day, whatever comes
CLIENTS_TOLD = 20  # by address in a summary; those beyond are counted together
OTHERS = "others"


class Refusals:
    """Counts in the event loop's thread."""

    def __init__(self, audit: Audit, clock: Clock) -> None:
        self._audit = audit
        self._clock = clock
        self._since: datetime | None = None
        self._singles = 0
        self._counted: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def is_single(self, client: str) -> bool:
        """Whether this one is to be written down by itself; else it is counted here."""
        now = self._clock.now()
        if self._since is None or now - self._since >= WINDOW:
            self.summarise()
            self._since, self._singles = now, 0
        if self._singles < SINGLE:
            self._singles += 1
            return True
        if not self._counted:
            log.warning("many calls are refused; until %s they are only counted", stamp(self._since + WINDOW))
            left = (self._since + WINDOW - now).total_seconds()
            self._timer = asyncio.get_running_loop().call_later(left, self.summarise)
        known = client in self._counted or len(self._counted) < CLIENTS_TOLD
        self._counted[client if known else OTHERS] += 1
        return False

    def summarise(self) -> None:
        """One entry for all that were counted; nothing when none were."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._counted or self._since is None:
            return
        detail = {"count": self._counted.total(), "since": stamp(self._since), "by": dict(self._counted.most_common())}
        self._counted.clear()
        self._audit.record("unknown", "calls refused", "/", "refused", detail)
        log.warning("%s more calls were refused since %s", detail["count"], detail["since"])
