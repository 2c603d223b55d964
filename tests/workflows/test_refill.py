"""A server of a group that cannot be launched, or not join, is tried again: at once a few times, then now and then."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import update

from relaunch.databases.repair import TRIES, launch_missing, replace_member, retry_unjoined, unlaunched
from relaunch.databases.store import GroupStore
from relaunch.errors import Failed
from relaunch.records.schema import instances

from .scenarios import two_is_primary
from .test_primary_is_spared import D, stored
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


async def tried(world: World, now: datetime, heard: Collection[str] = ()) -> None:
    await retry_unjoined(world.workflows, world.ports, stored(world), heard, now)


def pages(world: World) -> tuple[tuple[str, str], ...]:
    return tuple((page.rule, page.text) for page in unlaunched(world.workflows, stored(world), ()))
