"""The resize's scenario: a group of three, and somebody who plays the watch for it."""

from __future__ import annotations

import asyncio
import contextlib

from relaunch.databases.group import Mode
from relaunch.databases.rolling import order_resize
from relaunch.databases.store import GroupStore
from relaunch.errors import Conflict

from .world import World

NAMES = ("one", "two", "three")
MEMORY = 2 << 30
WATCH_SECONDS, LOOK_SECONDS = 90.0, 0.1


async def group_applied(world: World, d: str, *never: str) -> None:
    """A group of three with data, whose primary is two, and of replicas that never lead, named first."""
    servers = "".join(f"  {name}: {{template: mysql, zone: a}}\n" for name in (*NAMES, *never))
    replicas = ", ".join((*never, "one", "three"))
    database = f"{{primary: two, replicas: [{replicas}], never_primary: [{', '.join(never)}]}}"
    await world.apply(f"deployment: {d}\nservers:\n{servers}database: {database}\n")
    world.store.set_initialised(world.store.server(f"{d}/two").id)
    GroupStore(world.ports.database).change(d, primary=world.instance(f"{d}/two")["id"])


async def prepared(world: World, d: str, *never: str) -> None:
    await group_applied(world, d, *never)
    world.vault.known[f"{d}-instances"] = " ".join(ids(world, d))
    world.players.append(asyncio.create_task(plays_the_watch(world, d)))
    await asyncio.sleep(LOOK_SECONDS * 2)


def ids(world: World, d: str) -> list[str]:
    return [world.store.server(f"{d}/{name}").instance_id or "" for name in NAMES]


async def plays_the_watch(world: World, d: str) -> None:
    """Every server there is follows at once, and whoever is asked to leads. Who never leads is not in step."""
    for _ in range(int(WATCH_SECONDS / LOOK_SECONDS)):
        await asyncio.sleep(LOOK_SECONDS)
        with contextlib.suppress(Exception):  # the world may be about to be killed, or to begin again
            store = GroupStore(world.ports.database)
            stored = store.group(d)
            asked = world.ports.switchovers.get(d)
            if stored is None:
                return
            members = frozenset(
                id
                for id, member in stored.members.items()
                if world.store.instance(id)["operational"] and not member.never_leads and id not in stored.group.fenced
            )
            wanted = {"sync_set": members, "mode": Mode.SYNC}
            if asked is not None:
                asked.begun, wanted["primary"] = True, asked.to
            if any(getattr(stored.group, name) != value for name, value in wanted.items()):
                store.change(d, **wanted)


async def resize(world: World, d: str) -> str:
    if is_resized(world, d):
        raise Conflict("it is done")
    for _ in range(100):
        stored = GroupStore(world.ports.database).group(d)
        assert stored is not None
        if len(stored.in_step) == len(NAMES) - 1:
            break
        await asyncio.sleep(LOOK_SECONDS)
    return str((await order_resize(world.orders, stored, memory_bytes=MEMORY, who="ann"))["task"])


def is_resized(world: World, d: str) -> bool:
    stored = GroupStore(world.ports.database).group(d)
    spec = world.orders.store.applied_spec(d)
    assert stored is not None and spec is not None
    fresh = not set(ids(world, d)) & set(world.vault.known[f"{d}-instances"].split())
    leads = stored.members.get(stored.group.primary or "")
    sized = all(server.memory_bytes == MEMORY for server in spec.servers)
    return fresh and sized and leads is not None and all(world.state(f"{d}/{name}") == "operational" for name in NAMES)
