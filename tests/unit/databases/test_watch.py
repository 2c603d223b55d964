"""The watch around the pure decision: what is stored first, what a full disk stops and what not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from looks import DEAF, REFUSED, SYNC, look, member, probe
from sqlalchemy import insert, update
from sqlalchemy.exc import OperationalError

from relaunch.bus.messages import TakeRole, Witnessed
from relaunch.clock import SystemClock
from relaunch.databases.alarm import Alarm
from relaunch.databases.api import Adoption, adopt, shown
from relaunch.databases.group import Mode
from relaunch.databases.looking import Heard
from relaunch.databases.looking import look as looked
from relaunch.databases.store import GroupStore
from relaunch.databases.watch import DatabaseWatch
from relaunch.errors import Conflict, Unavailable
from relaunch.records import schema
from relaunch.records.engine import open_database
from relaunch.servers.deployments import read_deployment
from relaunch.servers.store import Store

FILE = """
deployment: shop
servers:
  front1: {template: front-end, zone: a}
  front2: {template: front-end, zone: a}
  db1: {template: mysql, zone: a}
  db2: {template: mysql, zone: b}
  db3: {template: mysql, zone: a}
database: {primary: db1, replicas: [db2, db3], durability: strict}
"""
FULL = OperationalError("UPDATE", {}, Exception("database or disk is full"))


class Agents:
    """All are there; none answers an order."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, TakeRole]] = []

    def connected(self, instance: str) -> bool:
        return True

    async def take_role(self, instance: str, order: TakeRole) -> Any:
        self.orders.append((instance, order))
        raise Unavailable("no answer")

    async def order(self, instance: str, order: Any, **_: Any) -> Any:
        raise Unavailable("no answer")


class Said(Alarm):
    """Remembers what was said to be wrong at the last look."""

    def look(self, subject, wrong, now, *, stays):
        self.wrong = {subject: dict(wrong)}
        super().look(subject, wrong, now, stays=stays)


@pytest.fixture
def world(tmp_path):
    """A group of s1, s2 and s3 in mode sync, watched; `records` is the audit trail."""
    engine, clock = open_database(f"sqlite:///{tmp_path}/controller.db", program="test"), SystemClock()
    store = Store(engine, clock)
    names = ("db1", "db2", "db3", "front1", "front2")
    ids = dict(zip(names, ("s1", "s2", "s3", "f1", "f2"), strict=True))
    store.put_deployment(read_deployment(FILE), new_id="d", new_server_ids={name: f"v-{name}" for name in names})
    for name, id in ids.items():
        store.add_instance(
            id, server_id=f"v-{name}", purpose="serve", zone="a", image_id="x", run_list={}, sealed_inputs=""
        )
        store.change_instance(id, state="operational", private_address=f"@{id}")
    store.set_initialised("v-db1")
    groups = GroupStore(engine)
    groups.put(groups.group("shop"), SYNC)
    agents, records = Agents(), []
    tasks = SimpleNamespace(unfinished=lambda: [], running_on=lambda _: None, count=lambda _: 0)
    ports = SimpleNamespace(database=engine, clock=clock, steady=clock, agents=agents, switchovers={}, cloud=None)
    alarm = Said(None)
    watch = DatabaseWatch(
        ports,
        SimpleNamespace(tasks=tasks),
        record=lambda *words: records.append(words),
        changed=lambda: None,
        alarm=alarm,
    )
    app = SimpleNamespace(state=SimpleNamespace(ports=ports, databases=watch))
    asks = SimpleNamespace(app=app, state=SimpleNamespace(who="ann"))
    yield SimpleNamespace(
        asks=asks, watch=watch, agents=agents, records=records, groups=groups, alarm=alarm, engine=engine, tasks=tasks
    )
    engine.dispose()


def told(world, seen) -> None:
    """Everybody says what is seen here, and the watch looks once."""

    async def once() -> None:
        world.watch.poke()
        for each in seen.members.values():
            if each.report is not None:
                world.watch.seen(each.id, each.report)
        for each in seen.observers:
            probes = {f"@{id}": probe for id, probe in each.probes.items()}
            world.watch.seen(each.id, Witnessed(probes=probes))
        world.watch._read_again()
        world.watch._look_at("shop")
        await asyncio.sleep(0.01)
        await world.watch.stop()

    asyncio.run(once())


DEAD = look(member("s1", answers=False, trouble="stopped", trouble_seconds=0.5), *DEAF, **REFUSED)


def test_who_applies_nothing_is_known(world):
    told(world, look(member("s1", receiving=False), member("s2", applying=False), member("s3")))

    applies = [world.watch.applies(each) for each in ("s1", "s2", "s3", "unheard")]
    assert applies == [False, False, True, True]


def test_a_failover_is_stored_and_then_ordered(world):
    told(world, DEAD)

    assert world.groups.group("shop").group.change is not None
    assert {instance: order.role for instance, order in world.agents.orders} == {
        "s1": "fenced", "s2": "revoked", "s3": "revoked",
    }  # fmt: skip


