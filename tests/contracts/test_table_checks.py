"""What a backup notes of tables, on a real MariaDB: any name a table or a column may have."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mariadb_lab import Authority, MariaDBServer
from test_dialects import SUITES, folder_of

ATTACHMENTS = Path(__file__).parents[2] / "templates/scripts/attachments"
pytestmark = pytest.mark.root
NAMES = ["plain", 'it\'s a `test` \\ "x"', "a\ttab and\na line", "größer; -- #end", "a\\'b", "`"]
SUMS = """
  set -o pipefail
  client=({client})
  sql() {{ "${{client[@]}}" -N -B -e "$1"; }}
  work={work}
  . {attachments}/table_checks.sh
  open_session "${{client[@]}}" -N -B --unbuffered --force
  ask "SET time_zone = '+00:00', group_concat_max_len = 1000000" >/dev/null
"""


@pytest.fixture(params=SUITES)
def server(request: pytest.FixtureRequest) -> Iterator[MariaDBServer]:
    with folder_of(request.param) as (root, folder):
        server = MariaDBServer(31, root, folder / "31", Authority(folder / "ca"))
        try:
            server.install()
            server.start()
            server.session().run("SET GLOBAL read_only = OFF")
            yield server
        finally:
            server.stop()


def run(server: MariaDBServer, folder: Path, script: str) -> str:
    client = f"chroot {server.root} mariadb --no-defaults --socket={server.inside}/sock"
    script = SUMS.format(client=client, work=folder, attachments=ATTACHMENTS) + script
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def lines(file: Path) -> list[object]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def fill(server: MariaDBServer) -> None:
    session = server.session()
    for schema in ("shop", NAMES[1]):
        session.run(f"CREATE DATABASE {quoted(schema)} CHARACTER SET utf8mb4")
        for name in NAMES:
            table = f"{quoted(schema)}.{quoted(name)}"
            columns = ", ".join(f"{quoted(each)} VARCHAR(20)" for each in NAMES)
            session.run(f"CREATE TABLE {table} ({quoted('id' + name)} INT PRIMARY KEY, {columns}) ENGINE = InnoDB")
            session.run(f"INSERT INTO {table} SELECT seq, {', '.join(['seq'] * len(NAMES))} FROM shop.seq_1_to_30")


@pytest.mark.parametrize("mode", ["", "ANSI_QUOTES,NO_BACKSLASH_ESCAPES"])
def test_a_table_may_have_any_name(server: MariaDBServer, tmp_path: Path, mode: str) -> None:
    fill(server)
    server.session().run(f"SET GLOBAL sql_mode = '{mode}'")

    run(server, tmp_path, "sum_tables 50; close_session")

    found = lines(tmp_path / "checks")
    assert {(each["schema"], each["table"]) for each in found} == {  # type: ignore[index]
        (schema, table) for schema in ("shop", NAMES[1]) for table in NAMES
    }
    assert {each["rows"] for each in found} == {30}  # type: ignore[index]
    assert len({each["sum"] for each in found}) == 1  # type: ignore[index]
    assert lines(tmp_path / "unchecked") == []


def test_the_last_rows_of_a_table_of_any_name(server: MariaDBServer, tmp_path: Path) -> None:
    fill(server)
    session = server.session()
    session.run("CREATE TABLE shop.two (`a``'` INT, b INT, PRIMARY KEY (`a``'`, b)) ENGINE = InnoDB")
    session.run("INSERT INTO shop.two SELECT seq, seq FROM shop.seq_1_to_30")
    names = " ".join(name.encode().hex() for name in [*NAMES, "two", "not there"])

    said = run(
        server,
        tmp_path,
        f"""
        for each in {names}; do
          printf -v table %b "$(sed 's/../\\\\x&/g' <<<"$each")"
          echo "$(ask "$(check_sql shop "$table" "last 10")")"
        done
        close_session""",
    )

    found = [line.split() for line in said.splitlines()]
    assert [row[0] for row in found[:-1]] == ["10"] * (len(NAMES) + 1)
    assert len({row[1] for row in found[: len(NAMES)]}) == 1
    assert found[-1] == []


def test_what_is_loaded_for_trial_is_neither_summed_nor_odd(server: MariaDBServer, tmp_path: Path) -> None:
    session = server.session()
    for schema in ("shop", "relaunch_trial"):
        session.run(f"CREATE DATABASE {schema}")
        session.run(f"CREATE TABLE {schema}.t (a INT PRIMARY KEY) ENGINE = InnoDB")
        session.run(f"CREATE TABLE {schema}.old (a INT PRIMARY KEY) ENGINE = MyISAM")

    said = run(server, tmp_path, "sum_tables 50; close_session; odd_things torn")

    assert [(each["schema"], each["table"]) for each in lines(tmp_path / "checks")] == [("shop", "t")]  # type: ignore[index]
    assert lines(tmp_path / "unchecked") == []
    assert "shop.old is MyISAM: torn" in said and "relaunch_trial" not in said


def test_sums_are_of_the_snapshot_and_lock_nothing(server: MariaDBServer, tmp_path: Path) -> None:
    fill(server)
    change = "DELETE FROM shop.plain; INSERT INTO shop.plain (idplain) VALUES (99)"

    said = run(
        server,
        tmp_path,
        f"""
        ask "START TRANSACTION WITH CONSISTENT SNAPSHOT" >/dev/null
        before=$(ask "$(check_sql shop plain "last 10")")
        sql "SET innodb_lock_wait_timeout = 1; {change}"
        after=$(ask "$(check_sql shop plain "last 10")")
        printf '%s\\n%s\\n' "$before" "$after"
        close_session""",
    )

    before, after = said.splitlines()
    assert before == after and before.startswith("10\t")
