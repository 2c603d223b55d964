"""Backups of one schema each: due, to be proven, red, and let go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from relaunch.clock import SetClock
from relaunch.databases.backup_catalogue import Catalogue
from relaunch.databases.backup_schemas import due_schema, red_schemas, schemas_to_go, unproven
from relaunch.databases.backups import Backup, Kind, Known, Proof, Retention, Schedule
from relaunch.records.engine import open_database
from relaunch.storage.memory import MemoryStore

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAILY = Schedule()
SITES = ("blog", "shop")


def backup(schema: str, hours: float, **more: Any) -> Backup:
    """One that ended so many hours ago."""
    at = NOW - timedelta(hours=hours)
    usual = {"id": f"{at:%Y%m%dT%H%M%SZ}-schema-db2", "begun": at, "ended": at, "lineage": "l"}
    return Backup(
        kind=Kind.SCHEMA, parent=None, server="db2", role="", gtid="0-1-1", stored_bytes=9, data_bytes=0,
        recipient="age1", schema=schema, **{**usual, **more},
    )  # fmt: skip


def proof(of: Backup, hours: float = 0.0, *, proven: bool = True) -> Proof:
    return Proof(backup=of.id, schema=of.schema, at=NOW - timedelta(hours=hours), proven=proven, why="x" * (not proven))


def known(*schemas: Backup, proofs: tuple[Proof, ...] = ()) -> Known:
    return Known(backups=(), schemas=schemas, schema_proofs=proofs)


def test_a_schema_without_a_backup_is_due_first_then_the_oldest() -> None:
    assert due_schema(known(backup("shop", 99)), SITES, DAILY, NOW) == "blog"
    assert due_schema(known(backup("shop", 99), backup("blog", 25)), SITES, DAILY, NOW) == "shop"
    assert due_schema(known(backup("shop", 23), backup("blog", 25)), SITES, DAILY, NOW) == "blog"
    assert due_schema(known(backup("shop", 23), backup("blog", 23)), SITES, DAILY, NOW) is None
    assert due_schema(known(), SITES, Schedule(schemas=None), NOW) is None


def test_a_schema_that_cannot_be_dumped_keeps_no_other_from_it() -> None:
    """As one with an event that no dump holds."""
    tried = {"blog": NOW - timedelta(minutes=50), "shop": NOW - timedelta(hours=25)}
    daily, later = known(backup("shop", 25)), NOW + timedelta(minutes=10)

    assert due_schema(daily, SITES, DAILY, NOW, tried) == "shop"
    assert due_schema(daily, SITES, DAILY, later, tried) == "blog"
    assert due_schema(daily, ("shop",), DAILY, NOW, {"shop": NOW - timedelta(hours=25)}) == "shop"
    often, tried = Schedule(schemas=timedelta(minutes=10)), {"shop": NOW - timedelta(minutes=11)}
    assert due_schema(known(backup("shop", 0.2)), ("shop",), often, NOW, tried) == "shop", "that one was made"


def test_neither_a_damaged_one_nor_what_a_restore_put_away_counts() -> None:
    damaged, replaced = backup("shop", 1, fault="x"), backup("shop", 1, id="20261122T110000Z-replaced-db1")

    assert due_schema(known(damaged, replaced), ("shop",), DAILY, NOW) == "shop"


def test_the_newest_of_each_is_proven_once_and_a_failed_proof_is_tried_again() -> None:
    old, new, other = backup("shop", 25), backup("shop", 1), backup("blog", 1)
    every = (old, new, other)

    assert unproven(known(*every), SITES, DAILY, NOW) == (other, new)
    assert unproven(known(*every, proofs=(proof(new), proof(old))), SITES, DAILY, NOW) == (other,)
    assert unproven(known(*every, proofs=(proof(new), proof(other, proven=False))), SITES, DAILY, NOW) == ()
    assert unproven(known(*every, proofs=(proof(new), proof(other, 2, proven=False))), SITES, DAILY, NOW) == (other,)
    assert unproven(known(*every), SITES, Schedule(prove=None), NOW) == ()


@pytest.mark.parametrize(
    ("reason", "found"),
    [
        ("there is no backup of it", known()),
        ("has not happened on time", known(backup("shop", 49), proofs=(proof(backup("shop", 49)),))),
        ("is damaged", known(backup("shop", 1), backup("shop", 2, fault="x"), proofs=(proof(backup("shop", 1)),))),
        ("failed: x", known(backup("shop", 1), proofs=(proof(backup("shop", 1), proven=False),))),
        ("is not proven yet", known(backup("shop", 3))),
    ],
)
def test_each_reason_to_be_red(reason: str, found: Known) -> None:
    (red,) = red_schemas(found, ("shop",), DAILY, NOW)

    assert red.startswith("schema shop: ") and reason in red
    assert red_schemas(found, ("shop",), Schedule(schemas=None), NOW) == ()


def test_a_newer_backup_that_nobody_has_proven_yet_hides_neither_a_failure_nor_that_none_was_ever_proven() -> None:
    often = Schedule(schemas=timedelta(hours=1))
    newest, before, first = backup("shop", 0.5), backup("shop", 1.5), backup("shop", 2.5)
    blog = backup("blog", 0.5)

    failed = known(newest, before, blog, proofs=(proof(before, 1, proven=False), proof(blog)))
    assert red_schemas(failed, SITES, often, NOW) == (f"schema shop: the proof of {before.id} failed: x",)
    mended = known(newest, before, proofs=(proof(before, 1, proven=False), proof(newest)))
    assert red_schemas(mended, ("shop",), often, NOW) == ()
    by_hand = known(newest, before, proofs=(proof(newest, 0.2, proven=False), proof(before)))
    assert red_schemas(by_hand, ("shop",), often, NOW) == (f"schema shop: the proof of {newest.id} failed: x",)
    never = known(newest, before, first)
    assert red_schemas(never, ("shop",), often, NOW) == (f"schema shop: {first.id} is not proven yet",)
    assert red_schemas(known(newest, before, first, proofs=(proof(before),)), ("shop",), often, NOW) == ()


def test_it_is_green_when_all_is_on_time_and_proven() -> None:
    new = backup("shop", 23)

    assert red_schemas(known(new, proofs=(proof(new),)), ("shop",), DAILY, NOW) == ()
    assert red_schemas(known(backup("shop", 1)), ("shop",), DAILY, NOW) == (), "it is about to be proven"


def test_retention_is_for_each_schema_by_itself_and_leaves_the_last_proven() -> None:
    shop = [backup("shop", 24 * day) for day in range(4)]
    blog = [backup("blog", 24 * day) for day in range(2)]
    least = Retention(last=1, daily=0, weekly=0, monthly=0, yearly=0)

    gone = schemas_to_go([*shop, *blog], (proof(shop[2]), proof(blog[0])), least, NOW)

    assert [(each.schema, each.ended) for each in gone] == [("blog", blog[1].ended), ("shop", shop[3].ended)]


def test_neither_a_backup_nor_a_proof_of_a_time_to_come_counts() -> None:
    new, ahead = backup("shop", 1), backup("shop", -400)
    wrong = proof(new, -400)

    assert due_schema(known(new, ahead), ("shop",), DAILY, NOW) is None, "not one after the other"
    assert unproven(known(new, proofs=(wrong,)), ("shop",), DAILY, NOW) == (new,)
    failed = known(new, proofs=(proof(new, proven=False), wrong))
    assert red_schemas(failed, ("shop",), DAILY, NOW) == (f"schema shop: the proof of {new.id} failed: x",)
    (red,) = red_schemas(known(new, ahead, proofs=(proof(new),)), ("shop",), DAILY, NOW)
    assert red == f"schema shop: {ahead.id} is of a time to come: is a clock wrong on db2, or here?"


def test_a_schema_is_not_dumped_again_and_again_where_the_clock_is_ahead() -> None:
    ahead = backup("shop", -400, stored=NOW - timedelta(hours=1))

    assert due_schema(known(backup("shop", 99), ahead), ("shop",), DAILY, NOW) is None
    assert due_schema(known(backup("shop", 99), ahead), ("shop",), DAILY, NOW + timedelta(hours=23)) == "shop"


@pytest.fixture
def database(tmp_path: Any) -> Iterator[Engine]:
    engine = open_database(f"sqlite:///{tmp_path}/controller.db", program="test")
    yield engine
    engine.dispose()


LINEAGE = "20261120T000000Z-0000aa"


async def stored(objects: MemoryStore, schema: str, id: str, size: int = 3) -> None:
    folder = f"shop/{LINEAGE}/schemas/{schema}/{id}"
    await objects.put(f"{folder}/dump.sql.zst.age", "abc")
    manifest = {
        "id": id, "kind": "schema", "schema": schema, "server": "db2", "gtid": "0-1-1", "recipient": "age1",
        "begun": "2026-11-22T10:00:00Z", "ended": "2026-11-22T10:00:01Z", "stored_bytes": 3,
        "objects": [{"name": "dump.sql.zst.age", "size_bytes": size, "sha256": "x"}],
    }  # fmt: skip
    await objects.put(f"{folder}/manifest.json", json.dumps(manifest))


async def test_the_catalogue_tells_two_of_the_same_moment_apart_and_removes_one(database: Engine) -> None:
    objects = MemoryStore(SetClock(NOW))
    catalogue = Catalogue(database, objects, "shop")
    await stored(objects, "shop", "one")
    await stored(objects, "blog", "one")
    await stored(objects, "blog", "two", size=4)

    every = await catalogue.refresh((LINEAGE,))

    found = {(each.schema, each.id): each.fault for each in catalogue.schemas()}
    assert found == {("shop", "one"): "", ("blog", "one"): "", ("blog", "two"): "object dump.sql.zst.age has 3 bytes"}
    assert catalogue.backups() == ()

    gone = [each for each in catalogue.schemas() if each.id == "one" and each.schema == "blog"]
    await catalogue.remove(LINEAGE, gone, every, NOW)
    await catalogue.refresh((LINEAGE,))

    assert {(each.schema, each.id) for each in catalogue.schemas()} == {("shop", "one"), ("blog", "two")}


def test_a_proof_of_a_schema_is_none_of_everything(database: Engine) -> None:
    catalogue = Catalogue(database, MemoryStore(SetClock(NOW)), "shop")
    catalogue.record_proof("t-1", proof(backup("shop", 1)))
    catalogue.record_proof("t-2", Proof(backup="all", at=NOW, proven=True))

    assert [each.backup for each in catalogue.proofs()] == ["all"]
    assert [each.schema for each in catalogue.schema_proofs()] == ["shop"]