@pytest.mark.parametrize(("who", "pages"), [("relaunch", []), ("ann", ["no failover: maintenance"])])
def test_a_reboot_that_nobody_has_ordered_holds_no_failover_up(world, who, pages):
    world.tasks.unfinished = lambda: [{"kind": "reboot", "subject": "server:shop/db1", "who": who}]
    told(world, DEAD)

    assert [page.rule for page in world.watch.decisions["shop"].pages] == pages
    assert (world.groups.group("shop").group.change is None) is bool(pages)


def test_what_the_controllers_full_disk_does_not_store_is_not_ordered_but_told(world, monkeypatch):
    def put(*_: Any) -> None:
        raise FULL

    monkeypatch.setattr(world.watch._store, "put", put)
    told(world, DEAD)

    assert world.agents.orders == []
    assert world.groups.group("shop").group == SYNC
    (page, *_) = world.watch.decisions["shop"].pages
    assert page.rule == "not stored" and "disk is full" in page.text


async def tried_for(world, seconds: float, monkeypatch, fails: Callable[[int], bool]) -> int:
    """How often the slow things of the group are begun while the watch runs so long; which of the tries fail."""
    begun = 0

    async def launch_missing(*_: Any) -> None:
        nonlocal begun
        begun += 1
        if fails(begun):
            raise OperationalError("INSERT", {"task": begun}, Exception("database or disk is full"))

    monkeypatch.setattr("relaunch.databases.watch.launch_missing", launch_missing)
    monkeypatch.setattr("relaunch.databases.watch.CLOUD_SECONDS", 0.1)
    monkeypatch.setattr("relaunch.databases.watch.TIDY_SECONDS", 0.1)
    world.watch.start()
    await asyncio.sleep(seconds)
    await world.watch.stop()
    return begun


async def test_work_that_fails_at_once_is_tried_again_after_a_pause_and_logged_once(world, monkeypatch, caplog):
    begun = await tried_for(world, 0.5, monkeypatch, lambda _: True)

    assert 2 <= begun <= 6
    (said,) = [each.getMessage() for each in caplog.records if "tidy shop" in each.getMessage()]
    assert "database or disk is full" in said


async def test_work_that_fails_again_after_it_went_well_is_logged_again(world, monkeypatch, caplog):
    assert await tried_for(world, 1.0, monkeypatch, lambda begun: begun != 2) > 3

    assert sum("tidy shop" in each.getMessage() for each in caplog.records) == 2


def test_an_audit_trail_that_cannot_be_written_stops_nothing(world):
    def full(*_: Any) -> None:
        raise FULL

    world.watch._record = full
    told(world, DEAD)

    assert {instance for instance, _ in world.agents.orders} == {"s1", "s2", "s3"}


def test_a_page_is_in_the_audit_trail_with_what_was_seen(world):
    told(world, look(member("s1", stall="disk full", write_seconds=60.0)))

    who, _, subject, result, detail = next(each for each in world.records if each[1] == "page")
    assert (who, subject, result) == ("relaunch", "database:shop", "failed")
    assert "disk full" in detail["explained stall"]
    assert detail["seen"]["primary"] == "db1"


async def looked_at(world, *heard: str) -> list[str]:
    """The pages that a look of a watch that goes on writes down, once these have said that all is well."""
    before = len(world.records)
    for id in heard:
        if id.startswith("s"):
            world.watch.seen(id, member(id).report)
        world.watch.seen(id, Witnessed(probes={"@s1": probe()}))
    world.watch._read_again(always=True)
    world.watch._look_at("shop")
    await asyncio.sleep(0)
    return [rule for each in world.records[before:] if each[1] == "page" for rule in each[4] if rule != "seen"]


async def test_a_controller_that_starts_and_is_blind_afterwards_says_so_once_each_time(world):
    """Its own start is none: its agents need a moment to connect."""
    everybody, one = ("s1", "s2", "s3", "f1", "f2"), ("s3",)
    heard = world.watch._heard

    def pass_by(seconds: float) -> None:
        heard.began -= seconds
        for said in (heard.reports, heard.witnessed):
            said.update({id: (word, at - seconds) for id, (word, at) in said.items()})

    assert "controller is blind" not in await looked_at(world)
    assert "controller is blind" not in await looked_at(world, *everybody)
    pass_by(2.0)
    assert "controller is blind" in await looked_at(world, *one), "and not once the 5 s of its start are over"
    assert await looked_at(world, *one) == []
    await looked_at(world, *everybody)
    pass_by(2.0)
    assert "controller is blind" in await looked_at(world, *one)
    await world.watch.stop()


async def test_a_controller_whose_servers_are_all_gone_when_it_starts_says_so_after_a_moment(world):
    assert await looked_at(world) == []
    world.watch._heard.began -= 5.0

    assert await looked_at(world) == ["controller is blind"]
    assert "controller is blind" in world.alarm.wrong["database of shop"]
    await world.watch.stop()


