"""What the keeper begins by itself, and how long the scripts for it are given."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from relaunch.bus.messages import RunScripts, RunState
from relaunch.databases import backup_keeper, backup_pruning, backups_api
from relaunch.databases.backup_keeper import BackupKeeper
from relaunch.databases.backup_key import PRIVATE, PUBLIC, new_identity
from relaunch.databases.backup_members import Members
from relaunch.databases.backups import NEVER_SHIPPED, Proof
from relaunch.databases.store import GroupStore
from relaunch.errors import Conflict, Failed
from relaunch.records.schema import audit, task_steps, tasks
from relaunch.servers import run_list
from relaunch.storage.objects import StoredObject

from .ann import app_of
from .scenarios import (
    BACKED_UP,
    LINEAGE,
    MANIFEST,
    OLDER,
    SCENARIOS,
    backed_up,
    keeper,
    only_the_present_history_is_left,
    with_an_older_history,
)
from .test_reconcile import eventually
from .world import World

THREE = """deployment: shop
servers:
  one: {template: database, zone: a}
  two: {template: database, zone: a}
  three: {template: database, zone: a}
database: {primary: two, replicas: [one, three]}
"""
KEEPS_ONE = """deployment: shop
servers:
  one: {template: database, zone: a}
  two: {template: database, zone: a}
database: {primary: two, replicas: [one], backups: {last: 1, daily: 0, weekly: 0, monthly: 0, yearly: 0}}
"""
STREAM = f"shop/{LINEAGE}/binlogs/0000000001-1-two"


async def proof_and_incremental_due(world: World) -> None:
    """A full backup of either member, twenty minutes old, and none proven."""
    await backed_up(world, "shop")
    for name in ("binlog.000001-00", "binlog.000002-00"):  # the newest is never removed
        await world.ports.objects.put(f"{STREAM}/{name}/begins", "0-1-1")
    at = (world.ports.clock.now() - timedelta(minutes=20)).isoformat()
    for role in ("primary", "replica"):
        told = {**MANIFEST, "id": f"full-{role}", "role": role, "begun": at, "ended": at}
        await world.ports.objects.put(f"shop/{LINEAGE}/backups/full-{role}/manifest.json", json.dumps(told))


def begun(world: World, kind: str) -> list[str]:
    with world.ports.database.connect() as connection:
        return list(connection.scalars(select(tasks.c.id).where(tasks.c.kind == kind)))


async def looked_until(world: World, looker: BackupKeeper, kind: str) -> None:
    """Bounded: until a task of this kind was begun, and then until it has succeeded."""
    for _ in range(200):
        await looker.look("shop")
        if found := begun(world, kind):
            await world.succeeds(found[0])
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"no {kind} was begun")


async def test_backups_are_proven_and_made_although_old_ones_cannot_be_removed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await proof_and_incremental_due(world)
    asked, whole = [], world.ports.objects.list

    async def failing(prefix: str) -> list[StoredObject]:
        if "/binlogs" in prefix:
            asked.append(prefix)
            raise Failed("did not end within 60 s")
        return await whole(prefix)

    monkeypatch.setattr(world.ports.objects, "list", failing)
    looker, why = keeper(world), "old backups could not be removed: did not end within 60 s"

    await looked_until(world, looker, "prove")
    await looked_until(world, looker, "back-up")

    assert len(asked) == 1, "not at every look"
    assert why in (await looker.shown("shop"))["reasons"]

    monkeypatch.setattr(world.ports.objects, "list", whole)
    for _ in range(5):
        await looker.look("shop")
        await asyncio.sleep(0.01)
    assert why in (await looker.shown("shop"))["reasons"], "not before an hour has passed"
    monkeypatch.setattr(backup_pruning, "PRUNE_AFTER", timedelta(0))
    for _ in range(200):
        await looker.look("shop")
        if why not in (await looker.shown("shop"))["reasons"]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it is red still")


async def test_no_look_waits_for_a_long_removal_and_a_proof_begins_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await proof_and_incremental_due(world)
    done, whole = asyncio.Event(), world.ports.objects.list

    async def slow(prefix: str) -> list[StoredObject]:
        if "/binlogs" in prefix:
            await done.wait()
        return await whole(prefix)

    monkeypatch.setattr(world.ports.objects, "list", slow)
    looker = keeper(world)
    for _ in range(5):
        await asyncio.wait_for(looker.look("shop"), 2)
        await asyncio.sleep(0.01)
    assert begun(world, "prove") == []

    done.set()

    await looked_until(world, looker, "prove")
    await looker.stop()


async def test_a_store_with_very_much_in_it_is_looked_at_now_and_then_and_after_each_task(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A year of ten sites would keep the controller at work with nothing else."""
    never = "prove: never, incremental: never, full: never, primary: never, schemas: never, "
    await backed_up(world, "shop", KEEPS_ONE.replace("backups: {", "backups: {" + never))
    listed, whole = [], world.ports.objects.list

    async def counting(prefix: str) -> list[StoredObject]:
        listed.append(prefix)
        return await whole(prefix)

    monkeypatch.setattr(world.ports.objects, "list", counting)
    looker, backups = keeper(world), f"shop/{LINEAGE}/backups"
    monkeypatch.setattr(looker.pruning, "begin", lambda *_: False)

    async def looked() -> int:
        listed.clear()
        for _ in range(3):
            await looker.look("shop")
        return listed.count(backups)

    assert await looked() == 3, "there is little in it"
    monkeypatch.setattr(backup_keeper, "OBJECTS_A_SECOND", 0.01)
    assert await looked() == 1
    assert NEVER_SHIPPED in looker._colours._said["shop"]
    state = {"at": world.ports.clock.now().isoformat(), "gtid": "0-1-1", "server": "shop/two", "stream": "s"}
    await world.ports.objects.put(f"{STREAM}/state.json", json.dumps(state))
    assert await looked() == 0
    assert NEVER_SHIPPED not in looker._colours._said["shop"], "the binary log is asked for each time"

    world.agents.hanging.add("Back up database")
    task = await looker.orders.back_up("shop", kind="full", side="primary", who="ann")
    assert await looked() == 1
    world.workflows.cancel(task, "ann")
    await world.ended(task)
    assert await looked() == 1
    world.agents.hanging.clear()
    world.agents.failing["Back up database"] = 1
    task = await looker.orders.back_up("shop", kind="full", side="primary", who="ann")
    assert (await world.ended(task))["state"] == "failed"
    assert await looked() == 0, "it was over before anybody looked"
    assert any(each.startswith("full backup of shop/two failed") for each in looker._colours._said["shop"])


