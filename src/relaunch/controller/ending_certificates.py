"""Telling a person a month before whose certificate ends: the controller's own, and every server's; the authority's
a year before.

A database server's is told by its group, which knows what to do about the primary (databases/findings.py), but for one
that ends before its time, with the authority.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from sqlalchemy.engine import Engine

from relaunch.clock import Clock
from relaunch.controller.certificates import Authority
from relaunch.databases.alarm import Alarm
from relaunch.databases.findings import WARN_BEFORE
from relaunch.databases.store import GroupStore
from relaunch.servers.lifecycle import CERTIFICATE_LIFE, ENROLLED
from relaunch.servers.store import Store

log = logging.getLogger("relaunch.alerts")

LOOK_SECONDS = 3600.0
WARN_OF_AUTHORITY_BEFORE = timedelta(days=365)


async def watch_certificates(own: Path, authority: Authority, database: Engine, clock: Clock, alarm: Alarm) -> None:
    """Look every hour; `own` is the file of the controller's certificate."""
    while True:
        try:
            alarm.look("certificates", ending(own, authority, database, clock), time.monotonic(), stays=0.0)
        except Exception:  # outermost frame of this loop: the next look may go well
            log.exception("certificates")
        await asyncio.sleep(LOOK_SECONDS)


def ending(own: Path, authority: Authority, database: Engine, clock: Clock) -> dict[str, str]:
    """What to say of each that ends soon, by its instance, or `controller`, or `authority`."""
    soon = clock.now() + WARN_BEFORE
    found = {}
    ends = x509.load_pem_x509_certificate(own.read_bytes()).not_valid_after_utc
    if ends <= soon:
        found["controller"] = (
            f"the controller's certificate ends on {ends:%Y-%m-%d}: no command and no agent could reach it then. "
            "Start the controller again: relaunch controller stop, then relaunch controller start"
        )
    if authority.ends <= clock.now() + WARN_OF_AUTHORITY_BEFORE:
        found["authority"] = (
            f"the internal certificate authority ends on {authority.ends:%Y-%m-%d}: no certificate would hold then. "
            "Start the controller again: relaunch controller stop, then relaunch controller start; "
            "then relaunch every server, before that day"
        )
    return found | _ending_servers(authority, database, clock, soon)


def _ending_servers(authority: Authority, database: Engine, clock: Clock, soon: datetime) -> dict[str, str]:
    store = Store(database, clock)
    group_of = {instance: group for group in GroupStore(database).groups() for instance in group.members}
    living = {row["id"]: row for row in store.living_instances() if row["state"] in ENROLLED}
    found = {}
    for server in store.servers():
        row = living.get(server.instance_id or "")
        if row is None:
            continue
        launched = datetime.fromisoformat(row["launched"])
        ends, group = authority.ends_for(launched), group_of.get(row["id"])
        if ends > soon or (group is not None and ends == launched + CERTIFICATE_LIFE):
            continue
        what, how = "no browser would trust it", f"relaunch server relaunch {server.full_name}"
        if group is not None:
            what = "nobody could replicate from it"
            if row["id"] == group.group.primary:
                how = f"relaunch db switchover {group.deployment}, then {how}"
        found[row["id"]] = f"the certificate of {server.full_name} ends on {ends:%Y-%m-%d}: {what} then. {how}"
    return found
