"""What restore_schema.sh loads for trial, on the primary alone, is no data of the group's.

The questions are asked of an information_schema in SQLite.
"""

from __future__ import annotations

import importlib.util
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relaunch.databases.imports import schema_name
from relaunch.errors import BadInput

ROOT = Path(__file__).parents[3] / "templates/scripts"
SCHEMAS = ("mysql", "relaunch_trial", "shop")


@pytest.fixture
def server() -> Iterator[sqlite3.Connection]:
    """A table `t` in each schema."""
    made = sqlite3.connect(":memory:")
    made.execute("ATTACH ':memory:' AS information_schema")
    columns = "table_schema, table_name, table_type, engine, table_rows, data_length"
    made.execute(f"CREATE TABLE information_schema.tables ({columns})")
    made.execute("CREATE TABLE information_schema.statistics (table_schema, table_name, index_name)")
    for schema in SCHEMAS:
        made.execute(f"INSERT INTO information_schema.tables VALUES ('{schema}', 't', 'BASE TABLE', 'InnoDB', 1, 1)")
    yield made
    made.close()


def test_the_name_of_the_trial_is_this_one() -> None:
    assert re.search(r"\btrial=(\w+)", (ROOT / "restore_schema.sh").read_text())[1] == "relaunch_trial"  # type: ignore[index]


def test_it_is_not_compared_with_the_replicas(server: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "attachments"))
    spec = importlib.util.spec_from_file_location("checksum_database", ROOT / "attachments/checksum_database.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Session:
        def rows(self, statement: str) -> list[list[Any]]:
            return [list(row) for row in server.execute(statement)]

    comparison = module.Comparison("c1", Session(), {}, chunk_seconds=0.2, wait_seconds=1.0)

    assert [table.schema for table in comparison.all_tables()] == ["shop"]
    assert comparison.unchecked == []


def test_a_backup_does_not_sum_it(server: sqlite3.Connection, tmp_path: Path) -> None:
    script = f"""
      work={tmp_path}
      sql() {{ printf '%s' "$1" >"$work/asked"; }}
      . {ROOT}/attachments/table_checks.sh
      sum_tables 9"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr

    asked = (tmp_path / "asked").read_text().replace("AS BINARY", "AS TEXT")

    assert [row[0] for row in server.execute(asked)] == ["shop"]


def test_it_cannot_be_imported() -> None:
    with pytest.raises(BadInput, match="relaunch_trial is the server's own"):
        schema_name("relaunch_trial")
