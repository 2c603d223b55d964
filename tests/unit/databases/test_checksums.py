"""What of a comparison still holds: a replica that was replaced since differs no more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from relaunch.databases.checksums import standing
from relaunch.databases.findings import ending_certificates
from relaunch.databases.group import Group
from relaunch.databases.store import StoredGroup, StoredMember
from relaunch.servers.lifecycle import State

LAUNCHED = datetime(2026, 11, 1, tzinfo=UTC)


def member(instance: str, name: str) -> StoredMember:
    return StoredMember(
        id=instance, server_id=name, name=name, server=f"shop/{name}", address="", zone="a", cloud_id=None,
        state=State.OPERATIONAL, launched=LAUNCHED,
    )  # fmt: skip


def stored(*members: StoredMember) -> StoredGroup:
    group = Group(name="shop", epoch=1, primary="i1", durability="available", initialised=True)
    return StoredGroup(
        deployment_id="1", deployment="shop", version=1, group=group,
        members={each.id: each for each in members}, front_ends={}, others={}, empty=(), asides=(), destroying=False,
        preset="normal",
    )  # fmt: skip


FOUND: dict[str, Any] = {
    "at": "2026-11-22T22:25:03.1+00:00",
    "instances": {"db2": "i2", "db3": "i3"},
    "differences": [
        {"table": "rack.big", "replica": "db2", "from": "'1'", "to": "'9'", "why": "rows with other contents"},
        {"table": "rack.big", "replica": "db2", "from": "'9'", "to": "", "why": "rows with other contents"},
    ],
}


def test_the_replica_and_its_tables_are_named_with_the_command() -> None:
    pages = standing(FOUND, stored(member("i1", "db1"), member("i2", "db2"), member("i3", "db3")))

    assert [page.rule for page in pages] == ["replica differs"]
    assert "db2 differs from the primary in rack.big (found" in pages[0].text
    assert "relaunch db checksum shop --repair" in pages[0].text


def test_a_fresh_replica_differs_no_more() -> None:
    assert standing(FOUND, stored(member("i1", "db1"), member("i9", "db2"))) == ()
    assert standing(None, stored(member("i1", "db1"))) == ()


def test_a_certificate_near_its_end_is_a_page_that_says_what_to_do():
    end = LAUNCHED + timedelta(days=825)
    group = stored(member("i1", "db1"), member("i2", "db2"))

    assert ending_certificates(group, end - timedelta(days=31)) == ()
    first, second = (page.text for page in ending_certificates(group, end - timedelta(days=29)))
    assert (
        "shop/db1 ends on 2029-02-03" in first and "db switchover shop, then relaunch server relaunch shop/db1" in first
    )
    assert "switchover" not in second and "relaunch server relaunch shop/db2" in second
