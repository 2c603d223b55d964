"""What serves nobody is ended, also when the cloud does not answer at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from relaunch.clouds.cloud import InstanceId
from relaunch.databases.repair import launch_missing
from relaunch.databases.store import GroupStore
from relaunch.errors import Conflict, Unavailable
from relaunch.servers import reboot
from relaunch.servers.reconcile import ServerWatch
from relaunch.servers.terminate import end_unless_up

from .scenarios import backed_up, is_proven, prove, prove_schemas, schemas_are_proven, two_is_primary
from .test_primary_is_spared import D, stored
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


async def test_what_is_being_ended_joins_no_group_while_the_cloud_takes_its_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would count as gone once that has failed, and acknowledge on."""
    await two_is_primary(world, "shop")
    one = world.instance("shop/one")["id"]
    world.store.change_instance(one, state="booting")
    listed = []

    async def terminate(_: InstanceId) -> None:
        listed.append(one in stored(world).members)
        raise Unavailable("the cloud does not answer")

    assert one in stored(world).members
    monkeypatch.setattr(world.cloud, "terminate", terminate)
    await end_unless_up(world.ports, one)

    assert listed == [False]


async def half_ended(world: World) -> str:
    """The replica shop/one, whose relaunch could not end it; its instance."""
    await two_is_primary(world, D)
    old = world.instance(f"{D}/one")["id"]
    GroupStore(world.ports.database).change(D, sync_set=frozenset({old}))
    no_ending(world)
    row = await world.ended(await world.orders.act(f"{D}/one", "relaunch", who="ann"))
    assert row["state"] == "failed" and "the cloud does not answer" in row["error"]
    assert world.state(f"{D}/one") == "decommissioning"
    return old


async def test_an_end_that_failed_half_way_is_gone_on_with_and_a_member_is_launched_again(world: World) -> None:
    old = await half_ended(world)
    watch = ServerWatch(world.ports, world.workflows)

    await watch.look()
    assert world.store.instance(old)["state"] == "decommissioning", "it runs, and may acknowledge"
    assert old in stored(world).members and stored(world).empty == ()

    world.cloud._fail_next.clear()
    await watch.look()
    assert (world.store.instance(old)["state"], world.store.instance(old)["ended_why"]) == ("terminated", "asked")
    assert old not in world.running() and old not in stored(world).members
    assert stored(world).empty == (f"{D}/one",)
    await launch_missing(world.workflows, stored(world), world.ports.clock.now())
    await world.succeeds(f"refill-{stored(world).deployment_id}-{D}/one-1")
    world.check_invariant()


async def ending(world: World) -> tuple[str, str]:
    """An instance whose decommission scripts run, and the task."""
    await world.apply()
    instance = world.instance("shop/front1")["id"]
    world.agents.hanging.add("leave")
    task = await world.orders.act("shop/front1", "terminate", who="ann")
    await eventually("its scripts run", lambda: any(name == "leave" for _, name in world.agents.executed), within=3)
    return instance, task


async def test_an_end_that_is_under_way_is_left_to_its_task(world: World) -> None:
    instance, task = await ending(world)

    await ServerWatch(world.ports, world.workflows).look()
    assert world.store.instance(instance)["state"] == "decommissioning" and instance in world.running()

    world.agents.hanging.clear()
    await world.succeeds(task)
    world.check_invariant()


