"""What an old primary alone has is not known when its binary log cannot be read to the end, and that is told."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from relaunch.databases.extra_transactions import extra_pages, last_reading, order_reading
from relaunch.databases.store import GroupStore
from relaunch.errors import Conflict
from relaunch.records.schema import audit

from .scenarios import old_one_aside, read_extra
from .test_primary_is_spared import D, stored
from .world import World

UNREAD = "binlog.000002: ERROR: Could not read entry at offset 4"


async def read(world: World, count: int, unread: str) -> None:
    """A reading of the server set aside that ends with this answer."""
    await old_one_aside(world, D)
    answer = json.dumps({"count": count, "first": [], "last": [], "unread": unread})
    world.agents.says["greet"] = f'POSITIONS {{"positions": "1-1-5/"}}\nEXTRA {answer}'
    await world.succeeds(await read_extra(world, D))


def rules(world: World) -> list[str]:
    return [page.rule for page in extra_pages(world.ports.database, stored(world))]


@pytest.mark.parametrize(
    ("count", "paged"),
    [(0, ["extra transactions unknown"]), (2, ["extra transactions", "extra transactions unknown"])],
)
async def test_a_log_that_was_not_read_to_its_end_is_paged_and_read_on_by_hand_alone(
    world: World, count: int, paged: list[str]
) -> None:
    await read(world, count, UNREAD)

    assert rules(world) == paged
    assert UNREAD in extra_pages(world.ports.database, stored(world))[-1].text
    with world.ports.database.connect() as connection:
        told = [row.detail for row in connection.execute(audit.select()) if row.action == "extra transactions"]
    assert [each["unread"] for each in told] == [UNREAD]

    assert "--again" not in extra_pages(world.ports.database, stored(world))[-1].text

    (aside,) = stored(world).asides
    GroupStore(world.ports.database).set_aside_until(aside.id, datetime(2027, 1, 2, tzinfo=UTC))
    (aside,) = stored(world).asides
    with pytest.raises(Conflict, match="was read already") as refused:
        await order_reading(world.ports, world.workflows, stored(world), aside, who="ann")
    assert "by hand on that server before 2027-01-02" in refused.value.hint
    assert (last_reading(world.ports.database, aside.id) or {})["unread"] == UNREAD


async def test_one_that_was_is_not_read_again(world: World) -> None:
    await read(world, 0, "")

    assert rules(world) == []
    with pytest.raises(Conflict, match="was read already"):
        await order_reading(world.ports, world.workflows, stored(world), stored(world).asides[0], who="ann")
