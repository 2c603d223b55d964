"""Comparing replication positions in whichever dialect a group speaks."""

from __future__ import annotations

import re
from collections.abc import Callable

from relaunch.bus.messages import DatabaseReport
from relaunch.databases.dialect import Dialect
from relaunch.databases.group import Seen
from relaunch.databases.mariadb import MariaDB
from relaunch.databases.mysql import MySQL
from relaunch.databases.mysql_gtids import gtid_set, text_of

DIALECTS: dict[str, Dialect] = {"mariadb": MariaDB(), "mysql": MySQL()}
_MARIADB = re.compile(r"[0-9]+-[0-9]+-[0-9]+(,[0-9]+-[0-9]+-[0-9]+)*")


def covers(seen: Seen) -> Callable[[str, str], bool]:
    """Whether the first position holds all of the second, as the group's servers count."""
    return covers_in(_dialect(seen))


def parted(seen: Seen) -> Callable[[DatabaseReport, DatabaseReport], bool]:
    """Whether two of the group's servers will never have the same data again."""
    dialect = DIALECTS[_dialect(seen)]
    return lambda one, other: dialect.parted(one.executed, one.history, other.executed, other.history)


def _dialect(seen: Seen) -> str:
    """By those that say a position: an agent that has not reached its server yet does not know its dialect."""
    reports = [member.report for member in seen.members.values() if member.report is not None]
    return min((each.dialect for each in reports if each.executed or each.received), default="mariadb")


def covers_in(dialect: str) -> Callable[[str, str], bool]:
    return DIALECTS[dialect].covers


def written_position(text: str) -> str:
    """A position that somebody wrote, in one line; BadInput when neither dialect has such positions."""
    bare = "".join(text.split())
    return bare if _MARIADB.fullmatch(bare) or not bare else text_of(gtid_set(bare))
