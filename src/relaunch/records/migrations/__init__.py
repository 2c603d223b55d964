"""The steps from one schema to the next, run by Alembic."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import Engine

HEAD = "0005"  # of the newest file in versions/; revisions are numbers, so that newer and older can be told


def upgrade(engine: Engine, to: str = HEAD) -> None:
    """Bring the database to that revision, in one transaction."""
    from alembic import command  # takes 10 MB, needed at most once in a controller's life
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # Python's sqlite3 begins none before CREATE or ALTER
        config.attributes["connection"] = connection
        command.upgrade(config, to)
