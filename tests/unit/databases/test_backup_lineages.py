"""Histories of data under one name stay apart; red backups reach a person once, and their end too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, insert, select, update
from sqlalchemy.engine import Engine

from relaunch.clock import Clock, SetClock
from relaunch.controller.pager import Pager
from relaunch.databases import backup_catalogue
from relaunch.databases.alarm import Alarm
from relaunch.databases.backup_catalogue import LINEAGE, Catalogue
from relaunch.databases.backup_colour import Colours, alarms_of_tags
from relaunch.databases.backup_schemas import due_schema
from relaunch.databases.backups import Known, Proof, Retention, Schedule, begun, of_lineage, status, to_go
from relaunch.errors import Failed, NotFound
from relaunch.records.schema import audit, backups, metadata, tasks
from relaunch.storage.memory import MemoryStore
from relaunch.storage.objects import StoredObject

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
OLD, NEW = "20261101T000000Z-aaaaaa", "20261120T000000Z-bbbbbb"
STREAM = "0000000001-1-db1"
OPEN = "0000000003-3-db1"


@pytest.fixture
def database() -> Iterator[Engine]:
    made = create_engine("sqlite://")
    metadata.create_all(made)
    yield made
    made.dispose()


def manifest(id: str, day: int) -> str:
    return json.dumps(
        {
            "id": id, "kind": "full", "parent": None, "server": "db1", "role": "primary", "gtid": "0-1-1",
            "begun": f"2026-11-{day:02}T11:00:00Z", "ended": f"2026-11-{day:02}T11:01:00Z", "stored_bytes": 3,
            "data_bytes": 9, "recipient": "age1", "objects": [],
        }
    )  # fmt: skip


async def two_histories(database: Engine) -> tuple[MemoryStore, Catalogue]:
    store = MemoryStore(SetClock(NOW))
    for day in (2, 3, 4):
        await store.put(f"shop/{OLD}/backups/o{day}/manifest.json", manifest(f"o{day}", day))
    await store.put(f"shop/{NEW}/backups/n21/manifest.json", manifest("n21", 21))
    for lineage, gtid in ((OLD, "0-1-99"), (NEW, "0-1-5")):
        state = {"at": "2026-11-22T11:59:59Z", "gtid": gtid, "server": "db1", "stream": STREAM}
        await store.put(f"shop/{lineage}/binlogs/{STREAM}/state.json", json.dumps(state))
        await store.put(f"shop/{lineage}/binlogs/{STREAM}/binlog.000001-00/000-100.binlog.zst.age", "x")
    return store, Catalogue(database, store, "shop")


async def test_each_history_has_its_own_backups_and_binary_logs(database: Engine) -> None:
    _, catalogue = await two_histories(database)

    await catalogue.refresh(await catalogue.lineages())

    assert await catalogue.lineages() == (OLD, NEW)
    new, old = await catalogue.known(NEW, NOW), await catalogue.known(OLD, NOW)
    assert ([each.id for each in new.backups], [each.id for each in old.backups]) == (["n21"], ["o2", "o3", "o4"])
    assert new.shipping is not None and old.shipping is not None
    assert (new.shipping.gtid, old.shipping.gtid) == ("0-1-5", "0-1-99")


async def test_a_look_at_a_store_that_has_not_changed_writes_nothing_and_reads_what_is_known_once(
    database: Engine,
) -> None:
    """Within a year there are some seven thousand backups of a deployment, and it is looked at all the time."""
    store, catalogue = await two_histories(database)
    await catalogue.refresh((OLD, NEW))
    said: list[str] = []
    event.listen(database, "before_cursor_execute", lambda *args: said.append(args[2]))

    await catalogue.refresh((NEW,))
    assert {each.split()[0] for each in said} == {"SELECT"}

    said.clear()
    await catalogue.known(NEW, NOW)
    assert sum("FROM backups" in each for each in said) == 1
    assert sum("FROM backup_proofs" in each for each in said) == 1

    await store.put(f"shop/{NEW}/backups/n22/manifest.json", manifest("n22", 22))
    said.clear()
    await catalogue.refresh((NEW,))
    assert [each.split()[0] for each in said if not each.startswith("SELECT")] == ["INSERT"]


async def test_the_sums_of_its_tables_are_not_kept_of_a_manifest(database: Engine) -> None:
    store, catalogue = await two_histories(database)
    key, told = f"shop/{NEW}/backups/n22/manifest.json", json.loads(manifest("n22", 22))
    sums = {"gtid": "0-1-5", "tables": [{"schema": "shop", "table": "orders", "rows": 1, "sum": "1"}] * 70}
    await store.put(key, json.dumps({**told, "check": sums}))
    await catalogue.refresh((NEW,))
    kept = catalogue.manifest("n22")
    assert kept == {**told, "lineage": NEW, "stored": NOW.isoformat()}

    with database.begin() as connection:  # as an earlier version has kept it
        mine = backups.c.id == "n22"
        connection.execute(update(backups).where(mine).values(manifest={**kept, "check": sums}))
    await catalogue.refresh((NEW,))
    assert catalogue.manifest("n22") == kept


async def test_looking_at_one_history_does_not_forget_the_other(database: Engine) -> None:
    store, catalogue = await two_histories(database)
    await catalogue.refresh((OLD, NEW))
    await store.delete([f"shop/{NEW}/backups/n21/manifest.json"])

    await catalogue.refresh((NEW,))

    assert [each.id for each in catalogue.backups()] == ["o2", "o3", "o4"]


def of_schema(id: str, schema: str) -> str:
    return json.dumps({**json.loads(manifest(id, 21)), "kind": "schema", "schema": schema})


async def test_a_schema_may_be_called_as_a_folder_of_the_store(database: Engine) -> None:
    store, catalogue = await two_histories(database)
    for schema in ("backups", "schemas", "shop"):
        await store.put(f"shop/{NEW}/schemas/{schema}/s21/manifest.json", of_schema("s21", schema))

    stored = await catalogue.refresh((NEW,))

    known = await catalogue.known(NEW, NOW)
    assert [each.id for each in known.backups] == ["n21"]
    assert sorted((each.schema, each.id) for each in known.schemas) == [
        ("backups", "s21"), ("schemas", "s21"), ("shop", "s21"),
    ]  # fmt: skip
    schedule = Schedule(schemas=timedelta(days=7))
    assert [due_schema(known, (each,), schedule, NOW) for each in ("backups", "other")] == [None, "other"]
    gone = [each for each in known.schemas if each.schema == "backups"]
    assert await catalogue.remove(NEW, gone, stored, NOW) == [f"shop/{NEW}/schemas/backups/s21/manifest.json"]


class LateStore(MemoryStore):
    """Lists an object before it gives it: the next `away` times that one is asked for there is none."""

    away = 0

    async def get(self, key: str) -> str:
        if self.away:
            self.away -= 1
            raise NotFound(f"no object {key}")
        return await super().get(key)


async def test_a_manifest_that_was_not_found_once_is_read_at_the_next_look(database: Engine) -> None:
    store = LateStore(SetClock(NOW))
    await store.put(f"shop/{NEW}/backups/n21/manifest.json", manifest("n21", 21))
    catalogue = Catalogue(database, store, "shop")
    store.away = 1

    await catalogue.refresh((NEW,))
    assert catalogue.backups() == ()
    await catalogue.refresh((NEW,))

    assert [each.id for each in catalogue.backups()] == ["n21"]


class ManyStore(MemoryStore):
    """Remembers how many were asked for at a time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.asked: list[int] = []

    async def texts(self, keys: Sequence[str]) -> dict[str, str]:
        self.asked.append(len(keys))
        return await super().texts(keys)