async def test_a_failed_proof_says_of_which_backup_and_history_it_was(world: World) -> None:
    await backed_up(world, "shop")
    looker = keeper(world)
    await looker.shown("shop")
    world.agents.failing["Restore database"] = 2

    for backup in ("latest", BACKED_UP):
        task = await looker.orders.prove("shop", backup=backup, who="ann")
        assert (await world.ended(task))["state"] == "failed"

    proofs = looker.members.catalogue("shop").proofs()
    assert [(each.backup, each.lineage, each.proven, each.chosen) for each in proofs] == [
        (BACKED_UP, LINEAGE, False, False), (BACKED_UP, LINEAGE, False, True),
    ]  # fmt: skip


async def test_a_schema_that_cannot_be_dumped_keeps_no_other_from_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = "prove: never, incremental: never, full: never, primary: never, "
    await backed_up(world, "shop", KEEPS_ONE.replace("backups: {", "backups: {" + never))
    monkeypatch.setattr(backup_keeper, "AGAIN_AFTER", timedelta(0))
    monkeypatch.setattr(Members, "schemas", lambda *_: ["blog", "shop"])
    looker = keeper(world)  # on servers without the script for it

    for _ in range(200):
        await looker.look("shop")
        titles = {str(world.workflows.tasks.get(each)["title"]) for each in begun(world, "back-up")}
        if len(titles) == 2:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(titles)