def test_what_a_comparison_found_reaches_the_alarm_until_the_replica_is_replaced(world):
    found = {"differences": [{"replica": "db2", "table": "rack.big"}], "instances": {"db2": "s2"}}
    with world.engine.begin() as connection:
        connection.execute(
            insert(schema.tasks).values(
                id="checksum-1", kind="checksum", title="", subject="database:shop", state="succeeded", who="ann",
                created="2026-11-22T18:00:00", finished="2026-11-22T18:59:59", result=found,
            )
        )  # fmt: skip

    told(world, look())
    told(world, look())

    assert world.alarm.wrong["database of shop"]["replica differs"].startswith("db2 differs from the primary in")

    with world.engine.begin() as connection:
        connection.execute(update(schema.tasks).values(result={**found, "instances": {"db2": "one before"}}))
    told(world, look())
    told(world, look())

    assert "replica differs" not in world.alarm.wrong["database of shop"]


def test_one_that_is_heard_after_it_was_cut_off_is_not_cut_off_any_more(monkeypatch):
    """A person may connect it again."""
    heard, now = Heard(), 100.0
    monkeypatch.setattr("relaunch.databases.looking.time.monotonic", lambda: now)
    heard.cut_off["s1"] = 99.0
    heard.take("s1", member("s1").report)
    assert "s1" in heard.cut_off, "it was on its way"

    now = 102.0
    heard.take("s1", member("s1").report)

    assert "s1" not in heard.cut_off


def test_what_somebody_else_has_stored_meanwhile_is_read_before_the_store_is_called_older(world):
    told(world, look())
    later = replace(SYNC, epoch=7)
    world.groups.put(world.groups.group("shop"), later)
    everybody = look(*(member(id, epoch=7) for id in ("s1", "s2", "s3")))
    world.watch._stale = False
    world.watch.poke = lambda: None  # nobody says that it has changed

    told(world, everybody)

    assert world.watch.decisions["shop"].rule == "healthy"
    assert world.groups.group("shop").group == later


def test_a_person_says_who_leads_when_the_store_is_older_and_one_server_is_gone(world):
    leads = member("s2", epoch=9, role="primary", read_only=False, source="", required=True, acknowledgers=["@s3"])
    told(world, look(member("s1", unheard=True), leads, member("s3", epoch=9, source="@s2")))
    assert world.watch.decisions["shop"].rule == "the store is older"
    assert world.agents.orders == [] and world.groups.group("shop").group == SYNC

    with pytest.raises(Conflict, match="db1 does not answer"):
        asyncio.run(adopt(world.asks, "shop", Adoption(primary="db1", reason="a snapshot")))
    asyncio.run(adopt(world.asks, "shop", Adoption(primary="db2", reason="a snapshot")))

    group = world.groups.group("shop").group
    assert (group.primary, group.epoch, group.reason) == ("s2", 10, "ann: a snapshot")
    assert (group.fenced, group.sync_set, group.mode) == ({"s1"}, {"s3"}, Mode.BLOCKED)


def test_a_store_that_is_not_older_is_not_adopted(world):
    told(world, look())

    with pytest.raises(Conflict, match="nothing is to be adopted"):
        asyncio.run(adopt(world.asks, "shop", Adoption(primary="db2", reason="to see")))


def test_a_server_that_is_not_heard_is_not_shown_as_it_was(world):
    seen = look(member("s1", age=41.0, connected=False), member("s2", age=1.4), member("s3", unheard=True))
    watch = SimpleNamespace(seen_now=lambda _: seen, decisions={})

    members = shown(watch, world.groups.group("shop"))["members"]

    assert [each["state"] for each in members] == ["not heard for 41 s", "follows", "not heard"]
    assert members[0]["executed"] == "7", "what it had is still what is known"


def test_how_long_one_answers_begins_anew_after_it_did_not_or_was_not_heard(monkeypatch):
    heard, now = Heard(), 100.0
    monkeypatch.setattr("relaunch.databases.looking.time.monotonic", lambda: now)

    def since(moment: float, **said) -> float | None:
        nonlocal now
        now = moment
        heard.take("s1", member("s1", **said).report)
        return heard.answering.get("s1")

    assert [since(moment) for moment in (100.0, 101.5, 103.0)] == [100.0, 100.0, 100.0]
    assert since(104.0, answers=False) is None
    assert [since(moment) for moment in (104.5, 106.0)] == [104.5, 104.5]
    assert since(109.0) == 109.0


def test_how_long_an_agent_is_away_counts_from_when_it_is_seen_to_be(world):
    heard, stored = Heard(), world.groups.group("shop")
    heard.began -= 36_000.0

    def away(*gone: str) -> dict[str, int]:
        connected = {id: id not in gone for id in stored.members}
        seen = looked(stored, heard, now=0.0, connected=connected, maintenance=False, wanted_primary=None)
        return {id: round(each.away_seconds) for id, each in seen.members.items()}

    assert away("s3") == {"s1": 0, "s2": 0, "s3": 0}
    heard.away["s3"] -= 100.0
    assert away("s2", "s3") == {"s1": 0, "s2": 0, "s3": 100}
    assert away() == away("s2", "s3") == {"s1": 0, "s2": 0, "s3": 0}, "it was back"

    heard.forget({"s1", "s2"})
    assert heard.away.keys() == {"s2"}
