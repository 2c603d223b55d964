"""A resize ends a replica only while another one is in step, however long that was waited for."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from relaunch.databases import rolling
from relaunch.databases.group import Mode
from relaunch.databases.rolling import order_resize
from relaunch.databases.store import GroupStore
from relaunch.servers.store import new_id
from relaunch.workflows.tasks import Asked

from .resize_scenarios import MEMORY, NAMES, group_applied, is_resized, prepared, resize
from .test_primary_is_spared import stored
from .test_reconcile import eventually
from .world import World

D = "shop"


async def all_in_step(world: World) -> dict[str, str]:
    """A group whose primary is two; instances by name."""
    await group_applied(world, D)
    instances = {name: str(world.instance(f"{D}/{name}")["id"]) for name in NAMES}
    GroupStore(world.ports.database).change(D, sync_set=frozenset(instances.values()), mode=Mode.SYNC)
    return instances


def once_its_image_is_there(world: World, kind: str, **values: Any) -> asyncio.Event:
    """The group changes as the first task of that kind has its image; set once it has."""
    over = asyncio.Event()

    def changes(of: str, task: str, number: int, name: str) -> None:
        if of == kind and name == "resolve inputs and image" and not over.is_set():
            GroupStore(world.ports.database).change(D, **values)
            over.set()

    world.after_effect = changes
    return over


async def ordered(world: World) -> str:
    return str((await order_resize(world.orders, stored(world), memory_bytes=MEMORY, who="ann"))["task"])


async def test_it_waits_when_the_other_one_is_lost_while_the_image_is_baked(world: World) -> None:
    instances = await all_in_step(world)
    both = frozenset({instances["one"], instances["three"]})
    over = once_its_image_is_there(world, "resize", sync_set=frozenset({instances["one"]}))

    task = await ordered(world)
    await asyncio.wait_for(over.wait(), 10)
    await asyncio.sleep(0.7)
    assert world.instance(f"{D}/one")["id"] == instances["one"] and world.state(f"{D}/one") == "operational"
    assert world.workflows.tasks.count(f"{task}-one") == 0

    GroupStore(world.ports.database).change(D, sync_set=both)
    await eventually("it is replaced", lambda: world.workflows.tasks.count(f"{task}-one") == 1, within=5)
    await world.succeeds(f"{task}-one")
    assert world.instance(f"{D}/one")["id"] != instances["one"]
    world.workflows.cancel(task, "ann")


async def test_the_last_one_in_step_is_not_ended_though_that_was_begun(world: World) -> None:
    instances = await all_in_step(world)
    once_its_image_is_there(world, "relaunch", sync_set=frozenset({instances["one"]}))

    row = await world.ended(await ordered(world))

    assert row["state"] == "failed" and f"no other replica of {D} is in step by now" in row["error"]
    assert world.instance(f"{D}/one")["id"] == instances["one"] and world.state(f"{D}/one") == "operational"
    world.check_invariant()


async def test_one_that_never_leads_is_replaced_too_and_does_not_lead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rolling, "IN_STEP_SECONDS", 8.0)
    await prepared(world, D, "four")
    old = world.instance(f"{D}/four")["id"]

    row = await world.ended(await resize(world, D), within=60)

    assert row["state"] == "succeeded", row["error"]
    assert is_resized(world, D) and stored(world).group.primary == world.instance(f"{D}/one")["id"]
    assert world.instance(f"{D}/four")["id"] != old


async def test_one_that_leads_after_a_failover_meanwhile_is_the_last(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rolling, "IN_STEP_SECONDS", 8.0)
    await prepared(world, D)
    store, three = GroupStore(world.ports.database), world.instance(f"{D}/three")["id"]

    def fails_over(kind: str, task: str, number: int, name: str) -> None:
        if kind == "resize" and name == "wait until one is in step":
            store.change(D, primary=three)

    world.after_effect = fails_over
    row = await world.ended(await resize(world, D), within=60)

    assert row["state"] == "succeeded", row["error"]
    assert is_resized(world, D) and stored(world).group.primary == world.instance(f"{D}/one")["id"]


@pytest.mark.parametrize("later", [0.0, 0.7])
async def test_a_failed_primary_is_set_aside_and_what_took_its_place_is_replaced(
    world: World, monkeypatch: pytest.MonkeyPatch, later: float
) -> None:
    """By the watch, at once or a little later."""
    monkeypatch.setattr(rolling, "IN_STEP_SECONDS", 8.0)
    await prepared(world, D)
    store, one, two = (
        GroupStore(world.ports.database),
        world.instance(f"{D}/one")["id"],
        world.instance(f"{D}/two")["id"],
    )
    asked = Asked(kind="replace", title="replace two", subject=f"server:{D}/two", who="relaunch")

    async def replace() -> None:
        await asyncio.sleep(later)
        args = {"server": f"{D}/two", "old": two, "instance": new_id()}
        await world.workflows.start_workflow(asked, "replace-two", args)

    def fails_over(kind: str, task: str, number: int, name: str) -> None:
        if kind == "resize" and name == "wait until three is in step":
            store.change(D, primary=world.instance(f"{D}/one")["id"], fenced=frozenset({two}))
            world.players.append(asyncio.create_task(replace(), context=contextvars.Context()))

    world.after_effect = fails_over
    row = await world.ended(await resize(world, D), within=60)

    assert world.store.instance(two)["state"] == "set_aside"
    assert row["state"] == "succeeded", row["error"]
    assert is_resized(world, D) and world.instance(f"{D}/one")["id"] != one
    world.check_invariant()


async def test_a_fresh_one_that_leads_at_once_need_not_follow(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolling, "IN_STEP_SECONDS", 8.0)
    await prepared(world, D)
    store = GroupStore(world.ports.database)

    def fails_over(kind: str, task: str, number: int, name: str) -> None:
        if kind == "launch" and name == "settle its state" and stored(world).members.keys() >= {fresh("one")}:
            store.change(D, primary=fresh("one"))

    def fresh(name: str) -> str:
        return str(world.store.server(f"{D}/{name}").instance_id)

    before = fresh("one")
    world.after_effect = lambda *said: fails_over(*said) if fresh("one") != before else None
    row = await world.ended(await resize(world, D), within=60)

    assert row["state"] == "succeeded", row["error"]
    assert is_resized(world, D) and stored(world).group.primary == fresh("one")


async def test_a_script_that_runs_on_a_replica_holds_nothing_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolling, "IN_STEP_SECONDS", 8.0)
    await prepared(world, D)
    world.agents.hanging.add("greet")
    runs = await world.orders.run([f"{D}/one"], "greet", {}, who="ann")
    await eventually("it runs", lambda: world.workflows.tasks.running_on(f"server:{D}/one") is not None)

    row = await world.ended(await resize(world, D), within=60)

    assert row["state"] == "succeeded", row["error"]
    assert is_resized(world, D)
    world.workflows.cancel(runs, "ann")