async def test_a_new_controller_reads_hundreds_of_manifests_at_once(database: Engine) -> None:
    store = ManyStore(SetClock(NOW))
    for number in range(300):
        await store.put(f"shop/{NEW}/backups/n{number}/manifest.json", manifest(f"n{number}", 21))
    catalogue = Catalogue(database, store, "shop")

    await catalogue.refresh((NEW,))

    assert len(catalogue.backups()) == 300
    assert sorted(store.asked) == [0, 300]


async def test_a_manifest_that_could_not_be_read_is_read_again(database: Engine) -> None:
    """As by an older program."""
    store = MemoryStore(SetClock(NOW))
    catalogue = Catalogue(database, store, "shop")
    await store.put(f"shop/{NEW}/backups/n20/manifest.json", manifest("n20", 20))
    await store.put(f"shop/{NEW}/backups/n21/manifest.json", "{")
    for _ in range(2):
        await catalogue.refresh((NEW,))
        assert [each.id for each in catalogue.backups()] == ["n20"]
    await store.put(f"shop/{NEW}/backups/n21/manifest.json", manifest("n21", 21))

    await catalogue.refresh((NEW,))

    assert [each.id for each in catalogue.backups()] == ["n20", "n21"]


@pytest.mark.parametrize(
    "damaged",
    [
        "{",
        "[]",
        *(json.dumps({**json.loads(manifest("n21", 21)), **each}) for each in ({"objects": [{}]}, {"begun": None})),
    ],
)
async def test_a_manifest_that_cannot_be_read_is_red(database: Engine, damaged: str) -> None:
    store, catalogue = await two_histories(database)
    for name in ("backups/n20", "schemas/blog/s20"):
        await store.put(f"shop/{NEW}/{name}/manifest.json", damaged)

    await catalogue.refresh((OLD, NEW))

    new, old = await catalogue.known(NEW, NOW), await catalogue.known(OLD, NOW)
    assert "the manifest of blog/s20, n20 cannot be read" in status(new, Schedule(), NOW).reasons
    assert [each.id for each in new.backups] == ["n21"]
    assert not [each for each in status(old, Schedule(), NOW).reasons if "cannot be read" in each]


