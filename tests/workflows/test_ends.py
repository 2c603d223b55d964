"""What serves nobody is ended, also when the cloud does not answer at that moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from relaunch.databases.store import GroupStore
from relaunch.errors import Unavailable
from relaunch.servers.reconcile import ServerWatch
from relaunch.servers.terminate import end_unless_up

from .scenarios import backed_up, is_proven, prove, prove_schemas, schemas_are_proven, two_is_primary
from .test_reconcile import eventually
from .world import SHOP, World


def no_ending(world: World) -> None:
    for _ in range(50):
        world.cloud.fail_next("terminate", Unavailable("the cloud does not answer"))


async def ended_once_the_cloud_answers(world: World) -> None:
    watch = ServerWatch(world.ports, world.workflows)
    await watch.look()
    assert world.running() != sorted(row["id"] for row in world.store.living_instances())

    world.cloud._fail_next.clear()
    await watch.look()

    world.check_invariant()


@pytest.mark.parametrize(("order", "proven"), [(prove, is_proven), (prove_schemas, schemas_are_proven)])
async def test_a_throw_away_instance_that_cannot_be_ended_is_ended_later_and_the_proof_counts(
    world: World, order: Callable[[World, str], Awaitable[str]], proven: Callable[[World, str], bool]
) -> None:
    await backed_up(world, "rack")
    no_ending(world)

    await world.succeeds(await order(world, "rack"))

    assert proven(world, "rack")
    await ended_once_the_cloud_answers(world)


async def test_a_builder_that_cannot_be_ended_is_ended_later_and_its_image_is_used(world: World) -> None:
    no_ending(world)

    await world.apply()

    assert [row["state"] for row in world.store.images()] == ["ready"]
    await ended_once_the_cloud_answers(world)


async def test_a_launch_that_is_undone_and_cannot_be_ended_is_ended_later_with_its_volume(world: World) -> None:
    with_volume = SHOP.replace("front1: {", "front1: {volume: 2G, ")
    world.agents.hanging.add("configure")
    task = await world.orders.apply(with_volume, who="ann")
    await eventually("its scripts run", lambda: any(name == "configure" for _, name in world.agents.executed), within=3)
    assert world.cloud._volumes
    no_ending(world)

    world.workflows.cancel(task, "ann")

    assert (await world.ended(task))["state"] == "cancelled"
    await eventually("what it began is undone", lambda: world.workflows.tasks.unfinished() == [], within=3)
    assert world.cloud._volumes
    await ended_once_the_cloud_answers(world)


async def test_what_has_come_up_is_not_ended_by_the_undo_of_its_launch(world: World) -> None:
    await world.apply()
    up, booting = (world.instance(f"shop/{name}")["id"] for name in ("front1", "front2"))
    world.store.change_instance(booting, state="booting")

    assert "operational" in await end_unless_up(world.ports, up)
    assert await end_unless_up(world.ports, booting) == "gone"
    assert await end_unless_up(world.ports, "never-was") == "none"

    assert world.running() == [up]
    world.check_invariant()


@pytest.mark.parametrize("name", ["two", "one"])
async def test_nor_is_what_boots_still_and_leads_or_may_acknowledge_by_now(world: World, name: str) -> None:
    await two_is_primary(world, "shop")
    one = world.instance("shop/one")["id"]
    GroupStore(world.ports.database).change("shop", sync_set=frozenset({one}))
    instance = world.instance(f"shop/{name}")["id"]
    world.store.change_instance(instance, state="booting")
    no_ending(world)

    assert await end_unless_up(world.ports, instance) == "kept: it is stranded"

    assert "after it had joined shop" in world.instance(f"shop/{name}")["stranded_why"]
    assert instance in world.running()
    GroupStore(world.ports.database).change("shop", sync_set=frozenset())
    world.store.change_instance(one, state="booting")
    world.cloud._fail_next.clear()
    assert await end_unless_up(world.ports, one) == "gone"
