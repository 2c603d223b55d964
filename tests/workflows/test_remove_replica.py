"""A replica is removed only when all that names it names the same one."""

from __future__ import annotations

import pytest

from relaunch.databases.group import Mode
from relaunch.databases.resizing import remove_replica
from relaunch.databases.rolling import order_resize
from relaunch.databases.store import GroupStore, StoredGroup
from relaunch.errors import BadInput, Conflict, NeedsConfirmation, NotFound

from .resize_scenarios import MEMORY, group_applied
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


async def test_who_is_gone_does_not_stand_in(world: World) -> None:
    """It is in the sync set until the watch has seen that it surely acknowledges no more."""
    await group_applied(world, D)
    one, three = (str(world.instance(f"{D}/{name}")["id"]) for name in ("one", "three"))
    await world.succeeds(
        (await remove_replica(world.orders, in_step(world, one, three), "one", confirm="", who="ann"))["task"]
    )

    assert stored(world).group.sync_set == {one, three}
    with pytest.raises(NeedsConfirmation, match="no replica but three is in step"):
        await remove_replica(world.orders, stored(world), "three", confirm="", who="ann")
    with pytest.raises(Conflict, match="fewer than two replicas"):
        await order_resize(world.orders, stored(world), memory_bytes=MEMORY, who="ann")
    GroupStore(world.ports.database).change(D, mode=Mode.SYNC)
    assert world.store.group_that_cannot_spare(three) == D, "the last look, right before an end"
    assert world.state(f"{D}/three") == "operational"


async def test_nor_does_one_that_the_file_has_no_more(world: World) -> None:
    await group_applied(world, D)
    one, three = (str(world.instance(f"{D}/{name}")["id"]) for name in ("one", "three"))

    def cancel(kind: str, task: str, number: int, name: str) -> None:
        if kind == "apply":
            world.workflows.cancel(task, "bob")

    world.after_effect = cancel
    removal = await remove_replica(world.orders, in_step(world, one, three), "one", confirm="", who="ann")
    assert (await world.ended(removal["task"]))["state"] == "cancelled"
    world.after_effect = None

    assert stored(world).in_step == {one, three}
    with pytest.raises(NeedsConfirmation, match="no replica but three is in step"):
        await remove_replica(world.orders, stored(world), "three", confirm="", who="ann")


async def test_nor_does_one_that_is_told_to_acknowledge_no_more(world: World) -> None:
    await group_applied(world, D)
    one, three = (str(world.instance(f"{D}/{name}")["id"]) for name in ("one", "three"))
    GroupStore(world.ports.database).change(D, leaving=frozenset({one}))

    with pytest.raises(NeedsConfirmation, match="no replica but three is in step"):
        await remove_replica(world.orders, in_step(world, one, three), "three", confirm="", who="ann")


async def test_a_removal_that_was_broken_off_is_gone_on_with(world: World) -> None:
    """By a failover, which let it lead for a while."""
    await group_applied(world, D)
    one, two, three = (str(world.instance(f"{D}/{name}")["id"]) for name in ("one", "two", "three"))

    def fails_over(kind: str, task: str, number: int, name: str) -> None:
        if kind == "apply" and number == 1:
            GroupStore(world.ports.database).change(D, primary=one, sync_set=frozenset({two, three}))

    world.after_effect = fails_over
    world.store.set_initialised(world.store.server(f"{D}/two").id)
    removal = await remove_replica(world.orders, in_step(world, one, three), "one", confirm="", who="ann")
    assert (await world.ended(removal["task"]))["state"] == "failed"
    world.after_effect = None

    with pytest.raises(Conflict, match="one is the primary"):
        await remove_replica(world.orders, stored(world), "one", confirm="", who="ann")
    GroupStore(world.ports.database).change(D, primary=two, sync_set=frozenset({one, three}))
    again = await remove_replica(world.orders, stored(world), "one", confirm="", who="ann")

    await world.succeeds(again["task"])
    assert [server.name for server in world.store.servers(D)] == ["three", "two"] and again["changes"] == ""
    with pytest.raises(NotFound, match="has no server one"):
        await remove_replica(world.orders, stored(world), "one", confirm="", who="ann")
