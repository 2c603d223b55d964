"""What is not begun beside what: each order in turn, while a task of each kind is under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import pytest_asyncio

from relaunch.bus.messages import DatabaseReport
from relaunch.databases import api, backups_api, buttons_api, imports_api, imports_steps
from relaunch.databases.alarm import Alarm
from relaunch.databases.backup_catalogue import Catalogue
from relaunch.databases.group import Mode
from relaunch.databases.store import GroupStore
from relaunch.databases.watch import DatabaseWatch
from relaunch.errors import Conflict
from relaunch.workflows.tasks import Asked

from .ann import app_of
from .import_scenarios import know_the_source
from .import_scenarios import prepared as imports_prepared
from .scenarios import LINEAGE, OLDER, keeper, with_an_older_history
from .world import World

FILE = """deployment: shop
servers:
  one: {template: database, zone: a}
  two: {template: database, zone: a}
  three: {template: database, zone: a}
  front: {template: web, zone: a}
database: {primary: two, replicas: [one, three]}
"""
NEW_FRONT = FILE.replace("database: {p", "  front2: {template: web, zone: a}\ndatabase: {p")
NEW_REPLICA = FILE.replace("database: {p", "  four: {template: database, zone: a}\ndatabase: {p").replace(
    "three]", "three, four]"
)


@dataclass
class Stand:
    """`begun`: the tasks that were begun, none of which is carried out. `heard`: all members say that they are well."""

    world: World
    client: httpx.AsyncClient
    begun: list[str]
    heard: Callable[[], None]

    async def post(self, what: str, **asked: Any) -> None:
        self.heard()
        answer = await self.client.post(f"/databases/shop/{what}", json=asked)
        if answer.status_code == 409:
            raise Conflict(answer.json()["error"]["message"])
        assert answer.status_code == 202, answer.text


def act(server: str, action: str) -> Callable[[Stand], Awaitable[Any]]:
    return lambda stand: stand.world.orders.act(f"shop/{server}", action, who="ann")


def apply(file: str) -> Callable[[Stand], Awaitable[Any]]:
    return lambda stand: stand.world.orders.apply(file, who="ann")


def post(what: str, **asked: Any) -> Callable[[Stand], Awaitable[Any]]:
    return lambda stand: stand.post(what, **asked)


async def import_server(stand: Stand) -> None:
    imports_steps.forget(stand.world.ports, "shop")
    await stand.post("import/server", server="db.example", user="m", password="p", schemas=["shop"])


def followed(what: str) -> Callable[[Stand], Awaitable[Any]]:
    async def order(stand: Stand) -> None:
        know_the_source(stand.world, "shop")
        await stand.post(what)

    return order


ORDERS: dict[str, Callable[[Stand], Awaitable[Any]]] = {
    "reboot the primary": act("two", "reboot"),
    "relaunch a replica": act("one", "relaunch"),
    "relaunch a front end": act("front", "relaunch"),
    "set a replica aside": act("one", "set-aside"),
    "power the primary off": act("two", "power-off"),
    "apply the same file": apply(FILE),
    "apply one more front end": apply(NEW_FRONT),
    "apply one more replica": apply(NEW_REPLICA),
    "destroy": lambda stand: stand.world.orders.destroy("shop", who="ann", yes=True),
    "back up": post("backup"),
    "prove": post("prove"),
    "restore": post("restore", confirm="shop"),
    "restore a snapshot": post("restore", confirm="shop", snapshot="latest"),
    "restore a schema": post("restore-schema", of="shop"),
    "forget a history": post("forget-backups", lineage=OLDER, confirm=OLDER),
    "import a dump": post("import/dump", sha256="0" * 64),
    "import from a server": import_server,
    "cut over": followed("import/cut-over"),
    "cancel an import": followed("import/cancel"),
    "rotate passwords": post("rotate-passwords"),
    "checksum": post("checksum"),
    "resize": post("resize", memory_bytes=2 << 30),
    "switch over": post("switchover", to="one"),
    "promote": post("promote", to="one"),
    "promote by force": post("promote", to="one", force="one", reason="a test"),
}
APPLIES = {"apply the same file", "apply one more front end", "apply one more replica", "destroy"}
RESTORES = {"restore", "restore a snapshot"}
IMPORTS = {"import a dump", "import from a server", "cut over"}
MOVES = {"switch over", "promote"}
SERVERS = {"reboot the primary", "relaunch a replica", "relaunch a front end"}
MEMBERS = {"reboot the primary", "relaunch a replica", "apply one more replica", "destroy"}
LONG = {"rotate passwords", "resize"}

# Kind and subject of what is under way, and the orders that it refuses; every other one is accepted.
UNDER_WAY: dict[tuple[str, str], set[str]] = {
    ("run", "server:shop/two"): set(),
    ("back-up", "backups:shop"): RESTORES | {"back up", "prove", "restore a schema"},
    ("prove", "backups:shop"): RESTORES | {"back up", "prove", "restore a schema"},
    ("prove-schemas", "backups:shop"): RESTORES | {"back up", "prove", "restore a schema"},
    ("restore", "backups:shop"): MEMBERS | RESTORES | IMPORTS | MOVES | LONG
    | {"back up", "prove", "restore a schema", "forget a history", "cancel an import", "checksum"},
    ("restore-schema", "backups:shop"): RESTORES | IMPORTS | MOVES
    | {"reboot the primary", "destroy", "back up", "prove", "restore a schema", "forget a history", "cancel an import",
       "resize"},
    ("forget-backups", f"backups:shop/{OLDER}"): RESTORES | {"restore a schema", "forget a history"},
    ("import-dump", "import:shop"): RESTORES | IMPORTS | MOVES | LONG
    | {"reboot the primary", "destroy", "restore a schema"},
    ("import-server", "import:shop"): RESTORES | IMPORTS | MOVES | LONG
    | {"reboot the primary", "destroy", "restore a schema"},
    ("import-cut-over", "import:shop"): RESTORES | IMPORTS | MOVES | LONG
    | {"reboot the primary", "destroy", "restore a schema"},
    ("rotate-passwords", "database:shop"): MEMBERS | SERVERS | RESTORES | IMPORTS | MOVES | LONG
    | {"apply one more front end", "checksum"},
    ("checksum", "database:shop"): RESTORES | MOVES | LONG | {"checksum"},
    ("switchover", "database:shop"): RESTORES | IMPORTS | MOVES | LONG | {"restore a schema", "checksum"},
    ("switchover", "switchover:shop"): RESTORES | IMPORTS | MOVES | LONG | {"restore a schema", "checksum"},
    ("resize", "database:shop"): MEMBERS | RESTORES | IMPORTS | MOVES | LONG | {"restore a schema", "checksum"},
    ("apply", "deployment:shop"): APPLIES | SERVERS | RESTORES | LONG
    | {"set a replica aside", "power the primary off"},
    ("destroy", "deployment:shop"): APPLIES | SERVERS | RESTORES | IMPORTS | LONG
    | {"set a replica aside", "power the primary off", "restore a schema"},
    ("retry", "server:shop/two"): APPLIES | RESTORES | IMPORTS | LONG
    | {"reboot the primary", "power the primary off", "restore a schema"},
    ("replace", "server:shop/three"): APPLIES | RESTORES | LONG,
    ("relaunch", "server:shop/one"): APPLIES | RESTORES | LONG | {"relaunch a replica", "set a replica aside"},
    ("relaunch", "server:shop/front"): APPLIES | LONG | {"relaunch a front end"},  # a resize changes the file
    ("restore", "backups:other"): set(),
    ("apply", "deployment:other"): set(),
    ("relaunch", "server:other/two"): set(),
}  # fmt: skip


@pytest_asyncio.fixture
async def stand(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stand]:
    """A group of three and a front end, where everything may be ordered."""
    await with_an_older_history(world, "shop", FILE)
    folder = world.folder / "templates/database"
    for file, name in (("passwords", "Change passwords"), ("checksum", "Checksum database")):
        (folder / f"scripts/{file}.sh").write_text(
            f"#!/bin/sh\n# ---\n# RightScript Name: {name}\n# Inputs: {{}}\n# ...\n"
        )
    described = (folder / "database.yml").read_text()
    more = "Operational: [scripts/passwords.sh, scripts/checksum.sh, "
    (folder / "database.yml").write_text(described.replace("Operational: [", more))
    imports_prepared(world, "shop")
    world.set_tags("shop/three", database="replica", lineage=LINEAGE)
    primary = world.instance("shop/two")
    inputs = [
        {"name": name, "shown": f"cred:{name}", "decided": True} for name in ("DB_PASSWORD", "REPLICATION_PASSWORD")
    ]
    world.store.change_instance(primary["id"], run_list={**primary["run_list"], "inputs": inputs})
    members = {name: world.instance(f"shop/{name}")["id"] for name in ("one", "two", "three")}
    replicas = frozenset({members["one"], members["three"]})
    GroupStore(world.ports.database).change("shop", sync_set=replicas, mode=Mode.SYNC)
    watch = DatabaseWatch(world.ports, world.workflows, record=lambda *_: None, changed=lambda: None, alarm=Alarm(None))

    def heard() -> None:
        for name, id in members.items():
            says: dict[str, Any] = {"role": "primary", "read_only": False} if name == "two" else {
                "role": "replica", "read_only": True, "source": primary["private_address"], "receiving": True,
                "applying": True, "acknowledging": True, "lag_seconds": 0.0, "received_seconds": 0.1,
            }  # fmt: skip
            watch.seen(id, DatabaseReport(dialect="mariadb", epoch=1, answers=True, started="1", **says))

    begun: list[str] = []

    async def begin_alone(asked: Asked, task: str, args: dict[str, Any]) -> None:
        begun.append(task)
        world.workflows.tasks.begin(task, asked)
        world.workflows.tasks.end(task, asked, "succeeded")

    monkeypatch.setattr(world.workflows, "start_workflow", begin_alone)
    app = app_of(
        api.router, backups_api.router, buttons_api.router, imports_api.router, ports=world.ports,
        workflows=world.workflows, orders=world.orders, backups=keeper(world), databases=watch,
        blobs=SimpleNamespace(path=lambda sha256: None, remove=lambda sha256: None),
    )  # fmt: skip
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield Stand(world, client, begun, heard)


async def test_what_is_refused_beside_what(stand: Stand) -> None:
    tasks = stand.world.workflows.tasks
    found: dict[tuple[str, str], set[str]] = {}
    for number, (kind, subject) in enumerate(UNDER_WAY):
        running, asked = f"{kind}-under-way-{number}", Asked(kind=kind, title="busy", subject=subject, who="bob")
        tasks.begin(running, asked)
        refused = found[kind, subject] = set()
        for name, order in ORDERS.items():
            if name == "cancel an import" and subject == "import:shop":
                continue  # it is what ends that one
            before = len(stand.begun)
            try:
                await order(stand)
            except Conflict as error:
                assert f"task {running} is under way: busy" in error.message, (kind, name, error)
                refused.add(name)
            assert (len(stand.begun) == before) == (name in refused), (kind, name)
        tasks.end(running, asked, "succeeded")

    assert found == UNDER_WAY


async def test_a_refusal_says_how_to_cancel_the_other(stand: Stand) -> None:
    asked = Asked(kind="restore", title="restore shop/two to newest", subject="backups:shop", who="bob")
    stand.world.workflows.tasks.begin("restore-1", asked)

    with pytest.raises(Conflict) as raised:
        await stand.world.orders.act("shop/two", "reboot", who="ann")

    assert raised.value.message == "task restore-1 is under way: restore shop/two to newest"
    assert "relaunch task cancel restore-1" in raised.value.hint


async def test_a_restore_that_looks_at_the_store_while_another_task_begins_is_refused(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, goes_on = asyncio.Event(), asyncio.Event()
    lineages = Catalogue.lineages

    async def hanging(catalogue: Catalogue) -> tuple[str, ...]:
        asked.set()
        await goes_on.wait()
        return await lineages(catalogue)

    monkeypatch.setattr(Catalogue, "lineages", hanging)
    restoring = asyncio.create_task(ORDERS["restore"](stand))
    await asyncio.wait_for(asked.wait(), 10)
    rotation = Asked(kind="rotate-passwords", title="new passwords", subject="database:shop", who="bob")
    stand.world.workflows.tasks.begin("rotate-passwords-1", rotation)
    goes_on.set()

    with pytest.raises(Conflict, match="task rotate-passwords-1 is under way"):
        await restoring
    assert stand.begun == []


async def test_a_resize_is_not_refused_by_the_file_that_it_applies_itself(stand: Stand) -> None:
    tasks, begin = stand.world.workflows.tasks, stand.world.workflows.start_workflow

    async def apply_goes_on(asked: Asked, task: str, args: dict[str, Any]) -> None:
        if asked.kind != "apply":
            await begin(asked, task, args)
            return
        tasks.begin(task, asked)
        child = Asked(kind="launch", title="launch", subject="server:shop/three", who="ann", parent=task)
        tasks.begin(f"{task}-three", child)

    stand.world.workflows.start_workflow = apply_goes_on  # type: ignore[method-assign]

    await ORDERS["resize"](stand)

    assert [task.partition("-")[0] for task in stand.begun] == ["resize"]