def not_back_yet(world: World, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """The agents of these instances are not connected before somebody waits for them."""
    world.agents.silent.update(names)
    wait_connected = world.agents.wait_connected

    async def comes_back(instance: str, *, timeout_seconds: float) -> None:
        await asyncio.sleep(0.05)
        world.agents.silent.clear()
        await wait_connected(instance, timeout_seconds=timeout_seconds)

    monkeypatch.setattr(world.agents, "wait_connected", comes_back)


async def test_scripts_at_the_end_run_through_though_the_controller_starts_anew_before_the_agent_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, task = await ending(world)
    not_back_yet(world, monkeypatch, "front1")
    await world.restart()
    await asyncio.sleep(0.3)
    assert instance in world.running(), "its scripts are not through"

    world.agents.hanging.clear()

    await world.succeeds(task)
    assert world.agents._ended[f"{instance}-down"].state == "succeeded"
    world.check_invariant()


async def test_one_that_is_lost_is_not_waited_for_at_its_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.apply()
    instance = world.instance("shop/front1")["id"]
    not_back_yet(world, monkeypatch, "front1")
    world.ports.lost[instance] = "its agent is not heard"

    await world.succeeds(await world.orders.act("shop/front1", "terminate", who="ann"))

    assert (f"{instance}-down", "leave") not in world.agents.executed
    world.check_invariant()


async def test_boot_scripts_are_stopped_though_the_controller_starts_anew_before_the_agent_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.apply()
    world.agents.executed.clear()
    world.agents.hanging.add("configure")
    task = await world.orders.act("shop/front1", "reboot", who="ann")
    await eventually("they run", lambda: any(name == "configure" for _, name in world.agents.executed), within=3)
    run_id = next(run for run, name in world.agents.executed if name == "configure")
    not_back_yet(world, monkeypatch, "front1")
    await world.end_and_make_anew()
    world.workflows.tasks.ask_cancel(task, "bob")
    await world.workflows.start(world.ports)

    assert (await world.ended(task))["state"] == "cancelled"
    assert world.state("shop/front1") == "stranded" and world.agents._ended[run_id].state == "cancelled"


async def test_an_image_is_baked_though_the_controller_starts_anew_before_the_agent_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = asyncio.Event()

    async def hang(kind: str, task: str, number: int, name: str) -> None:
        if name == "install":
            installed.set()
            await asyncio.Event().wait()

    world.after_effect = hang  # type: ignore[assignment]
    task = await world.orders.apply("deployment: shop\nservers:\n  front1: {template: web, zone: a}\n", who="ann")
    await asyncio.wait_for(installed.wait(), 5)
    world.after_effect = None
    not_back_yet(world, monkeypatch, "bake-web")

    await world.restart()

    await world.succeeds(task)
    world.check_invariant()


async def test_an_end_that_somebody_cancelled_waits_for_the_next_order(world: World) -> None:
    instance, task = await ending(world)
    world.workflows.cancel(task, "ann")
    world.agents.hanging.clear()
    assert (await world.ended(task))["state"] == "cancelled"

    await ServerWatch(world.ports, world.workflows).look()
    assert world.store.instance(instance)["state"] == "decommissioning" and instance in world.running()

    await world.succeeds(await world.orders.act("shop/front1", "terminate", who="ann"))
    world.check_invariant()


async def brought_up_by_a_retry(world: World) -> None:
    world.after_effect = None
    world.agents.executed.clear()
    await world.succeeds(await world.orders.act("shop/front1", "retry", who="ann"))
    assert [name for _, name in world.agents.executed] == ["configure", "announce"]
    assert world.state("shop/front1") == "operational"
    world.check_invariant()


async def test_a_reboot_cancelled_when_services_are_stopped_strands_the_server(world: World) -> None:
    await world.apply()

    def cancel(kind: str, task: str, number: int, name: str) -> None:
        if name == "decommission scripts":
            world.workflows.cancel(task, "bob")

    world.after_effect = cancel
    row = await world.ended(await world.orders.act("shop/front1", "reboot", who="ann"))

    assert row["state"] == "cancelled" and world.cloud.rebooted == ()
    assert world.state("shop/front1") == "stranded"
    assert "its reboot was broken off: cancelled" in world.instance("shop/front1")["stranded_why"]
    await brought_up_by_a_retry(world)


async def test_so_does_one_that_the_cloud_refuses(world: World) -> None:
    await world.apply()
    world.cloud.fail_next("reboot", Conflict("no reboots today"))

    row = await world.ended(await world.orders.act("shop/front1", "reboot", who="ann"))

    assert row["state"] == "failed" and "no reboots today" in row["error"]
    assert "no reboots today" in world.instance("shop/front1")["stranded_why"]
    await brought_up_by_a_retry(world)


async def test_a_retry_then_runs_all_boot_scripts_though_one_had_failed_before(world: World) -> None:
    world.agents.failing["announce"] = 1
    alone = "deployment: shop\nservers:\n  front1: {template: web, zone: a}\n"
    row = await world.ended(await world.orders.apply(alone, who="ann"))
    assert row["state"] == "failed" and world.state("shop/front1") == "stranded"
    await world.succeeds(await world.orders.act("shop/front1", "force-operational", who="ann"))
    world.cloud.fail_next("reboot", Conflict("no reboots today"))

    row = await world.ended(await world.orders.act("shop/front1", "reboot", who="ann"))

    assert row["state"] == "failed" and world.state("shop/front1") == "stranded"
    await brought_up_by_a_retry(world)
    assert rebooted_says_the_last_boot(world) is False


async def test_a_retry_says_it_was_rebooted_once_the_cloud_was_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.apply()
    monkeypatch.setattr(reboot, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(world.cloud, "reboot", nothing_comes_back)

    row = await world.ended(await world.orders.act("shop/front1", "reboot", who="ann"))

    assert row["state"] == "failed" and "did not come back" in row["error"]
    await brought_up_by_a_retry(world)
    assert rebooted_says_the_last_boot(world) is True


async def nothing_comes_back(instance: InstanceId) -> None:
    """A reboot that the cloud takes and that is not heard of."""


def rebooted_says_the_last_boot(world: World) -> bool:
    runs = world.store.runs(instance_id=world.instance("shop/front1")["id"])
    return bool(next(run for run in runs if run["phase"] == "boot")["order"]["reboot"])


async def test_one_whose_services_were_not_stopped_is_left_as_it_is(world: World) -> None:
    await world.apply()
    world.agents.silent.add("front1")
    world.cloud.fail_next("reboot", Conflict("no reboots today"))

    row = await world.ended(await world.orders.act("shop/front1", "reboot", who="ann"))

    assert row["state"] == "failed" and world.state("shop/front1") == "operational"
    world.check_invariant()


async def test_one_whose_agent_does_not_come_back_is_stranded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.apply()
    monkeypatch.setattr(reboot, "CONNECT_SECONDS", 0.3)
    world.agents.silent.add("front1")

    row = await world.ended(await world.orders.act("shop/front1", "reboot", who="ann"))

    assert row["state"] == "failed" and len(world.cloud.rebooted) == 1
    assert "did not come back" in world.instance("shop/front1")["stranded_why"]
