"""A schema whose code has comments, dumped from a real MariaDB and loaded under another name, as restores and imports
load it, or replayed from its binary log: the client by itself takes comments out, breaks what holds one,
and ends lines in its own way."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mariadb_lab import Authority, MariaDBServer
from test_dialects import SUITES, folder_of

from relaunch.errors import Failed

SCRIPTS = Path(__file__).parents[2] / "templates/scripts"
pytestmark = pytest.mark.root
BODY = "FOR EACH ROW BEGIN /* why */ SET NEW.id = 1; -- it's\n SET /* so */ NEW.id = 2; END"
CODE = (
    f"CREATE TRIGGER t1 BEFORE INSERT ON o {BODY}",
    f"CREATE /* x */ TRIGGER /* a */ shop.t2 /* b. */ BEFORE UPDATE ON shop.o /* FOR EACH ROW */ {BODY}",
    f"CREATE -- x\n TRIGGER -- y\n shop . t3 # z\n AFTER DELETE ON shop.o {BODY.replace('NEW.id', '@id')}",
    "CREATE PROCEDURE p() BEGIN /* why */ SELECT 1; -- it's\r\n SELECT 'a\r\nb'; END",
)
PARTS = "CREATE TABLE shop.parts (a INT) /*!50100 PARTITION BY HASH (a) /* two */ PARTITIONS 2 */"
THERE = """SELECT trigger_name, event_object_schema, action_statement FROM information_schema.triggers
  WHERE trigger_schema = %s UNION ALL SELECT routine_name, '', routine_definition FROM information_schema.routines
  WHERE routine_schema = %s ORDER BY 1"""


@pytest.fixture(params=SUITES)
def server(request: pytest.FixtureRequest) -> Iterator[MariaDBServer]:
    with folder_of(request.param) as (root, folder):
        server = MariaDBServer(97, root, folder / "97", Authority(folder / "ca"))
        try:
            server.install()
            server.start()
            session = server.session()
            for statement in (
                "SET GLOBAL read_only = OFF",
                "CREATE DATABASE shop",
                "CREATE DATABASE new",
                "USE shop",
                "CREATE TABLE o (id INT PRIMARY KEY)",
                *CODE,
            ):
                session.run(statement)
            session.close()
            yield server
        finally:
            server.stop()


def dumped(server: MariaDBServer) -> bytes:
    words = ("mariadb-dump", "--no-defaults", f"--socket={server.inside}/sock", "--routines", "--triggers", "shop")
    return subprocess.run(["chroot", server.root, *words], capture_output=True, timeout=60, check=True).stdout


def assert_all_there(server: MariaDBServer) -> None:
    session = server.session()
    before, after = session.rows(THERE, "shop", "shop"), session.rows(THERE, "new", "new")
    session.close()
    assert len(before) == len(CODE)
    assert after == [
        {**row, "event_object_schema": row["event_object_schema"].replace("shop", "new")} for row in before
    ]


def test_a_restore_loads_all_of_it(server: MariaDBServer, tmp_path: Path) -> None:
    (tmp_path / "dump").write_bytes(dumped(server))
    text = (SCRIPTS / "restore_schema.sh").read_text()
    load = text[text.index("\nload() {") : text.index("\n}\n", text.index("\nload() {")) + 3]
    script = f"""RS_ATTACH_DIR={SCRIPTS}/attachments
      here=(chroot {server.root} mariadb --no-defaults --socket={server.inside}/sock)
      plain() {{ cat {tmp_path}/dump; }}; in_this_year() {{ cat; }}
      {load}
      load new"""

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert_all_there(server)


def test_an_import_loads_all_of_it(server: MariaDBServer, tmp_path: Path) -> None:
    (tmp_path / "dump").write_bytes(dumped(server))
    (server.folder / "loader.cnf").write_text(f"[client]\nsocket={server.inside}/sock\n")
    client = tmp_path / "mariadb"
    client.write_text(f'#!/bin/sh\nexec chroot {server.root} mariadb "$@"\n')
    client.chmod(0o755)
    words = ("load", f"{tmp_path}/dump", "`root`@`localhost`", f"{server.inside}/loader.cnf", "new")

    done = subprocess.run(
        [sys.executable, f"{SCRIPTS}/attachments/import_dump.py", *words],
        env={"PATH": f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert_all_there(server)


def test_a_replica_copied_row_by_row_has_all_of_it(server: MariaDBServer, tmp_path: Path) -> None:
    """Dropped and loaded again on the server that it is read from: the dump is read before anything is dropped."""
    text = (SCRIPTS / "join_database_group.sh").read_text()
    copy = text[text.index("\ncopy_rows() {") : text.index("\n}\n", text.index("\ncopy_rows() {")) + 3]
    session = server.session()
    before = session.rows(THERE, "shop", "shop")
    made = "SELECT created FROM information_schema.routines WHERE routine_schema = 'shop'"
    session.run("SET SESSION timestamp = 1")
    session.run("CREATE PROCEDURE shop.q() SELECT 1")
    script = f"""set -e -o pipefail; copying={tmp_path}/copy half={tmp_path}/half RS_ATTACH_DIR={SCRIPTS}/attachments
      systemctl() {{ :; }}; history_words() {{ :; }}; refuse_endless() {{ :; }}
      at_primary() {{ chroot {server.root} "$1" --no-defaults --socket={server.inside}/sock "${{@:2}}"; }}
      mariadb() {{ cat >{tmp_path}/dump; at_primary mariadb "$@" <{tmp_path}/dump; }}
      {copy}
      copy_rows"""

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert all(row["created"].year > 1970 for row in session.rows(made)), "it is the copy"
    session.run("DROP PROCEDURE shop.q")
    assert session.rows(THERE, "shop", "shop") == before and len(before) == len(CODE)
    session.close()


def replay(server: MariaDBServer, folder: Path) -> subprocess.CompletedProcess[str]:
    """What a restore does with a binary log, on a copy that was empty: here the server itself, without what it has."""
    text = (SCRIPTS / "restore_database.sh").read_text()
    begin = text.index("TZ=UTC mariadb-binlog")
    replay = text[begin : text.index("\n", text.index("stop_with", begin))]
    session = server.session()
    session.run("FLUSH BINARY LOGS")
    shutil.copy(server.folder / "data/binlog.000001", server.folder / "shipped")
    schemas = session.rows(
        "SELECT schema_name AS name FROM information_schema.schemata WHERE schema_name IN ('shop', 'new')"
    )
    for statement in (
        "SET sql_log_bin = 0",
        *(f"DROP DATABASE {row['name']}" for row in schemas),
        "RESET MASTER",
        "SET GLOBAL server_id = 98",
    ):
        session.run(statement)
    session.close()
    script = f"""position= limits=() work={folder} secret={folder} stream=s RS_ATTACH_DIR={SCRIPTS}/attachments
      mariadb-binlog() {{ chroot {server.root} mariadb-binlog --no-defaults {server.inside}/shipped; }}
      ask_copy() {{ chroot {server.root} mariadb --no-defaults --socket={server.inside}/sock "$@"; }}
      stop_with() {{ echo "$*" >&2; exit 1; }}
      {replay}"""
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)


def test_a_replay_leaves_nothing_out(server: MariaDBServer, tmp_path: Path) -> None:
    session = server.session()
    session.run(PARTS)
    before = session.rows(THERE, "shop", "shop")

    done = replay(server, tmp_path)

    assert done.returncode == 0, done.stderr
    assert session.rows(THERE, "shop", "shop") == before and len(before) == len(CODE)
    session.run("SELECT * FROM shop.parts PARTITION (p1)")
    session.close()


AS_ONE = (
    "CREATE TABLE shop.a (i INT PRIMARY KEY, s VARCHAR(40)) ENGINE = InnoDB",
    "INSERT INTO shop.a VALUES (1, 'one'), (2, 'two')",
    "CREATE TABLE shop.copied SELECT * FROM shop.a",
    "CREATE OR REPLACE TABLE shop.copied (k INT PRIMARY KEY) ENGINE = InnoDB SELECT i AS k FROM shop.a",
    "CREATE TABLE shop.none SELECT * FROM shop.a WHERE FALSE",
    "CREATE TABLE shop.a2 (i INT)",
    "SET binlog_format = STATEMENT",
    "CREATE TABLE shop.old (i INT PRIMARY KEY) ENGINE = MyISAM",
    "UPDATE shop.a SET s = '\nSTART TRANSACTION\n' WHERE i = 1",
    "SET binlog_format = ROW",
    "CREATE USER one@localhost",
)
IN_PART = {
    "DROP TABLE shop.a2, shop.missing": 1051,
    "CREATE USER two@localhost, one@localhost": 1396,
    "DROP USER one@localhost, missing@localhost": 1396,
    "INSERT INTO shop.old VALUES (1), (2), (2)": 1062,
    "/* as an\napplication */ INSERT INTO shop.old /* STATEMENT */ VALUES (3), (3)": 1062,
}
COPIED = "CREATE TABLE shop.last SELECT i FROM shop.a"


def test_a_replay_comes_through_what_a_client_takes_otherwise(server: MariaDBServer, tmp_path: Path) -> None:
    session = server.session()
    for statement in AS_ONE:
        session.run(statement)
    for statement, number in IN_PART.items():
        session.run(f"SET binlog_format = {'STATEMENT' if 'STATEMENT' in statement else 'ROW'}")
        with pytest.raises(Failed, match=str(number)):
            session.run(statement)
    session.run("SET binlog_format = ROW")
    session.run(COPIED)
    tables = "shop.a, shop.copied, shop.none, shop.old, shop.last"
    before = session.rows(f"CHECKSUM TABLE {tables}")
    (position,) = session.rows("SELECT @@gtid_binlog_pos AS it")
    session.run("SET sql_log_bin = 0")
    session.run("DROP USER two@localhost")

    done = replay(server, tmp_path)

    assert done.returncode == 0, done.stderr
    assert session.rows(f"CHECKSUM TABLE {tables}") == before and None not in [row["Checksum"] for row in before]
    assert session.rows("SELECT @@gtid_binlog_pos AS it") == [position]
    users = "SELECT user FROM mysql.user WHERE user IN ('one', 'two')"
    assert [row["User" if "User" in row else "user"] for row in session.rows(users)] == ["two"]
    session.close()


def test_a_replay_ends_at_another_error_than_was_logged(server: MariaDBServer, tmp_path: Path) -> None:
    session = server.session()
    session.run("SET sql_log_bin = 0")
    session.run("CREATE TABLE shop.unknown (i INT PRIMARY KEY) ENGINE = MyISAM")
    session.run("SET sql_log_bin = 1, binlog_format = STATEMENT")
    with pytest.raises(Failed, match="1062"):
        session.run("INSERT INTO shop.unknown VALUES (1), (1)")
    session.close()

    done = replay(server, tmp_path)

    assert done.returncode != 0 and "'shop.unknown' doesn't exist" in done.stderr


COMMITTED_BYTES = 19 + 8 + 4  # an event: head, body, checksum
ROTATED_BYTES = 19 + 8 + len("binlog.000002") + 4


def test_a_binary_log_that_a_crash_cut_is_replayed_up_to_there(server: MariaDBServer) -> None:
    session = server.session()
    session.run("CREATE TABLE shop.cut (i INT PRIMARY KEY) ENGINE = InnoDB")
    for number in range(3):
        session.run(f"INSERT INTO shop.cut VALUES ({number})")
    session.run("FLUSH BINARY LOGS")
    session.close()
    whole = (server.folder / "data/binlog.000001").read_bytes()
    shipped = server.folder / "shipped"

    def decoded(data: bytes, *, mend: bool) -> subprocess.CompletedProcess[bytes]:
        shipped.write_bytes(data)
        if mend:
            events = f"{SCRIPTS}/attachments/binlog_events.py"
            subprocess.run([sys.executable, events, "whole", shipped], check=True, timeout=60)
        words = ("chroot", str(server.root), "mariadb-binlog", "--no-defaults", f"{server.inside}/shipped")
        return subprocess.run(words, capture_output=True, timeout=60, check=False)

    as_it_was = decoded(whole, mend=True)
    assert shipped.read_bytes() == whole and as_it_was.returncode == 0
    commit = len(whole) - ROTATED_BYTES - COMMITTED_BYTES
    for left in (whole[commit:][:10], whole[commit:][:25], b"\0" * 500):
        assert decoded(whole[:commit] + left, mend=False).returncode != 0
        mended = decoded(whole[:commit] + left, mend=True)
        assert mended.returncode == 0, mended.stderr
        assert mended.stdout.count(b"\nCOMMIT") == as_it_was.stdout.count(b"\nCOMMIT") - 1
    damaged = whole[: commit + 9] + b"\xff" + whole[commit + 10 : -1]  # in the length of that event
    assert decoded(damaged, mend=True).returncode != 0 and shipped.read_bytes() == damaged
