"""A replica that differs is taken away only while another one is in step, however long ago that was ordered."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from relaunch.databases import rolling
from relaunch.databases.group import Mode
from relaunch.databases.store import GroupStore
from relaunch.servers.store import new_id
from relaunch.workflows.tasks import Asked

from .scenarios import started
from .world import World

NAMES = ("one", "two", "three")


async def prepared(world: World, durability: str) -> dict[str, str]:
    """A group whose primary is two; instances by name. A comparison will find that one differs."""
    servers = "".join(f"  {name}: {{template: mysql, zone: a}}\n" for name in NAMES)
    database = f"{{primary: two, replicas: [one, three], durability: {durability}}}"
    await world.apply(f"deployment: shop\nservers:\n{servers}database: {database}\n")
    world.store.set_initialised(world.store.server("shop/two").id)
    differs = {"table": "t", "replica": "one", "from": "", "to": "", "why": "rows with other contents"}
    found = {"replicas": ["one", "three"], "tables": [], "differences": [differs], "unchecked": [], "seconds": 1.0}
    world.agents.said = "CHECKSUM " + json.dumps(found)
    instances = {name: str(world.instance(f"shop/{name}")["id"]) for name in NAMES}
    in_step = frozenset({instances["one"], instances["three"]})
    change(world, primary=instances["two"], mode=Mode.SYNC, sync_set=in_step)
    return instances


def change(world: World, **values: Any) -> None:
    GroupStore(world.ports.database).change("shop", **values)


async def ordered(world: World, instances: dict[str, str]) -> str:
    primary = world.instance("shop/two")
    args: dict[str, Any] = {
        "deployment": "shop", "server": "shop/two", "instance": primary["id"], "run_id": f"run-{new_id()}",
        "entry": primary["run_list"]["operational"][0], "repair": True,
        "replicas": [
            {"name": name, "server": f"shop/{name}", "instance": instances[name], "address": "", "fresh": new_id()}
            for name in ("one", "three")
        ],
    }  # fmt: skip
    return await started(world, Asked(kind="checksum", title="compare", subject="database:shop", who="ann"), args)


def once_compared(world: World, **values: Any) -> asyncio.Event:
    """The group changes as the comparison ends; set once it has."""
    over = asyncio.Event()

    def compared(kind: str, task: str, number: int, name: str) -> None:
        if kind == "checksum" and name == "compare":
            change(world, **values)
            over.set()

    world.after_effect = compared
    return over


@pytest.mark.parametrize("durability", ["strict", "available"])
@pytest.mark.parametrize("how", ["lost", "leaving"])
async def test_the_last_one_in_step_stays_until_another_is(world: World, durability: str, how: str) -> None:
    instances = await prepared(world, durability)
    both, three = frozenset({instances["one"], instances["three"]}), frozenset({instances["three"]})
    shrunk = {"sync_set": both - three} if how == "lost" else {"leaving": three}
    over = once_compared(world, **shrunk)

    task = await ordered(world, instances)
    await over.wait()
    await asyncio.sleep(0.7)

    assert world.instance("shop/one")["id"] == instances["one"]
    assert world.workflows.tasks.count(f"{task}-one") == 0

    change(world, sync_set=both, leaving=frozenset())
    await world.succeeds(task)

    assert world.instance("shop/one")["id"] != instances["one"]
    assert world.instance("shop/three")["id"] == instances["three"]


async def test_it_says_why_it_was_not_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    instances = await prepared(world, "strict")
    monkeypatch.setattr(rolling, "IN_STEP_SECONDS", 0.3)
    once_compared(world, sync_set=frozenset({instances["one"]}))

    row = await world.ended(await ordered(world, instances))

    assert row["state"] == "failed" and "no replica but one, which differs, is in step" in row["error"]
    assert world.instance("shop/one")["id"] == instances["one"]
