"""A rotation of passwords leaves nobody behind who was being launched meanwhile."""

from __future__ import annotations

import asyncio
import json

from relaunch.databases.store import GroupStore

from .scenarios import group, refill, rotate, rotated
from .test_reconcile import eventually
from .world import World

D = "shop"


async def prepared(world: World) -> None:
    """A group whose primary is two; its servers are given the app's password."""
    world.vault.known |= {f"{D}-app": "old", f"{D}-replicas": "old"}
    await world.apply(group(D) + f"inputs: {{COLOUR: cred:{D}-app}}\n")
    world.store.set_initialised(world.store.server(f"{D}/two").id)
    GroupStore(world.ports.database).change(D, primary=world.instance(f"{D}/two")["id"])


async def test_one_whose_image_is_still_baked_is_given_the_new_ones(world: World) -> None:
    await prepared(world)
    resolved, baked = asyncio.Event(), asyncio.Event()

    async def bakes(kind: str, task: str, number: int, name: str) -> None:
        if kind == "launch" and name == "resolve inputs and image":
            resolved.set()
            await baked.wait()
        if name == "choose new ones":
            await resolved.wait()

    world.after_effect = bakes
    rotation = await rotate(world, D)
    await world.succeeds(await world.orders.act(f"{D}/one", "set-aside", who="ann"))
    launch = await refill(world, D)
    await asyncio.wait_for(resolved.wait(), 5)
    await asyncio.sleep(0.3)
    baked.set()

    await world.succeeds(launch)
    await world.succeeds(rotation)
    given = json.loads(world.vault.unseal(world.instance(f"{D}/one")["sealed_inputs"]))
    assert given[f"{D}-app"] == world.vault.known[f"{D}-app"] != "old"


async def test_one_that_boots_is_told_once_it_has_booted(world: World) -> None:
    await prepared(world)
    await world.succeeds(await world.orders.act(f"{D}/one", "set-aside", who="ann"))
    world.agents.hanging.add("configure")
    launch = await refill(world, D)
    await eventually("it boots", lambda: world.state(f"{D}/one") == "booting")
    one, reconnected = world.instance(f"{D}/one")["id"], asyncio.Event()
    world.after_effect = lambda kind, task, number, name: (
        reconnected.set() if name == "reconnect the replicas" else None
    )
    rotation = await rotate(world, D)
    await asyncio.wait_for(reconnected.wait(), 5)
    before = told(world, one)
    world.agents.hanging.clear()

    await world.succeeds(launch)
    await world.succeeds(rotation)
    assert before == [] and told(world, one) == ["followagain"]


async def test_an_app_whose_server_boots_is_told_once_it_has_booted(world: World) -> None:
    """Its boot scripts may have been given the old ones."""
    await prepared(world)
    world.agents.hanging.add("configure")
    reboot, one = await world.orders.act(f"{D}/one", "reboot", who="ann"), f"{D}/one"
    await eventually("it boots", lambda: world.state(one) == "booting")
    reached = asyncio.Event()
    world.after_effect = lambda kind, task, number, name: reached.set() if name == "reconnect the replicas" else None
    rotation = await rotate(world, D)
    await asyncio.wait_for(reached.wait(), 5)
    await asyncio.sleep(0.3)
    world.agents.hanging.clear()

    await world.succeeds(reboot)
    await world.succeeds(rotation)
    mine = {run["id"] for run in world.store.runs(instance_id=world.instance(one)["id"])}
    assert any("-app1-" in run and run in mine for run, _ in world.agents.executed)


async def test_one_that_ends_early_says_how_it_is_gone_on_with(world: World) -> None:
    await prepared(world)
    world.agents.failing["greet"] = 1

    failed = await world.ended(await rotate(world, D))

    assert failed["state"] == "failed" and "relaunch db rotate-passwords shop goes on from there" in failed["error"]
    await world.succeeds(await rotate(world, D))
    assert rotated(world, D)


def told(world: World, instance: str) -> list[str]:
    """The steps of a rotation that ran there."""
    return [run.split("-")[-2] for run, name in world.agents.executed if run.endswith(instance) and name == "greet"]
