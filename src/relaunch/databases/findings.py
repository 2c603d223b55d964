"""What a person should know of a group besides what its agents say at this moment."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.engine import Engine

from relaunch.databases.checksums import last_checksum, standing
from relaunch.databases.extra_transactions import extra_pages
from relaunch.databases.group import Page
from relaunch.databases.store import StoredGroup
from relaunch.servers.lifecycle import CERTIFICATE_LIFE

WARN_BEFORE = timedelta(days=30)


def findings(database: Engine, stored: StoredGroup, now: datetime) -> tuple[Page, ...]:
    """By comparing, by reading what was set aside, by the calendar."""
    compared = standing(last_checksum(database, stored.deployment), stored)
    return (*compared, *extra_pages(database, stored), *ending_certificates(stored, now))


def ending_certificates(stored: StoredGroup, now: datetime) -> tuple[Page, ...]:
    """A server has its certificate from its launch on; with it ends all that others believe it to be."""
    pages = []
    for each in sorted(stored.members.values(), key=lambda one: one.name):
        ends = each.launched + CERTIFICATE_LIFE
        if now < ends - WARN_BEFORE:
            continue
        how = f"relaunch server relaunch {each.server}"
        if each.id == stored.group.primary:
            how = f"relaunch db switchover {stored.deployment}, then {how}"
        text = f"the certificate of {each.server} ends on {ends:%Y-%m-%d}: nobody could replicate from it then. {how}"
        pages.append(Page(rule="certificate ends", text=text))
    return tuple(pages)
