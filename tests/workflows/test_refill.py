"""A server of a group that cannot be launched, or not join, is tried again: at once a few times, then now and then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
import pytest_asyncio
from sqlalchemy import update

from relaunch.bus.messages import Hello
from relaunch.clouds.cloud import InstanceId
from relaunch.databases.alarm import Alarm
from relaunch.databases.api import show_database
from relaunch.databases.repair import TRIES, launch_missing, replace_member, retry_unjoined, unlaunched
from relaunch.databases.store import GroupStore
from relaunch.databases.watch import DatabaseWatch
from relaunch.errors import Failed
from relaunch.records.schema import instances
from relaunch.servers import boot, reconcile
from relaunch.servers.reconcile import ServerWatch

from .scenarios import two_is_primary
from .test_primary_is_spared import D, stored
from .test_reconcile import eventually
from .world import World


async def test_it_is_never_given_up_and_a_person_is_told(world: World) -> None:
    await two_is_primary(world, D)
    old, now = world.instance(f"{D}/one")["id"], world.ports.clock.now()
    for _ in range(TRIES + 1):
        world.cloud.fail_next("launch", Failed("no capacity"))
    prefix = f"refill-{stored(world).deployment_id}-{D}/one"

    await replace_member(world.workflows, f"{D}/one", old, now)
    assert "no capacity" in (await world.ended(f"replace-{old}-1"))["error"]
    for number in range(1, TRIES + 1):
        assert stored(world).empty == (f"{D}/one",) and unlaunched(world.workflows, stored(world), ()) == ()
        await launch_missing(world.workflows, stored(world), now)
        assert (await world.ended(f"{prefix}-{number}"))["state"] == "failed"

    (page,) = unlaunched(world.workflows, stored(world), ())
    assert page.rule == "not launched" and "no capacity" in page.text and f"{prefix}-{TRIES}" in page.text
    await launch_missing(world.workflows, stored(world), now + timedelta(minutes=1))
    assert len(world.workflows.tasks.tries(prefix)) == TRIES

    await launch_missing(world.workflows, stored(world), now + timedelta(minutes=16))
    assert (await world.ended(f"{prefix}-{TRIES + 1}"))["state"] == "succeeded"
    assert world.state(f"{D}/one") == "operational" and unlaunched(world.workflows, stored(world), ()) == ()


async def test_who_asks_how_the_group_is_is_told_of_it(world: World) -> None:
    await two_is_primary(world, D)
    old, now = world.instance(f"{D}/one")["id"], world.ports.clock.now()
    for _ in range(TRIES + 1):
        world.cloud.fail_next("launch", Failed("no capacity"))
    await replace_member(world.workflows, f"{D}/one", old, now)
    await world.ended(f"replace-{old}-1")
    for number in range(1, TRIES + 1):
        assert "not launched" not in await told_by_status(world)
        await launch_missing(world.workflows, stored(world), now)
        await world.ended(f"refill-{stored(world).deployment_id}-{D}/one-{number}")

    assert "no capacity" in (await told_by_status(world)).get("not launched", "")


async def test_those_that_succeeded_long_ago_do_not_count(world: World) -> None:
    await two_is_primary(world, D)
    now = world.ports.clock.now()
    for number in range(1, 2 * TRIES):
        old = world.instance(f"{D}/one")["id"]
        world.cloud.fail_next("launch", Failed("no capacity"))
        await replace_member(world.workflows, f"{D}/one", old, now)
        await world.ended(f"replace-{old}-1")
        await launch_missing(world.workflows, stored(world), now)

        refilled = await world.ended(f"refill-{stored(world).deployment_id}-{D}/one-{number}")
        assert refilled["state"] == "succeeded"


async def test_one_that_stranded_before_it_joined_is_tried_again_and_told_of(world: World) -> None:
    await two_is_primary(world, D)
    old, now = world.instance(f"{D}/one")["id"], world.ports.clock.now()
    world.agents.failing["announce"] = TRIES + 1
    await replace_member(world.workflows, f"{D}/one", old, now)
    assert (await world.ended(f"replace-{old}-1"))["state"] == "failed"
    fresh = world.instance(f"{D}/one")["id"]
    assert world.state(f"{D}/one") == "stranded"

    for number in range(1, TRIES + 1):
        assert pages(world) == ()
        await tried(world, now)
        assert (await world.ended(f"rejoin-{fresh}-{number}"))["state"] == "failed"
    assert [rule for rule, _ in pages(world)] == ["not joined"] and "is stranded" in pages(world)[0][1]
    await tried(world, now + timedelta(minutes=1))
    assert len(world.workflows.tasks.tries(f"rejoin-{fresh}")) == TRIES

    await tried(world, now + timedelta(minutes=16))
    assert (await world.ended(f"rejoin-{fresh}-{TRIES + 1}"))["state"] == "succeeded"
    assert world.state(f"{D}/one") == "operational" and pages(world) == ()


async def test_one_that_has_joined_or_leads_or_is_not_there_is_left_alone(world: World) -> None:
    await two_is_primary(world, D)
    ids = {name: world.instance(f"{D}/{name}")["id"] for name in ("one", "two")}
    for id in ids.values():
        with world.ports.database.begin() as connection:
            connection.execute(update(instances).where(instances.c.id == id).values(state="stranded"))

    await tried(world, world.ports.clock.now(), heard=[ids["one"]])
    GroupStore(world.ports.database).change(D, sync_set=frozenset({ids["one"]}))
    await tried(world, world.ports.clock.now())

    GroupStore(world.ports.database).change(D, sync_set=frozenset())
    world.agents.silent.add("one")
    await tried(world, world.ports.clock.now())

    assert not any(world.workflows.tasks.tries(f"rejoin-{id}") for id in ids.values())


@pytest_asyncio.fixture
async def watch(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ServerWatch]:
    """In seconds what takes minutes."""
    for module, name, seconds in (
        (boot, "LOOK_AFTER_SECONDS", 0.02),
        (boot, "LOST_SECONDS", 0.5),
        (reconcile, "LOOK_SECONDS", 0.05),
        (reconcile, "SILENT_SECONDS", 0.1),
    ):
        monkeypatch.setattr(module, name, seconds)
    made = ServerWatch(world.ports, world.workflows)
    made.start()
    yield made
    await made.stop()


async def scripts_hang(world: World) -> None:
    def begun() -> bool:
        return any(name == "announce" for _, name in world.agents.executed)

    await eventually("its boot scripts run", begun, within=3)


async def refill_hangs(world: World) -> tuple[str, str]:
    """The task that launches the missing replica, and the instance, whose boot scripts do not end."""
    await two_is_primary(world, D)
    await world.succeeds(await world.orders.act(f"{D}/one", "terminate", who="ann"))
    world.agents.executed.clear()
    world.agents.hanging.add("announce")
    await launch_missing(world.workflows, stored(world), world.ports.clock.now())
    await scripts_hang(world)
    return f"refill-{stored(world).deployment_id}-{D}/one", world.instance(f"{D}/one")["id"]


async def test_a_launch_whose_instance_is_lost_while_it_boots_is_undone_and_tried_again(
    world: World, watch: ServerWatch
) -> None:
    prefix, fresh = await refill_hangs(world)
    cloud_id = world.cloud_id(f"{D}/one")
    for _ in range(2):  # back in time: nothing happens
        await world.cloud.cut_off(cloud_id, True)
        await eventually("it is lost", lambda: fresh in world.ports.lost)
        await world.cloud.cut_off(cloud_id, False)
        await eventually("it is back", lambda: fresh not in world.ports.lost)
    await asyncio.sleep(0.6)
    assert world.workflows.tasks.get(f"{prefix}-1")["state"] == "running", "and connected it may take its time"

    await world.cloud.cut_off(cloud_id, True)

    assert "has been lost for 0 s: its agent is not heard" in (await world.ended(f"{prefix}-1", within=5))["error"]
    assert world.store.instance(fresh)["state"] == "terminated" and stored(world).empty == (f"{D}/one",)
    world.agents.hanging.clear()
    await launch_missing(world.workflows, stored(world), world.ports.clock.now())
    await world.succeeds(f"{prefix}-2")
    world.check_invariant()


@pytest.mark.parametrize("how", ["acknowledges", "leads"])
async def test_what_a_group_needs_by_then_is_kept(world: World, watch: ServerWatch, how: str) -> None:
    """It was ended with all its data."""
    prefix, fresh = await refill_hangs(world)
    needed = {"primary": fresh} if how == "leads" else {"sync_set": frozenset({fresh})}
    GroupStore(world.ports.database).change(D, **needed)

    await world.cloud.cut_off(world.cloud_id(f"{D}/one"), True)

    assert "has been lost" in (await world.ended(f"{prefix}-1", within=5))["error"]
    assert world.state(f"{D}/one") == "stranded" and fresh in world.running()
    assert "broken off after it had joined" in world.instance(f"{D}/one")["stranded_why"]
    world.check_invariant()


async def test_one_that_is_lost_while_it_boots_again_is_stranded_and_can_be_replaced(
    world: World, watch: ServerWatch
) -> None:
    await two_is_primary(world, D)
    old = world.instance(f"{D}/one")
    world.agents.executed.clear()
    world.agents.hanging.add("announce")
    watch.hello(old["id"], Hello(agent_version="1", agent_sha256="", boot_id="boot-9", view_version=0))
    await scripts_hang(world)

    await world.cloud.cut_off(InstanceId(old["cloud_id"]), True)

    assert "has been lost" in (await world.ended(f"reboot-{old['id']}-boot-9", within=5))["error"]
    assert world.state(f"{D}/one") == "stranded"
    world.agents.hanging.clear()
    await replace_member(world.workflows, f"{D}/one", old["id"], world.ports.clock.now())
    await world.succeeds(f"replace-{old['id']}-1")
    assert world.state(f"{D}/one") == "operational" and world.store.instance(old["id"])["state"] == "set_aside"
    world.check_invariant()


async def tried(world: World, now: datetime, heard: Collection[str] = ()) -> None:
    await retry_unjoined(world.workflows, world.ports, stored(world), heard, now)


def pages(world: World) -> tuple[tuple[str, str], ...]:
    return tuple((page.rule, page.text) for page in unlaunched(world.workflows, stored(world), ()))


async def told_by_status(world: World) -> dict[str, str]:
    watch = DatabaseWatch(world.ports, world.workflows, record=lambda *_: None, changed=lambda: None, alarm=Alarm(None))
    state = SimpleNamespace(ports=world.ports, databases=watch)
    shown = await show_database(SimpleNamespace(app=SimpleNamespace(state=state)), D)
    return {page["rule"]: page["text"] for page in shown["pages"]}