async def test_looking_goes_on_after_an_error_of_the_database(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await backed_up(world, "shop")
    looker, looks = keeper(world), []
    deployments = looker._store.deployments

    def failing_once() -> list[dict[str, Any]]:
        if len(looks) == 1:
            looks.append("failed")
            raise OperationalError("SELECT", {}, Exception("unable to open database file"))
        return deployments()

    async def look(deployment: str) -> None:
        looks.append(deployment)

    monkeypatch.setattr(backup_keeper, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(looker._store, "deployments", failing_once)
    monkeypatch.setattr(looker, "look", look)
    looker.start()
    for _ in range(200):
        if len(looks) > 2:
            break
        await asyncio.sleep(0.01)
    await looker.stop()

    assert looks[:3] == ["shop", "failed", "shop"]


async def test_a_look_that_cannot_be_is_red(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the store answers what is no list of its."""
    await backed_up(world, "shop")

    async def no_list(prefix: str) -> Any:
        return json.loads("<html>")

    monkeypatch.setattr(world.ports.objects, "list", no_list)
    monkeypatch.setattr(backup_keeper, "LOOK_SECONDS", 0.01)
    looker = keeper(world)
    looker.start()

    def told() -> bool:
        with world.ports.database.connect() as connection:
            return "cannot be looked at" in str(connection.scalars(select(audit.c.detail)).all())

    await eventually("red", told)
    await looker.stop()


async def test_a_backup_is_of_a_replica_that_applies_else_of_the_primary(world: World) -> None:
    await backed_up(world, "shop")
    await world.apply(THREE)
    world.set_tags("shop/three", database="replica", lineage=LINEAGE)
    one, three = (world.instance(f"shop/{name}")["id"] for name in ("one", "three"))

    async def backed(*stopped: str, side: str | None = None) -> str:
        looker = keeper(world, lambda instance: instance not in stopped)
        task = await looker.orders.back_up("shop", kind="full", side=side, who="relaunch")
        await world.succeeds(task)
        return str(world.workflows.tasks.get(task)["title"]).rpartition("/")[2]

    assert await backed() == await backed(three) == "one"
    assert await backed(one) == await backed(one, side="replica") == "three"
    assert await backed(one, three) == "two"
    assert await backed(one, three, side="replica") == "one", "which says itself why not"


@pytest.mark.parametrize(("applies", "whose"), [(True, "one"), (False, "two")])
async def test_what_is_due_is_made_of_the_primary_while_no_replica_applies(
    world: World, applies: bool, whose: str
) -> None:
    await proof_and_incremental_due(world)
    one = world.instance("shop/one")["id"]
    looker = keeper(world, lambda instance: applies or instance != one)

    await looked_until(world, looker, "back-up")

    (task,) = begun(world, "back-up")
    assert str(world.workflows.tasks.get(task)["title"]).endswith(f"/{whose}")


async def test_a_primary_whose_boot_scripts_gave_up_is_backed_up(world: World) -> None:
    await backed_up(world, "shop")
    for name in ("one", "two"):
        world.store.change_instance(world.instance(f"shop/{name}")["id"], state="stranded", tags={"lineage": LINEAGE})

    task = await keeper(world).orders.back_up("shop", kind="full", side=None, who="ann")

    assert str(world.workflows.tasks.get(task)["title"]).endswith("/two")
    await world.succeeds(task)


@pytest.mark.parametrize("state", ["booting", "operational"])
async def test_backups_are_late_and_red_also_while_the_primary_is_away(world: World, state: str) -> None:
    """It boots for hours, or its agent is broken; the database serves."""
    await backed_up(world, "shop")
    world.store.change_instance(world.instance("shop/two")["id"], state=state)
    if state == "operational":
        world.agents.retired.append(world.instance("shop/two")["id"])

    await keeper(world).look("shop")

    with world.ports.database.connect() as connection:
        (told,) = connection.scalars(select(audit.c.detail).where(audit.c.action == "backups are red"))
    assert any("the next has not happened on time" in each for each in told["reasons"]), told
    assert begun(world, "back-up") == []


async def test_what_a_primary_said_last_is_wrong_until_it_says_something_else(world: World) -> None:
    """Its agent is not heard for a moment, or the controller was just started: nobody is told that it is over."""
    await backed_up(world, "shop")
    two, looker = world.instance("shop/two"), keeper(world)
    world.store.change_instance(two["id"], tags={**two["tags"], "binlogs": "store-down"})
    why = "shop/two: the object store is not reached: binary log waits on this server's disk"

    for away in ([], [two["id"]], []):
        world.agents.retired[:] = away
        await looker.look("shop")

    with world.ports.database.connect() as connection:
        told = list(connection.scalars(select(audit.c.detail).where(audit.c.action.like("backups are %"))))
    assert {why in each["reasons"] for each in told} == {True}


async def test_a_removal_that_somebody_orders_leaves_what_a_backup_under_way_has_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backed_up(world, "shop")
    world.agents.hanging.add("Back up database")
    task = await keeper(world).orders.back_up("shop", kind="full", side="primary", who="ann")
    await world.ports.objects.put(f"shop/{LINEAGE}/backups/half/data", "x")
    later = world.ports.clock.now() + timedelta(days=2)
    monkeypatch.setattr(type(world.ports.clock), "now", lambda _: later)

    removed = await keeper(world).pruning.prune("shop")

    assert removed == []
    world.agents.hanging.clear()
    await world.succeeds(task)
    assert await keeper(world).pruning.prune("shop") == [f"shop/{LINEAGE}/backups/half/data"]


async def test_a_removal_that_somebody_orders_leaves_what_a_backup_under_way_may_build_on(world: World) -> None:
    """After a switchover the former primary builds on what it made long ago."""
    await backed_up(world, "shop", KEEPS_ONE)
    for day in (20, 21):
        told = {**MANIFEST, "id": f"d{day}", "begun": f"2026-11-{day}T12:00:00Z", "ended": f"2026-11-{day}T12:00:01Z"}
        await world.ports.objects.put(f"shop/{LINEAGE}/backups/d{day}/manifest.json", json.dumps(told))
    looker = keeper(world)
    looker.members.catalogue("shop").record_proof("p", Proof(backup=BACKED_UP, at=world.ports.clock.now(), proven=True))
    world.agents.hanging.add("Back up database")
    task = await looker.orders.back_up("shop", kind="incremental", side="replica", who="ann")

    removed = await looker.pruning.prune("shop")

    assert removed == []
    world.agents.hanging.clear()
    await world.succeeds(task)
    assert await looker.pruning.prune("shop") == [f"shop/{LINEAGE}/backups/d{day}/manifest.json" for day in (20, 21)]


async def test_old_backups_are_removed_also_when_only_people_prove(world: World) -> None:
    never = "prove: never, incremental: never, full: never, primary: never, schemas: never, "
    await backed_up(world, "shop", KEEPS_ONE.replace("backups: {", "backups: {" + never))
    told = {**MANIFEST, "id": "d20", "begun": "2026-11-20T12:00:00Z", "ended": "2026-11-20T12:00:01Z"}
    await world.ports.objects.put(f"shop/{LINEAGE}/backups/d20/manifest.json", json.dumps(told))
    looker = keeper(world)
    looker.members.catalogue("shop").record_proof("p", Proof(backup=BACKED_UP, at=world.ports.clock.now(), proven=True))

    await looker.look("shop")
    await eventually("removed", lambda: [each.id for each in looker.members.catalogue("shop").backups()] == [BACKED_UP])
    await looker.stop()


async def test_a_recipient_that_no_key_here_opens_is_red(world: World) -> None:
    await backed_up(world, "shop")
    why = f"{PUBLIC} is not the public half of {PRIVATE}"
    assert not [each for each in (await keeper(world).shown("shop"))["reasons"] if why in each]

    world.vault.known[PUBLIC] = new_identity()[1]

    assert [each for each in (await keeper(world).shown("shop"))["reasons"] if why in each]


async def test_a_newest_backup_that_no_key_here_opens_is_red(world: World) -> None:
    """As after the controller's store was put back from before the key was set."""
    await backed_up(world, "shop")
    former, recipient = new_identity()

    async def sealed() -> list[str]:
        return [each for each in (await keeper(world).shown("shop"))["reasons"] if "opens" in each]

    for id, parent, hour in (("20261122T130000Z-full-two", None, 13), ("20261122T140000Z-incremental-two", 1, 14)):
        told = {
            **MANIFEST, "id": id, "kind": "incremental" if parent else "full", "recipient": recipient,
            "parent": "20261122T130000Z-full-two" if parent else None, "ended": f"2026-11-22T{hour}:00:00Z",
        }  # fmt: skip
        await world.ports.objects.put(f"shop/{LINEAGE}/backups/{id}/manifest.json", json.dumps(told))
        assert await sealed() == [f"20261122T130000Z-full-two is encrypted to {recipient}, which no key here opens"]

    world.vault.known[PRIVATE] += f"\n{former}"

    assert await sealed() == []


async def test_the_key_is_looked_at_once_however_long_a_chain_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be a thousand links, and no failover is meanwhile."""
    await backed_up(world, "shop")
    asked, credential = [], world.vault.credential

    def counted(name: str) -> str:
        asked.append(name)
        return credential(name)

    monkeypatch.setattr(world.vault, "credential", counted)
    counts = []
    for links in (1, 20):
        for each in range(links):
            told = {**MANIFEST, "id": f"i{each}", "kind": "incremental", "ended": f"2026-11-22T13:{each:02}:00Z"}
            told["parent"] = f"i{each - 1}" if each else BACKED_UP
            await world.ports.objects.put(f"shop/{LINEAGE}/backups/i{each}/manifest.json", json.dumps(told))
        asked.clear()
        assert (await keeper(world).shown("shop"))["newest"] == f"i{links - 1}"
        counts.append(len(asked))

    assert counts[0] == counts[1]


async def test_an_older_history_is_forgotten_by_a_task_that_tells_how_far_it_is_and_may_be_ordered_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await with_an_older_history(world, "shop")
    log, again = f"shop/{OLDER}/binlogs/0000000001-1-two/binlog.000002-00", asyncio.Event()
    await world.ports.objects.put(f"{log}/begins", "0-1-9")
    whole = world.ports.objects.list

    async def slow(prefix: str) -> list[StoredObject]:
        if prefix == log:
            await again.wait()
        return await whole(prefix)

    monkeypatch.setattr(world.ports.objects, "list", slow)
    app = app_of(backups_api.router, backups=keeper(world), workflows=world.workflows)
    asked = {"lineage": OLDER, "confirm": OLDER}

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:

        async def pressed() -> httpx.Response:
            return await asyncio.wait_for(client.post("/databases/shop/forget-backups", json=asked), 5)

        answer = await pressed()
        assert answer.status_code == 202
        task = answer.json()["task"]["id"]
        await eventually("told", lambda: detail_of(world, task) == "2 objects are removed")
        refused = await pressed()
        assert (refused.status_code, task in refused.json()["error"]["message"]) == (409, True)
        assert await keeper(world).orders.back_up("shop", kind="full", side="primary", who="ann")
        world.workflows.cancel(task, "ann")
        await world.ended(task)
        again.set()
        task = (await pressed()).json()["task"]["id"]
        await world.succeeds(task)

    assert world.workflows.tasks.get(task)["result"] == {"removed": 1}
    assert only_the_present_history_is_left(world, "shop")


async def test_no_history_is_forgotten_while_nobody_says_which_is_the_present_one(world: World) -> None:
    await with_an_older_history(world, "shop")
    for name in ("one", "two"):
        world.store.change_instance(world.instance(f"shop/{name}")["id"], tags={})

    for lineage in (LINEAGE, OLDER):
        with pytest.raises(Conflict, match="no server of shop has said yet which history"):
            await keeper(world).orders.forget("shop", lineage, who="ann")


def detail_of(world: World, task: str) -> str | None:
    with world.ports.database.connect() as connection:
        return connection.scalar(select(task_steps.c.detail).where(task_steps.c.task_id == task))


@pytest.mark.parametrize("kind", ["back-up", "prove", "prove-schemas", "restore", "restore-schema", "checksum"])
async def test_a_script_that_handles_a_whole_database_has_days(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    given: dict[str, float] = {}
    scenario = SCENARIOS[kind]
    await scenario.prepare(world, "d")
    run = world.agents.run

    async def watched(instance: str, order: RunScripts, *, task: str | None) -> RunState:
        if order.phase == "operational":
            given.update({each.name: each.timeout_seconds for each in order.scripts})
        return await run(instance, order, task=task)

    monkeypatch.setattr(world.agents, "run", watched)

    await world.succeeds(await scenario.start(world, "d"))

    assert given and set(given.values()) == {run_list.LONGEST_SECONDS}
    assert run_list.LONGEST_SECONDS >= 48 * 3600


def inputs_of_scripts(world: World) -> dict[str, dict[str, str]]:
    """What each is given from now on when it is run first."""
    given: dict[str, dict[str, str]] = {}
    run = world.agents.run

    async def watched(instance: str, order: RunScripts, *, task: str | None) -> RunState:
        for script in order.scripts:
            given.setdefault(script.name, script.inputs)
        return await run(instance, order, task=task)

    world.agents.run = watched  # type: ignore[method-assign]
    return given


@pytest.mark.parametrize(
    ("to", "begins_with"),
    [
        ("newest", "20261122T140000Z-full-two"),
        ("time:2026-11-22 14:30:00", "20261122T140000Z-full-two"),
        ("time:2026-11-22 13:30:00", BACKED_UP),
        ("backup", "latest"),  # without binary log an earlier one would be other data
        ("gtid:0-1-5", "latest"),
    ],
)
async def test_a_restore_begins_with_the_newest_backup_whose_chain_is_whole(
    world: World, to: str, begins_with: str
) -> None:
    """The binary log after it holds what the damaged one has more."""
    await backed_up(world, "shop")
    for hour, kind, parent in ((14, "full", None), (15, "incremental", "20261122T143000Z-full-two")):
        id, at = f"20261122T{hour}0000Z-{kind}-two", f"2026-11-22T{hour}:00:00Z"
        told = {**MANIFEST, "id": id, "kind": kind, "parent": parent, "begun": at, "ended": at}
        await world.ports.objects.put(f"shop/{LINEAGE}/backups/{id}/manifest.json", json.dumps(told))
    state = {"at": "2026-11-22T16:00:00Z", "gtid": "0-1-9", "server": "two", "stream": "0000000001-1-two"}
    await world.ports.objects.put(f"{STREAM}/state.json", json.dumps(state))
    given = inputs_of_scripts(world)
    task = await keeper(world).orders.restore("shop", source="", lineage="", backup="latest", to=to, who="ann")

    await world.ended(task)
    assert given["Restore database"]["RESTORE_BACKUP"] == begins_with


async def test_from_another_group_that_runs_its_present_history_is_taken_and_no_older_one(world: World) -> None:
    """It was restored just now: what the older one ends with is what that undid."""
    await backed_up(world, "copy")
    await with_an_older_history(world, "shop")
    await world.ports.objects.delete([f"shop/{LINEAGE}/backups/{BACKED_UP}/manifest.json"])
    await world.ports.objects.put(f"shop/{LINEAGE}/binlogs/0000000001-1-two/began.json", "{}")
    given = inputs_of_scripts(world)
    schema = {"schema": "shop", "name": "", "backup": "latest", "source": "shop", "lineage": "", "confirm": ""}

    with pytest.raises(Conflict, match=f"no backup of shop that can be restored in its history {LINEAGE}"):
        await keeper(world).orders.restore("copy", source="shop", lineage="", backup="latest", to="newest", who="ann")
    task = await keeper(world).orders.restore_schema("copy", **schema, who="ann")

    await world.succeeds(task)
    assert given["Restore one schema"]["RESTORE_LINEAGE"] == LINEAGE


async def test_a_restore_that_is_cancelled_once_the_data_is_another_does_what_that_needs(world: World) -> None:
    await backed_up(world, "d")

    def cancelled(kind: str, task: str, number: int, name: str) -> None:
        if kind == "restore" and name == "put it in place":
            world.workflows.cancel(task, "bob")

    world.after_effect = cancelled
    row = await world.ended(await SCENARIOS["restore"].start(world, "d"))

    stored = GroupStore(world.ports.database).group("d")
    assert row["state"] == "cancelled"
    assert stored is not None and not stored.group.paused
    assert stored.members.keys() - {stored.group.primary} == stored.group.fenced
    assert [name for _, name in world.agents.executed][-1] == "Join database group"
