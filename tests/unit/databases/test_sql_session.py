"""A session through the client: its answers, its errors, and its end."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "templates/scripts/attachments/sql_session.py"
CLIENT = """#!/bin/sh
while read -r line; do
  case $line in
    *kill*) echo "ERROR 1927 (70100) at line 3: Connection was killed"; lost=yes ;;
    *wrong*) echo "ERROR 1064 (42000) at line 1: You have an error" ;;
    "SELECT '#relaunch-end#'"*) if [ "$lost" ]; then echo "ERROR 2006 (HY000): gone"; else echo "#relaunch-end#"; fi ;;
    *) printf '1\\ttwo\\n' ;;
  esac
done
"""


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    for name in ("mariadb", "mysql"):
        (tmp_path / name).write_text(CLIENT)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    spec = importlib.util.spec_from_file_location("sql_session", SCRIPT)
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda: (module.Session(), module.SqlError)


def test_rows_come_as_texts_and_an_error_is_one_statement_s(session: Callable[[], Any]) -> None:
    mine, error = session()

    with pytest.raises(error, match="You have an error"):
        mine.rows("wrong")

    assert mine.rows("SELECT 1, 'two'") == [["1", "two"]]
    mine.close()


@pytest.mark.timeout(20)
def test_a_session_that_is_killed_says_so_and_is_not_waited_for(session: Callable[[], Any]) -> None:
    mine, error = session()

    with pytest.raises(error, match="killed"):
        mine.rows("kill me")

    mine.close()
