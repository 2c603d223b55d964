"""A moment that cannot be restored is refused before anything is fetched, and told which could be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from relaunch.databases.backup_moments import refuse_moment
from relaunch.databases.backups import Backup, Kind, Known, Shipping
from relaunch.errors import RelaunchError

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def backup(id: str, ended: datetime) -> Backup:
    return Backup(
        id=id, kind=Kind.FULL, parent=None, server="db1", role="primary", begun=ended, ended=ended, gtid="0-1-1",
        stored_bytes=1, data_bytes=1, recipient="age1",
    )  # fmt: skip


SHIPPED = Shipping(at=NOW - timedelta(seconds=20), gtid="0-1-9", server="db1", stream="s")
KNOWN = Known(backups=(backup("b1", NOW - timedelta(days=2)), backup("b2", NOW - timedelta(days=1))), shipping=SHIPPED)


@pytest.mark.parametrize("to", ["newest", "gtid:0-1-5", "time:2026-11-21 18:00:00", "time:2026-11-22 11:59:30"])
def test_what_can_be_restored_is_not_refused(to: str) -> None:
    refuse_moment(KNOWN, to, "latest", NOW)


@pytest.mark.parametrize(
    ("to", "backup", "known", "why"),
    [
        ("time:2026-11-22 14:00:00", "latest", KNOWN, "still to come: it is 2026-11-22 12:00:00 UTC"),  # local
        ("time:2026-11-20 11:00:00", "latest", KNOWN, "the oldest backup of this history ended at 2026-11-20 12:00:00"),
        ("time:2026-11-21 11:00:00", "b2", KNOWN, "the backup b2 ended at 2026-11-21 12:00:00 UTC"),
        ("time:2026-11-22 11:59:50", "latest", KNOWN, "in the store up to 2026-11-22 11:59:40 UTC"),
        ("time:2026-11-22 11:00:00", "latest", Known(backups=KNOWN.backups), "in the store not at all"),
        ("time:2026-13-22 11:00:00", "latest", KNOWN, "is no moment"),
    ],
)  # fmt: skip
def test_each_refusal_says_what_there_is(to: str, backup: str, known: Known, why: str) -> None:
    with pytest.raises(RelaunchError) as refused:
        refuse_moment(known, to, backup, NOW)

    assert why in refused.value.message
