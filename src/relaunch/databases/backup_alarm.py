"""Saying that backups are red: in the log and the audit trail at once, to a person when it stays so."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta

from sqlalchemy import insert
from sqlalchemy.engine import Engine

from relaunch.clock import Clock
from relaunch.records.schema import audit
from relaunch.servers.store import now

log = logging.getLogger("relaunch.backups")

STAYS = timedelta(minutes=2)  # red for so long before a person is told: a fresh group is red until its first proof
AGAIN = timedelta(hours=12)
WHO = "relaunch"
Tell = Callable[[str, str, tuple[str, ...]], Awaitable[None]]  # subject, alert | over, reasons

SAID = {  # by the server, as its tag `binlogs`
    "store-down": "the object store is not reached: binary log waits on this server's disk",
    "store-refuses": "the object store refuses our key: binary log waits on this server's disk",
    "store-full": "the object store takes no more: binary log waits on this server's disk",
    "queue-too-long": "more binary log than was allowed for waits on this server's disk for the object store",
    "no-database": "the program that ships the binary log gets no answer from the database",
}


def alarm_of_tags(tags: Mapping[str, str]) -> str:
    """What its tags say is wrong with backups there, "" for nothing."""
    return SAID.get(tags.get("binlogs", ""), "")


class Alarm:
    """Of all deployments; remembers what it has said."""

    def __init__(self, database: Engine, clock: Clock, tell: Tell | None) -> None:
        self._database = database
        self._clock = clock
        self._tell = tell
        self._said: dict[str, tuple[str, ...]] = {}
        self._since: dict[str, datetime] = {}
        self._told: dict[str, datetime] = {}

    async def say(self, deployment: str, reasons: tuple[str, ...]) -> None:
        """As of now; none is green."""
        if self._said.get(deployment) != reasons:
            self._said[deployment] = reasons
            self._write(deployment, reasons)
        moment = self._clock.now()
        if not reasons:
            self._since.pop(deployment, None)
            if self._told.pop(deployment, None) is not None and self._tell is not None:
                await self._tell(f"backups of {deployment}", "over", ())
            return
        since, told = self._since.setdefault(deployment, moment), self._told.get(deployment)
        if moment - since >= STAYS and (told is None or moment - told >= AGAIN) and self._tell is not None:
            self._told[deployment] = moment
            await self._tell(f"backups of {deployment}", "alert", reasons)

    def _write(self, deployment: str, reasons: tuple[str, ...]) -> None:
        (log.warning if reasons else log.info)("backups of %s: %s", deployment, "; ".join(reasons) or "green")
        with self._database.begin() as connection:
            connection.execute(
                insert(audit).values(
                    at=now(self._clock), who=WHO, action="backups are red" if reasons else "backups are green",
                    subject=f"deployment:{deployment}", result="failed" if reasons else "done",
                    detail={"reasons": list(reasons)},
                )
            )  # fmt: skip
