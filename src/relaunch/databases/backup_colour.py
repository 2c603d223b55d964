"""Whether a deployment's backups are green or red: in the log and the audit trail when it changes, and to the alarm."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from sqlalchemy import insert
from sqlalchemy.engine import Engine

from relaunch.clock import Clock
from relaunch.databases.alarm import Alarm
from relaunch.records.schema import audit
from relaunch.servers.store import now
from relaunch.workflows.tasks import WHO

log = logging.getLogger("relaunch.backups")

STAYS_SECONDS = 120.0  # a reason is one for so long before a person is told

SAID = {  # by the server, as its tag `binlogs`
    "store-down": "the object store is not reached: binary log waits on this server's disk",
    "store-refuses": "the object store refuses our key: binary log waits on this server's disk",
    "store-full": "the object store takes no more: binary log waits on this server's disk",
    "queue-too-long": "more binary log than was allowed for waits on this server's disk for the object store",
    "gap": "binary log is missing in the object store: until the next backup nothing later than that can be restored",
    "reset": "the binary log was reset by hand, and a new history began: until its next backup nothing can be restored",
    "encrypted": "the binary log is encrypted and not shipped: turn encrypt_binlog off and start MariaDB again"
    " (MySQL: SET PERSIST binlog_encryption = OFF), then back up",
    "no-database": "the program that ships the binary log gets no answer from the database",
}
SNAPSHOTS = "snapshots of its volume fail: see journalctl -u relaunch-take-snapshot -u relaunch-trim-snapshots there"


def alarms_of_tags(tags: Mapping[str, str], role: str) -> tuple[str, ...]:
    """What a member's tags say is wrong with backups there. The binary log is the primary's to ship."""
    binlogs = SAID.get(tags.get("binlogs", ""), "") if role == "primary" else ""
    snapshots = SNAPSHOTS if tags.get("snapshots") == "failing" else ""
    return tuple(each for each in (binlogs, snapshots) if each)


class Colours:
    """Of all deployments; remembers what it has said."""

    def __init__(self, database: Engine, clock: Clock, alarm: Alarm) -> None:
        self._database = database
        self._clock = clock
        self._alarm = alarm
        self._said: dict[str, tuple[str, ...]] = {}

    def say(self, deployment: str, reasons: tuple[str, ...], hushed: Collection[str] = ()) -> None:
        """Why it is red as of now; no reason is green. `hushed`: those no person is to be told of yet."""
        if self._said.get(deployment) != reasons:
            self._said[deployment] = reasons
            self._write(deployment, reasons)
        told = {each: each for each in reasons if each not in hushed}
        self._alarm.look(
            f"backups of {deployment}", told, self._clock.now().timestamp(), stays=STAYS_SECONDS
        )  # fmt: skip

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
