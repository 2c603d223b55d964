"""Telling a person a month before whose certificate ends: the controller's own, and every server's.

A database server's is told by its group, which knows what to do about the primary (databases/findings.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import datetime
from pathlib import Path

from cryptography import x509
from sqlalchemy.engine import Engine

from relaunch.clock import Clock
from relaunch.databases.alarm import Alarm
from relaunch.databases.findings import WARN_BEFORE
from relaunch.databases.store import GroupStore
from relaunch.servers.lifecycle import CERTIFICATE_LIFE, ENROLLED
from relaunch.servers.store import Store

log = logging.getLogger("relaunch.alerts")

LOOK_SECONDS = 3600.0


async def watch_certificates(own: Path, database: Engine, clock: Clock, alarm: Alarm) -> None:
    """Look every hour; `own` is the file of the controller's certificate."""
    while True:
        try:
            alarm.look("certificates", ending(own, database, clock), time.monotonic(), stays=0.0)
        except Exception:  # outermost frame of this loop: the next look may go well
            log.exception("certificates")
        await asyncio.sleep(LOOK_SECONDS)


def ending(own: Path, database: Engine, clock: Clock) -> dict[str, str]:
    """What to say of each that ends soon, by its instance, or `controller`."""
    soon = clock.now() + WARN_BEFORE
    found = {}
    ends = x509.load_pem_x509_certificate(own.read_bytes()).not_valid_after_utc
    if ends <= soon:
        found["controller"] = (
            f"the controller's certificate ends on {ends:%Y-%m-%d}: no command and no agent could reach it then. "
            "Start the controller again: relaunch controller stop, then relaunch controller start"
        )
    return found | _ending_servers(database, clock, soon)


def _ending_servers(database: Engine, clock: Clock, soon: datetime) -> dict[str, str]:
    store = Store(database, clock)
    members = {instance for group in GroupStore(database).groups() for instance in group.members}
    living = {row["id"]: row for row in store.living_instances() if row["state"] in ENROLLED}
    found = {}
    for server in store.servers():
        row = living.get(server.instance_id or "")
        if row is None or row["id"] in members:
            continue
        ends = datetime.fromisoformat(row["launched"]) + CERTIFICATE_LIFE
        if ends <= soon:
            found[row["id"]] = (
                f"the certificate of {server.full_name} ends on {ends:%Y-%m-%d}: no browser would trust it then. "
                f"relaunch server relaunch {server.full_name}"
            )
    return found
