"""Whoever has become the primary meanwhile is not ended by what was ordered before; what is set aside is."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from relaunch.databases import repair
from relaunch.databases.store import GroupStore, StoredGroup
from relaunch.errors import BadInput, NeedsConfirmation, Unavailable
from relaunch.servers.store import new_id
from relaunch.workflows.tasks import Asked

from .scenarios import started, two_is_primary
from .world import World

D = "shop"


def lead(world: World, name: str) -> None:
    GroupStore(world.ports.database).change(D, primary=world.instance(f"{D}/{name}")["id"])


def stored(world: World) -> StoredGroup:
    found = GroupStore(world.ports.database).group(D)
    assert found is not None
    return found


async def test_a_relaunch_that_waited_for_an_image_does_not_end_who_leads_by_then(world: World) -> None:
    await two_is_primary(world, D)
    old = world.instance(f"{D}/one")["id"]

    def fails_over(kind: str, task: str, number: int, name: str) -> Any:
        if kind == "relaunch" and name == "resolve inputs and image":
            lead(world, "one")

    world.after_effect = fails_over
    row = await world.ended(await world.orders.act(f"{D}/one", "relaunch", who="ann"))

    assert row["state"] == "failed" and "has become the primary of" in row["error"]
    assert world.instance(f"{D}/one")["id"] == old and world.state(f"{D}/one") == "operational"
    world.check_invariant()


async def test_who_leads_is_not_replaced(world: World) -> None:
    await two_is_primary(world, D)
    instance = world.instance(f"{D}/two")["id"]
    asked = Asked(kind="replace", title="replace it", subject=f"server:{D}/two", who="relaunch")

    row = await world.ended(await started(world, asked, {"server": f"{D}/two", "old": instance, "instance": new_id()}))

    assert row["state"] == "failed" and "has become the primary of" in row["error"]
    assert world.instance(f"{D}/two")["id"] == instance and world.state(f"{D}/two") == "operational"


async def test_a_file_without_who_leads_is_refused_whoever_it_says_leads(world: World) -> None:
    await two_is_primary(world, D)
    lead(world, "one")  # the file's primary is two
    file = f"deployment: {D}\nservers:\n  two: {{template: mysql, zone: a}}\ndatabase: {{primary: two}}\n"

    with pytest.raises(BadInput, match=f"server {D}/one is not in the file, and is the primary now"):
        await world.orders.apply(file, who="ann", yes=True)
    with pytest.raises(NeedsConfirmation, match=r"shop/one: .*it is the database primary"):
        await world.orders.destroy(D, who="ann")

    lead(world, "two")
    await world.apply(file, yes=True)
    assert [server.name for server in world.store.servers(D)] == ["two"]


async def test_one_that_becomes_the_primary_while_a_file_without_it_is_applied_stays(world: World) -> None:
    await two_is_primary(world, D)
    file = f"deployment: {D}\nservers:\n  two: {{template: mysql, zone: a}}\ndatabase: {{primary: two}}\n"

    def fails_over(kind: str, task: str, number: int, name: str) -> Any:
        if kind == "apply" and number == 1:
            lead(world, "one")

    world.after_effect = fails_over
    row = await world.ended(await world.orders.apply(file, who="ann", yes=True))

    assert row["state"] == "failed" and "has become the primary of" in row["error"]
    assert world.state(f"{D}/one") == "operational"


async def test_one_that_becomes_the_primary_before_its_end_begins_stays(world: World) -> None:
    await two_is_primary(world, D)

    def fails_over(kind: str, task: str, number: int, name: str) -> Any:
        if kind == "terminate" and number == 1:
            lead(world, "one")

    world.after_effect = fails_over
    row = await world.ended(await world.orders.act(f"{D}/one", "terminate", who="ann"))

    assert row["state"] == "failed" and "has become the primary of" in row["error"]
    assert world.state(f"{D}/one") == "operational"


async def test_what_was_set_aside_and_could_not_be_ended_is_ended_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two_is_primary(world, D)
    instance = world.instance(f"{D}/one")["id"]
    asked = Asked(kind="replace", title="replace it", subject=f"server:{D}/one", who="relaunch")
    await world.succeeds(await started(world, asked, {"server": f"{D}/one", "old": instance, "instance": new_id()}))
    later = world.ports.clock.now() + timedelta(days=2)
    for _ in range(10):
        world.cloud._fail_next.append(("terminate", Unavailable("the cloud does not answer")))

    await repair.end_those_kept_long_enough(world.workflows, stored(world), later)
    assert (await world.ended(f"end-aside-{instance}"))["state"] == "failed"
    assert [aside.id for aside in stored(world).asides] == [instance]
    assert world.store.asides(world.store.server(f"{D}/one").id) == [instance]
    soon = world.ports.clock.now() + timedelta(minutes=5)
    assert repair.next_ending(world.workflows, instance, soon) is None
    world.cloud._fail_next.clear()
    await repair.end_those_kept_long_enough(world.workflows, stored(world), later)

    assert (await world.ended(f"end-aside-{instance}-2"))["state"] == "succeeded"
    assert stored(world).asides == ()
    world.check_invariant()


async def test_what_was_set_aside_is_not_ended_while_it_is_read_and_is_kept_a_day_from_then_on(world: World) -> None:
    await two_is_primary(world, D)
    instance, began = world.instance(f"{D}/one")["id"], world.ports.clock.now()
    later = began + timedelta(days=2)

    async def look(kind: str, task: str, number: int, name: str) -> None:
        if kind == "replace" and name == "end its agent":
            await repair.end_those_kept_long_enough(world.workflows, stored(world), later)  # after a day without us

    world.after_effect = look
    asked = Asked(kind="replace", title="replace it", subject=f"server:{D}/one", who="relaunch")
    await world.succeeds(await started(world, asked, {"server": f"{D}/one", "old": instance, "instance": new_id()}))
    world.after_effect = None
    assert world.workflows.tasks.count(f"end-aside-{instance}") == 0

    reading = Asked(kind="run", title="read it", subject=f"instance:{instance}", who="relaunch")
    world.workflows.tasks.begin("reading", reading)
    await repair.end_those_kept_long_enough(world.workflows, stored(world), later)
    assert world.workflows.tasks.count(f"end-aside-{instance}") == 0
    world.workflows.tasks.end("reading", reading, "succeeded")
    (aside,) = stored(world).asides
    assert aside.until is not None and datetime.fromisoformat(aside.until) >= began + timedelta(days=1)

    await repair.end_those_kept_long_enough(world.workflows, stored(world), later)
    assert (await world.ended(f"end-aside-{instance}"))["state"] == "succeeded"


async def test_it_is_kept_from_when_it_was_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await two_is_primary(world, D)
    instance, clock = world.instance(f"{D}/one")["id"], world.ports.clock
    later = clock.now() + timedelta(days=2)

    async def pass_days(kind: str, task: str, number: int, name: str) -> None:
        if kind == "replace" and name == "wait for that":
            monkeypatch.setattr(type(clock), "now", lambda _: later)

    world.after_effect = pass_days
    asked = Asked(kind="replace", title="replace it", subject=f"server:{D}/one", who="relaunch")
    await world.succeeds(await started(world, asked, {"server": f"{D}/one", "old": instance, "instance": new_id()}))

    (aside,) = stored(world).asides
    assert aside.until is not None and datetime.fromisoformat(aside.until) > later
