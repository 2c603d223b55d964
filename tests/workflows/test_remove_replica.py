"""A replica is removed only when all that names it names the same one."""

from __future__ import annotations

import pytest

from relaunch.databases.resizing import remove_replica
from relaunch.databases.store import GroupStore, StoredGroup
from relaunch.errors import BadInput, NeedsConfirmation

from .resize_scenarios import group_applied
from .test_primary_is_spared import D, stored
from .world import World


def in_step(world: World, *instances: str) -> StoredGroup:
    GroupStore(world.ports.database).change(D, sync_set=frozenset(instances))
    return stored(world)


async def test_a_confirmation_of_another_server_is_none(world: World) -> None:
    await group_applied(world, D)
    one, three = (str(world.instance(f"{D}/{name}")["id"]) for name in ("one", "three"))

    with pytest.raises(BadInput, match="'three' is not one"):
        await remove_replica(world.orders, in_step(world, one, three), "one", confirm="three", who="ann")
    with pytest.raises(NeedsConfirmation, match="no replica but one is in step"):
        await remove_replica(world.orders, in_step(world, one), "one", confirm="", who="ann")
    assert world.state(f"{D}/one") == "operational"

    answer = await remove_replica(world.orders, in_step(world, one), "one", confirm="one", who="ann")
    await world.succeeds(answer["task"])
    assert [server.name for server in world.store.servers(D)] == ["three", "two"]
