"""Saying that backups are red: in the log and the audit trail at once, to a person when it stays so."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import datetime, timedelta

from sqlalchemy import insert
from sqlalchemy.engine import Engine

from relaunch.clock import Clock
from relaunch.records.schema import audit
from relaunch.servers.store import now

log = logging.getLogger("relaunch.backups")

STAYS = timedelta(minutes=2)  # a reason is one for so long before a person is told
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
        self._since: dict[str, dict[str, datetime]] = {}  # deployment → reason → since when it is one
        self._told: dict[str, dict[str, datetime]] = {}  # the same → when a person was told

    async def say(self, deployment: str, reasons: tuple[str, ...], hushed: Collection[str] = ()) -> None:
        """As of now; none is green. `hushed`: those no person is to be told of yet."""
        if self._said.get(deployment) != reasons:
            self._said[deployment] = reasons
            self._write(deployment, reasons)
        moment, before = self._clock.now(), self._since.get(deployment, {})
        since = self._since[deployment] = {each: before.get(each, moment) for each in reasons if each not in hushed}
        told = {each: at for each, at in self._told.get(deployment, {}).items() if each in since}
        due = tuple(
            each
            for each, began in since.items()
            if moment - began >= STAYS and (each not in told or moment - told[each] >= AGAIN)
        )
        was_told = deployment in self._told
        if due:
            self._told[deployment] = told | dict.fromkeys(due, moment)
        elif since and was_told:
            self._told[deployment] = told
        elif was_told:
            del self._told[deployment]
        if self._tell is not None and (due or (was_told and not since)):
            await self._tell(f"backups of {deployment}", "alert" if due else "over", due)

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
