"""The database: migrations lead to the schema, and a newer program's database is refused."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from alembic import op
from sqlalchemy import inspect, select, text
from sqlalchemy.engine import Engine

from relaunch.errors import Conflict
from relaunch.records.engine import connect, open_database, schema_version
from relaunch.records.migrations import HEAD, upgrade
from relaunch.records.schema import dns_records, metadata


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/controller.db"


def shape(engine: Engine) -> dict[str, Any]:
    """Of every table: columns, keys, constraints and indexes, as the database itself tells them."""
    seen = inspect(engine)
    return {
        table: {
            "columns": [{**column, "type": str(column["type"])} for column in seen.get_columns(table)],
            "key": seen.get_pk_constraint(table)["constrained_columns"],
            "foreign": sorted(str(key) for key in seen.get_foreign_keys(table)),
            "unique": sorted(str(each["column_names"]) for each in seen.get_unique_constraints(table)),
            "indexes": sorted(str(each) for each in seen.get_indexes(table)),
        }
        for table in seen.get_table_names()
        if table != "alembic_version"
    }


def test_migrations_lead_to_exactly_the_schema(tmp_path: Path) -> None:
    wanted = connect("sqlite://")
    metadata.create_all(wanted)

    assert shape(open_database(url(tmp_path), program="0.1.0")) == shape(wanted)


def test_names_set_in_dns_survive_the_second_schema(tmp_path: Path) -> None:
    first = connect(url(tmp_path))
    upgrade(first, "0001")
    row = {"name": "a.test", "type": "A", "deployment_id": "shop", "values": '["10.0.0.1"]', "ttl_seconds": 30}
    with first.begin() as connection:
        connection.execute(
            text("INSERT INTO dns_records VALUES (:name, :type, :deployment_id, :values, :ttl_seconds)"), row
        )
    first.dispose()

    with open_database(url(tmp_path), program="0.1.0").connect() as connection:
        found = connection.execute(select(dns_records)).mappings().one()

    assert dict(found) == {
        "name": "a.test", "type": "A", "deployment": "shop", "values": ["10.0.0.1"], "ttl_seconds": 30
    }  # fmt: skip


def test_a_database_is_opened_again_as_it_is(tmp_path: Path) -> None:
    open_database(url(tmp_path), program="0.1.0").dispose()

    assert schema_version(open_database(url(tmp_path), program="0.1.1")) == HEAD


def test_a_database_of_a_newer_program_is_refused_with_both_versions(tmp_path: Path) -> None:
    open_database(url(tmp_path), program="9.8.7").dispose()
    with sqlite3.connect(tmp_path / "controller.db") as raw:
        raw.execute("UPDATE alembic_version SET version_num = '0999'")

    with pytest.raises(Conflict, match=r"9\.8\.7.*0999.*0\.1\.0") as refused:
        open_database(url(tmp_path), program="0.1.0")

    assert "upgrade" in refused.value.hint


def test_connections_are_patient_durable_and_check_foreign_keys(tmp_path: Path) -> None:
    with connect(url(tmp_path)).connect() as connection:
        found = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")
        }

    assert found == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 10000, "synchronous": 2}


DEATH = 9  # the exit status of a program that was killed


def dies_in_the_midst(folder: Path, calls: int) -> None:
    """Open the database and be gone, as by kill -9, once so many tables, columns and indexes were made."""
    made = iter(range(1, calls + 1))

    def killed_after(act: Any) -> Any:
        def then_killed(*args: Any, **more: Any) -> Any:
            result = act(*args, **more)
            if next(made) == calls:
                os._exit(DEATH)
            return result

        return then_killed

    for name in ("create_table", "add_column", "create_index"):
        setattr(op, name, killed_after(getattr(op, name)))
    open_database(url(folder), program="0.1.0")


@pytest.mark.parametrize("first", [None, "0002"])
def test_a_program_killed_while_it_migrates_starts_again(tmp_path: Path, first: str | None) -> None:
    processes = multiprocessing.get_context("fork")
    whole = 0
    for calls in range(1, 100):
        folder = tmp_path / str(calls)
        folder.mkdir()
        if first is not None:
            before = connect(url(folder))
            upgrade(before, first)
            before.dispose()
        killed = processes.Process(target=dies_in_the_midst, args=(folder, calls))
        killed.start()
        killed.join()
        if killed.exitcode == 0:  # it was through before
            break
        assert killed.exitcode == DEATH
        whole = calls

        again = open_database(url(folder), program="0.1.0")

        assert schema_version(again) == HEAD, f"killed after {calls}"
        again.dispose()
    assert whole >= (len(metadata.tables) if first is None else 6)