@pytest.mark.parametrize(
    "damaged", ["", "{}", "[]", '{"at": "", "gtid": "", "server": "", "stream": ""}', '{"at": null}']
)
async def test_what_a_stream_says_of_itself_may_be_damaged(database: Engine, damaged: str) -> None:
    store, catalogue = await two_histories(database)
    await store.put(f"shop/{NEW}/binlogs/{OPEN}/state.json", damaged)
    await catalogue.refresh((NEW,))

    shipping = (await catalogue.known(NEW, NOW)).shipping

    assert shipping is not None and shipping.gtid == "0-1-5", "what the one before said"


class CutStore(MemoryStore):
    """Its lists lack these keys, which it gives; the list of the very folder they lie in lacks none."""

    cut: tuple[str, ...] = ()

    async def list(self, prefix: str) -> list[StoredObject]:
        every = await super().list(prefix)
        return [each for each in every if each.key not in self.cut or each.key.rpartition("/")[0] == prefix]


async def cut_history(database: Engine) -> tuple[CutStore, Catalogue]:
    """Of three days a backup and the binary log of before."""
    store = CutStore(clock := SetClock(NOW))
    for day in (18, 19, 20):
        clock.at = datetime(2026, 11, day, 9, tzinfo=UTC)
        await store.put(f"shop/{OLD}/binlogs/{STREAM}/binlog.{day:06}-00/000-100.binlog.zst.age", "x")
        told = {**json.loads(manifest(f"o{day}", day)), "objects": [{"name": "data", "size_bytes": 3, "sha256": ""}]}
        await store.put(f"shop/{OLD}/backups/o{day}/data", "xyz")
        await store.put(f"shop/{OLD}/backups/o{day}/manifest.json", json.dumps(told))
    return store, Catalogue(database, store, "shop")


@pytest.mark.parametrize("day", [18, 19, 20])
async def test_a_list_that_lacks_a_backup_which_is_there_is_not_believed(database: Engine, day: int) -> None:
    store, catalogue = await cut_history(database)
    await catalogue.refresh((OLD,))
    store.cut = (f"shop/{OLD}/backups/o{day}/data", f"shop/{OLD}/backups/o{day}/manifest.json")

    with pytest.raises(Failed, match=f"lists no shop/{OLD}/backups/o{day}/manifest.json, which is there"):
        await catalogue.refresh((OLD,))

    assert [each.id for each in catalogue.backups()] == ["o18", "o19", "o20"]


