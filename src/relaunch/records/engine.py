"""Opens the controller's database and brings it to the newest schema."""

from __future__ import annotations

from typing import Any

from sqlalchemy import create_engine, event, insert, inspect, select, text, update
from sqlalchemy.engine import Engine

from relaunch.errors import Conflict
from relaunch.records.migrations import HEAD, upgrade
from relaunch.records.schema import about


def connect(url: str) -> Engine:
    """An engine on `url`; SQLite gets WAL, enforced foreign keys and a patient lock."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    return engine


def open_database(url: str, *, program: str) -> Engine:
    """The engine, migrated; Conflict when a newer program has written this database."""
    engine = connect(url)
    present = schema_version(engine)
    if present is not None and present > HEAD:
        raise Conflict(
            f"the database was written by relaunch {_writer(engine)} (schema {present}); "
            f"this is relaunch {program} (schema {HEAD})",
            hint="upgrade this program, or restore a backup made before the upgrade",
        )
    if present != HEAD:
        upgrade(engine)
    _sign(engine, program)
    return engine


def schema_version(engine: Engine) -> str | None:
    """The revision the database stands at, None when it is empty."""
    if not inspect(engine).has_table("alembic_version"):
        return None
    with engine.connect() as connection:
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _writer(engine: Engine) -> str:
    with engine.connect() as connection:
        value = connection.execute(select(about.c.value).where(about.c.name == "program")).scalar()
    return value or "of an unknown version"


def _sign(engine: Engine, program: str) -> None:
    with engine.begin() as connection:
        changed = connection.execute(update(about).where(about.c.name == "program").values(value=program))
        if changed.rowcount == 0:
            connection.execute(insert(about).values(name="program", value=program))


def _prepare_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # what was answered as stored survives the plug being pulled
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.close()