async def test_a_backup_that_ends_while_the_store_is_listed_is_none_that_a_list_lacks(
    database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own task has looked at the store again by then."""
    store, catalogue = await cut_history(database)
    await catalogue.refresh((OLD,))
    whole, ended = store.list, []

    async def slow(prefix: str) -> list[StoredObject]:
        found = await whole(prefix)
        if not ended:
            ended.append(prefix)
            await store.put(f"shop/{OLD}/backups/o21/manifest.json", manifest("o21", 21))
            await catalogue.refresh((OLD,))
        return found

    monkeypatch.setattr(store, "list", slow)
    await catalogue.refresh((OLD,))

    await catalogue.refresh((OLD,))
    assert [each.id for each in catalogue.backups()] == ["o18", "o19", "o20", "o21"]


async def test_an_object_that_a_list_lacks_is_looked_for_once_more(database: Engine) -> None:
    store, catalogue = await cut_history(database)
    await catalogue.refresh((OLD,))
    store.cut = (f"shop/{OLD}/backups/o18/data",)
    await catalogue.refresh((OLD,))
    assert [each.fault for each in catalogue.backups()] == ["", "", ""]

    await store.delete([f"shop/{OLD}/backups/o18/data"])
    await catalogue.refresh((OLD,))

    assert [each.fault for each in catalogue.backups()] == ["object data is missing", "", ""]


async def test_nothing_is_removed_by_a_list_that_lacks_a_manifest_which_is_there(database: Engine) -> None:
    """Of a controller that knows of nothing yet."""
    store, catalogue = await cut_history(database)
    store.cut = (f"shop/{OLD}/backups/o18/manifest.json",)
    await store.put(f"shop/{OLD}/backups/half/data", "x")
    stored, every = await catalogue.refresh((OLD,)), await MemoryStore.list(store, "shop")

    with pytest.raises(Failed, match="which is there"):
        await catalogue.remove(OLD, (), stored, NOW + timedelta(days=2))

    assert await MemoryStore.list(store, "shop") == every


async def test_what_is_removed_from_one_history_leaves_the_other(database: Engine) -> None:
    _, catalogue = await two_histories(database)
    stored = await catalogue.refresh((OLD, NEW))
    gone = [each for each in catalogue.backups() if each.id in ("o2", "o3")]

    removed = await catalogue.remove(OLD, gone, stored, NOW)

    assert sorted(removed) == [f"shop/{OLD}/backups/{id}/manifest.json" for id in ("o2", "o3")]
    await catalogue.refresh((OLD, NEW))
    assert {each.id for each in catalogue.backups()} == {"o4", "n21"}
    assert all(each.startswith(f"shop/{OLD}/") for each in await catalogue.forget(OLD))
    assert await catalogue.lineages() == (NEW,)


class AskedStore(MemoryStore):
    """Remembers what it was asked to list."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.listed: list[str] = []

    async def list(self, prefix: str) -> list[StoredObject]:
        self.listed.append(prefix)
        return await super().list(prefix)


async def long_history(database: Engine) -> tuple[AskedStore, Catalogue]:
    """Twenty days of binary log, one file a day in two streams, and a backup of each of the last two days."""
    clock = SetClock(NOW)
    store = AskedStore(clock)
    for day in range(1, 21):
        stream = "0000000001-1-db1" if day <= 10 else "0000000002-2-db2"
        folder = f"shop/{OLD}/binlogs/{stream}"
        for hour, piece in ((1, "begins"), (2, "000-100.binlog.zst.age"), (23, "100-200.binlog.zst.age")):
            clock.at = datetime(2026, 11, day, hour, tzinfo=UTC)
            await store.put(f"{folder}/binlog.{day:06}-00/{piece}", "x")
        await store.put(f"{folder}/state.json", "{}")
    clock.at = NOW
    for day in (18, 19):
        await store.put(f"shop/{OLD}/backups/o{day}/manifest.json", manifest(f"o{day}", day))
    return store, Catalogue(database, store, "shop")


def files_of(keys: Iterable[str]) -> set[str]:
    return {key.split("/")[4].partition("-")[0] for key in keys if key.count("/") == 5}


async def test_old_binary_logs_go_and_only_what_may_go_is_looked_into(database: Engine) -> None:
    store, catalogue = await long_history(database)
    stored = await catalogue.refresh((OLD,))
    store.listed.clear()

    removed = await catalogue.remove(OLD, (), stored, NOW)

    assert files_of(removed) == {f"binlog.{day:06}" for day in range(1, 18)}  # the 18th's last piece is of 23:00
    assert len(removed) == 17 * 3
    assert sorted(each.rpartition("/")[2][:13] for each in store.listed) == [f"binlog.{day:06}" for day in range(1, 19)]
    left = await store.list(f"shop/{OLD}/binlogs")
    assert files_of(each.key for each in left) == {f"binlog.{day:06}" for day in (18, 19, 20)}
    assert sum(each.key.endswith("/state.json") for each in left) == 2


async def test_the_file_that_is_still_written_stays_though_nothing_was_written_for_long(database: Engine) -> None:
    store = MemoryStore(clock := SetClock(NOW - timedelta(days=30)))
    for stream, file in (("0000000001-1-db1", 1), ("0000000001-1-db1", 2), ("0000000002-2-db2", 1), (OPEN, 1)):
        for name in ("begins", "000-100.binlog.zst.age"):
            await store.put(f"shop/{OLD}/binlogs/{stream}/binlog.{file:06}-00/{name}", "x")
    clock.at = NOW
    await store.put(f"shop/{OLD}/backups/o21/manifest.json", manifest("o21", 21))
    catalogue = Catalogue(database, store, "shop")
    stored = await catalogue.refresh((OLD,))

    removed = await catalogue.remove(OLD, (), stored, NOW)

    assert len(removed) == 6
    left = {each.key.rpartition("/")[2] for each in await store.list(f"shop/{OLD}/binlogs/{OPEN}/binlog.000001-00")}
    assert left == {"begins", "000-100.binlog.zst.age"}


async def test_a_file_that_a_late_replicas_backup_needs_stays(database: Engine) -> None:
    store = MemoryStore(clock := SetClock(NOW))
    begun = datetime(2026, 11, 19, 11, tzinfo=UTC)
    for number, before in ((1, timedelta(hours=2)), (2, timedelta(minutes=2)), (3, -timedelta(minutes=5))):
        clock.at = begun - before
        await store.put(f"shop/{OLD}/binlogs/{STREAM}/binlog.{number:06}-00/000-100.binlog.zst.age", "x")
    await store.put(f"shop/{OLD}/backups/o19/manifest.json", manifest("o19", 19))
    catalogue = Catalogue(database, store, "shop")
    stored = await catalogue.refresh((OLD,))

    assert files_of(await catalogue.remove(OLD, (), stored, NOW)) == {"binlog.000001"}


async def test_a_file_that_the_backup_of_a_server_with_a_clock_ahead_needs_stays(database: Engine) -> None:
    begun = datetime(2026, 11, 19, 11, tzinfo=UTC) - timedelta(hours=3)  # of what that server says
    store = MemoryStore(clock := SetClock(begun + timedelta(minutes=1)))
    await store.put(f"shop/{OLD}/backups/o19/manifest.json", manifest("o19", 19))
    for number, before in ((1, timedelta(hours=2)), (2, -timedelta(minutes=5)), (3, -timedelta(hours=4))):
        clock.at = begun - before
        await store.put(f"shop/{OLD}/binlogs/{STREAM}/binlog.{number:06}-00/000-100.binlog.zst.age", "x")
    catalogue = Catalogue(database, store, "shop")
    stored = await catalogue.refresh((OLD,))

    assert files_of(await catalogue.remove(OLD, (), stored, NOW)) == {"binlog.000001"}


async def test_what_there_is_no_time_for_goes_the_next_time(database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_catalogue, "LOGS_SECONDS", 0.0)
    _, catalogue = await long_history(database)
    stored = await catalogue.refresh((OLD,))

    removed = [await catalogue.remove(OLD, (), stored, NOW) for _ in range(18)]

    assert [files_of(each) for each in removed] == [*({f"binlog.{day:06}"} for day in range(1, 18)), set()]


async def test_a_history_is_forgotten_without_a_list_of_all_its_binary_log(database: Engine) -> None:
    store, catalogue = await long_history(database)
    store.listed.clear()

    removed = await catalogue.forget(OLD)

    assert len(removed) == len(set(removed)) == 20 * 3 + 2 + 2
    assert await store.list("shop") == []
    assert f"shop/{OLD}/binlogs" not in store.listed
    assert store.listed.index(f"shop/{OLD}") > 20, "only when its binary log was gone"


async def test_what_a_backup_under_way_has_stored_is_not_abandoned(database: Engine) -> None:
    store = MemoryStore(clock := SetClock(NOW - timedelta(days=2)))
    await store.put(f"shop/{OLD}/backups/half/data", "x")
    catalogue = Catalogue(database, store, "shop")
    clock.at = NOW
    stored = await catalogue.refresh((OLD,))

    assert await catalogue.remove(OLD, (), stored, NOW - timedelta(days=2, hours=1)) == []
    assert await catalogue.remove(OLD, (), stored, NOW) == [f"shop/{OLD}/backups/half/data"]


async def test_the_last_proven_chain_of_an_older_history_stays(database: Engine) -> None:
    _, catalogue = await two_histories(database)
    await catalogue.refresh((OLD, NEW))
    catalogue.record_proof("p1", Proof(backup="o3", at=NOW - timedelta(days=18), proven=True))
    catalogue.record_proof("p2", Proof(backup="n21", at=NOW, proven=True))
    least = Retention(last=0, daily=0, weekly=0, monthly=0, yearly=0)
    theirs = [each for each in catalogue.backups() if each.lineage == OLD]

    gone = to_go(theirs, catalogue.proofs(), least, NOW)

    assert [each.id for each in gone] == ["o2"]


def test_a_proof_of_another_history_says_nothing_of_this_one() -> None:
    failed_before = Proof(backup="latest", at=begun(NEW) - timedelta(hours=1), proven=False, why="old")
    failed_since = Proof(backup="latest", at=begun(NEW) + timedelta(hours=1), proven=False, why="new")

    assert of_lineage(Known(backups=(), proofs=(failed_before, failed_since)), NEW).proofs == (failed_since,)
    assert LINEAGE.fullmatch(NEW) and begun(NEW) == datetime(2026, 11, 20, tzinfo=UTC)
    assert begun("") == datetime.fromtimestamp(0, UTC)


async def test_a_proof_of_a_history_that_is_forgotten_says_nothing_of_the_present_one(database: Engine) -> None:
    _, catalogue = await two_histories(database)
    await catalogue.refresh((OLD, NEW))
    for id, backup, lineage in (("p1", "o3", OLD), ("p2", "n21", NEW), ("p3", "latest", OLD)):
        proof = Proof(backup=backup, at=NOW, proven=backup != "latest", lineage=lineage)
        catalogue.record_proof(id, proof)

    await catalogue.forget(OLD)

    assert [each.backup for each in (await catalogue.known(NEW, NOW)).proofs] == ["n21"]
    assert [each.backup for each in (await catalogue.known(OLD, NOW)).proofs] == ["o3", "latest"]


async def test_what_fails_in_a_history_that_began_under_a_clock_ahead_is_red(database: Engine) -> None:
    ahead = "20270101T000000Z-cccccc"
    catalogue = Catalogue(database, MemoryStore(SetClock(NOW)), "shop")
    catalogue.record_proof("p1", Proof(backup="latest", at=NOW, proven=False, why="x", lineage=ahead))
    row = {
        "id": "t1",
        "kind": "back-up",
        "title": "t1",
        "subject": "backups:shop",
        "state": "failed",
        "who": "relaunch",
    }
    with database.begin() as connection:
        connection.execute(insert(tasks).values(**row, created=NOW.isoformat(timespec="microseconds"), error="no room"))

    known = await catalogue.known(ahead, NOW)

    assert known.failed == (("t1", "no room"),)
    assert "the proof of latest failed: x" in status(known, Schedule(), NOW).reasons


async def test_an_attempt_that_a_wrong_clock_puts_after_now_hides_no_later_failure(database: Engine) -> None:
    _, catalogue = await two_histories(database)
    for id, state, created in (
        ("t1", "succeeded", NOW - timedelta(hours=1)),
        ("t2", "failed", NOW - timedelta(minutes=1)),
        ("t3", "succeeded", NOW + timedelta(days=365)),
    ):
        row = {"id": id, "kind": "back-up", "title": id, "subject": "backups:shop", "state": state, "who": "relaunch"}
        with database.begin() as connection:
            connection.execute(
                insert(tasks).values(**row, created=created.isoformat(timespec="microseconds"), error="no room\nmore")
            )

    assert (await catalogue.known(NEW, NOW)).failed == (("t2", "no room"),)


async def test_a_person_is_told_of_what_stays_red_but_not_of_what_was_never_there_yet(database: Engine) -> None:
    told: list[tuple[str, str, tuple[str, ...]]] = []

    async def tell(subject: str, state: str, reasons: tuple[str, ...]) -> None:
        told.append((subject, state, reasons))

    clock, alarm = SetClock(NOW), Alarm(tell)
    colours = Colours(database, clock, alarm)
    for minutes in (0, 1, 2, 3):
        clock.at = NOW + timedelta(minutes=minutes)
        colours.say("shop", ("never", "a"), hushed=("never",))
    colours.say("shop", ("never",), hushed=("never",))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(alarm.tell_for_ever(), 0.02)

    assert told == [("backups of shop", "alert", ("a",)), ("backups of shop", "over", ("a",))]


async def test_a_person_is_told_though_the_clock_was_set_back_meanwhile(database: Engine) -> None:
    """As on a machine that boots a year ahead, until it asks for the time."""
    told: list[tuple[str, str, tuple[str, ...]]] = []

    async def tell(subject: str, state: str, reasons: tuple[str, ...]) -> None:
        told.append((subject, state, reasons))

    clock, alarm = SetClock(NOW + timedelta(days=365)), Alarm(tell)
    colours = Colours(database, clock, alarm)
    colours.say("shop", ("a",))
    for minutes in (0, 1, 2, 3):
        clock.at = NOW + timedelta(minutes=minutes)
        colours.say("shop", ("a",))
    for hours in (0, 11, 13):
        clock.at = NOW - timedelta(days=30) + timedelta(hours=hours)
        colours.say("shop", ("a",))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(alarm.tell_for_ever(), 0.02)

    assert told == [("backups of shop", "alert", ("a",))] * 2, "after three minutes, and after twelve hours again"


def test_the_audit_trail_has_each_change(database: Engine) -> None:
    colours = Colours(database, SetClock(NOW), Alarm(None))
    for reasons in (("a",), (), ("a",), ("a", "b"), ("b",), ("b",), ()):
        colours.say("shop", reasons)

    with database.connect() as connection:
        said = [row.action for row in connection.execute(select(audit.c.action))]
    assert said == [f"backups are {colour}" for colour in ("red", "green", "red", "red", "red", "green")]


@pytest.mark.parametrize(
    "state",
    ["store-down", "store-refuses", "store-full", "queue-too-long", "no-database", "gap", "reset", "encrypted"],
)
def test_what_the_shipper_says_is_an_alarm(state: str) -> None:
    attachments = Path(__file__).parents[3] / "templates/scripts/attachments"
    program = "".join((attachments / name).read_text() for name in ("ship_binlogs.py", "binlog_store.py"))

    assert alarms_of_tags({"binlogs": state}, "primary")
    assert not alarms_of_tags({"binlogs": state}, "replica")
    assert f'"{state.replace("-", " ")}"' in program
    assert alarms_of_tags({"binlogs": "ok"}, "primary") == alarms_of_tags({}, "primary") == ()


@pytest.mark.parametrize("role", ["primary", "replica"])
def test_snapshots_that_fail_are_an_alarm_wherever_they_are_taken(role: str) -> None:
    assert "snapshots of its volume fail" in alarms_of_tags({"snapshots": "failing", "binlogs": "ok"}, role)[0]


async def test_the_operators_command_gets_the_alert(tmp_path: Path, caplog: Any) -> None:
    file = tmp_path / "alert.json"
    with caplog.at_level(logging.INFO):
        await Pager(("sh", "-c", f"cat >{file}"), SetClock(NOW)).tell(
            "backups of shop", "alert", ("the store is full",)
        )
        await Pager(("false",), SetClock(NOW)).tell("backups of shop", "over", ())
        await Pager((), SetClock(NOW)).tell("backups of shop", "over", ())

    assert json.loads(file.read_text()) == {
        "subject": "backups of shop", "state": "alert", "reasons": ["the store is full"], "at": NOW.isoformat(),
    }  # fmt: skip
    assert "the alert command failed" in caplog.text
