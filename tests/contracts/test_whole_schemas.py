"""A schema with all that is easily lost, through our own backup and restore and through a dump's import, on real
servers: what is made of it is the same again, to the byte."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import pytest
from debian_root import inside, root_with
from mariadb_lab import Authority, MariaDBServer, until
from mysql_lab import cached_root
from test_dialects import SUITES, folder_of
from whole_schema import NEW, OURS, q, statements

SCRIPTS = Path(__file__).parents[2] / "templates/scripts"
pytestmark = pytest.mark.root
ELSEWHERE = "CET-1CEST,M3.5.0,M10.5.0/3"  # a time zone with summer time that needs no files


@dataclass
class Server:
    """Reached by its socket alone, with its own client programs first in `path`."""

    mysql: bool
    folder: Path  # as the host sees it
    seen: str  # as its client sees it
    client: list[str]  # in front of a client program

    def session(self) -> Any:
        return pymysql.connect(
            unix_socket=str(self.folder / "sock"), user="root", autocommit=True, max_allowed_packet=1 << 30
        )

    def run(self, *wanted: str) -> None:
        with self.session() as session, session.cursor() as cursor:
            for statement in wanted:
                cursor.execute(statement)

    def shell(self, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """With the programs that the scripts call, of which `--defaults-extra-file` stays the first word."""
        programs = folder / "programs"
        programs.mkdir(exist_ok=True)
        for name in ("mysql", "mysqldump") if self.mysql else ("mariadb", "mariadb-dump"):
            words = " ".join(f"'{word}'" for word in (*self.client, name))
            (programs / name).write_text(
                f"#!/bin/sh\ncase $1 in --defaults-extra-file=*) first=$1; shift ;; *) first=--no-defaults ;; esac\n"
                f'exec timeout 60 nice -n 19 {words} "$first" --socket={self.seen}/sock "$@"\n'
            )
            (programs / name).chmod(0o755)
        before = f'set -euo pipefail\nRS_ATTACH_DIR={SCRIPTS}/attachments\nionice() {{ shift 2; "$@"; }}\n'
        return subprocess.run(
            ["bash", "-c", before + script],
            env={"PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip


@contextmanager
def mariadb(version: str) -> Iterator[Server]:
    with folder_of(version) as (root, folder):
        server = MariaDBServer(97, root, folder / "97", Authority(folder / "ca"), settings=("--max-allowed-packet=1G",))
        try:
            server.install()
            server.start()
            yield Server(False, server.folder, server.inside, ["chroot", root])
        finally:
            server.stop()


@contextmanager
def mysql() -> Iterator[Server]:
    clients = root_with("mysql-client", "sid", "/usr/bin/mysqldump", "mysql-client-core")
    if clients is None:
        pytest.skip("no MySQL here: that needs root and mmdebstrap")
    root, template = cached_root()
    folder = Path(tempfile.mkdtemp(prefix="rlwhole-", dir=root / "var/tmp"))
    seen = "/" + str(folder.relative_to(root))
    subprocess.run(["cp", "-a", "--reflink=auto", template, folder / "data"], check=True, timeout=60)
    words = (
        *("setpriv", "--pdeathsig", "KILL", "chroot", root, "/usr/sbin/mysqld", "--no-defaults", "--user=root"),
        *(f"--datadir={seen}/data", f"--socket={seen}/sock", f"--pid-file={seen}/pid", "--skip-networking"),
        *("--mysqlx=OFF", "--secure-file-priv=NULL", "--gtid-mode=ON", "--enforce-gtid-consistency=ON"),
        *("--max-allowed-packet=1G", "--event-scheduler=OFF"),
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    server = Server(True, folder, str(folder), inside(clients, folder))

    def answers() -> bool:
        try:
            server.session().close()
        except pymysql.MySQLError:
            return False
        return True

    try:
        until("MySQL answers", answers, seconds=60)
        yield server
    finally:
        process.kill()
        process.wait()
        (clients / str(folder).lstrip("/")).rmdir()
        shutil.rmtree(folder)


@pytest.fixture(scope="module", params=[*SUITES, "MySQL"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    patch = pytest.MonkeyPatch()
    patch.setenv("TZ", ELSEWHERE)
    with mysql() if request.param == "MySQL" else mariadb(request.param) as server:
        server.run(*(["SET GLOBAL super_read_only = OFF"] if server.mysql else []), "SET GLOBAL read_only = OFF")
        server.run("SET GLOBAL log_bin_trust_function_creators = ON", *statements(server.mysql))
        yield server
    patch.undo()


def held(server: Server, schema: str) -> dict[str, list[str]]:
    """Each object by its statement, and what is in it."""
    found: dict[str, list[str]] = {}
    session = server.session()
    cursor = session.cursor()

    def rows(statement: str, *values: str) -> list[tuple[Any, ...]]:
        cursor.execute(statement, values or None)
        return list(cursor.fetchall())

    def told(statement: str) -> list[str]:
        return [str(each) for row in rows(statement) for each in row[:6]]

    for setting in (f"USE {q(schema)}", "SET time_zone = '+00:00'", "SET sql_mode = ''"):
        cursor.execute(setting)
    in_schema = "information_schema.{} WHERE {}_schema = %s ORDER BY 1"
    for name, kind in rows(f"SELECT table_name, table_type FROM {in_schema.format('tables', 'table')}", schema):
        found[f"{kind} {name}"] = told(f"SHOW CREATE TABLE {q(name)}")
        columns = rows(
            "SELECT column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
            schema, name,
        )  # fmt: skip
        every = " FOR SYSTEM_TIME ALL" if kind == "SYSTEM VERSIONED" else ""
        chosen = ", ".join(as_text(*column) for column in columns)
        found[f"rows of {name}"] = sorted(map(str, rows(f"SELECT {chosen} FROM {q(name)}{every}")))
    for name, *more in rows(
        "SELECT trigger_name, event_object_table, action_order, definer, event_object_schema FROM "
        + in_schema.format("triggers", "trigger"), schema,
    ):  # fmt: skip
        found[f"trigger {name}"] = [*told(f"SHOW CREATE TRIGGER {q(name)}"), *map(str, more)]
    for name, kind, *more in rows(
        "SELECT routine_name, routine_type, security_type, sql_data_access, routine_comment, definer FROM "
        + in_schema.format("routines", "routine"), schema,
    ):  # fmt: skip
        found[f"{kind} {name}"] = [*told(f"SHOW CREATE {kind} {q(name)}"), *map(str, more)]
    for (name,) in rows(f"SELECT event_name FROM {in_schema.format('events', 'event')}", schema):
        found[f"event {name}"] = told(f"SHOW CREATE EVENT {q(name)}")
    session.close()
    return found


def as_text(column: str, kind: str) -> str:
    if kind in ("float", "double"):
        return f"{q(column)} + 0e0"
    if kind in ("longblob", "longtext"):
        return f"CONCAT(LENGTH({q(column)}), ' ', SHA2({q(column)}, 256))"
    if kind == "enum":
        return f"CONCAT({q(column)} + 0, ' ', HEX({q(column)}))"
    if kind in ("bit", "point", "geometry", "vector") or re.search("char|text|binary|blob", kind):
        return f"HEX({q(column)})"
    return f"CAST({q(column)} AS CHAR)"


def loaded_as(name: str, found: dict[str, list[str]]) -> dict[str, list[str]]:
    """As they are in the schema of that name: what names its own schema names that, and a trigger's head none."""
    named = {}
    for what, texts in found.items():
        if what.startswith("trigger "):
            texts = [text.replace(f"{q(OURS)}.", "") for text in texts]
        named[what] = [name if text == OURS else text.replace(f"{q(OURS)}.", f"{q(name)}.") for text in texts]
    return named


def owned(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """With the application as who defined them."""
    for_app = (
        (r"`root`@`localhost`|`other`@`%`|(?<=DEFINER=)`boss`", "`app`@`%`"),
        ('"root"@"localhost"', '"app"@"%"'),
    )
    return {what: [as_of_app(text, for_app) for text in texts] for what, texts in found.items()}


def as_of_app(text: str, changes: tuple[tuple[str, str], ...]) -> str:
    for old, new in (*changes, (r"^(?:root@localhost|other@%|boss@?)$", "app@%")):
        text = re.sub(old, new, text)
    return text


def assert_same(after: dict[str, list[str]], before: dict[str, list[str]]) -> None:
    """But for a character set that MySQL says in some statements and in others not, where it is the collation's."""

    def plain(texts: list[str]) -> list[str]:
        return [re.sub(r" CHARACTER SET \w+(?= COLLATE)", "", text) for text in texts]

    assert sorted(after) == sorted(before)
    for what, texts in before.items():
        assert plain(after[what]) == plain(texts), what


def function(text: str, name: str) -> str:
    return text[text.index(f"\n{name}() {{") : text.index("\n}\n", text.index(f"\n{name}() {{")) + 3]


SOURCED = """
work={folder} secret={folder}
stop_with() {{ echo "$*" >&2; exit 1; }}
for each in table_checks schema_dump table_history; do . $RS_ATTACH_DIR/$each.sh; done
"""


@pytest.mark.parametrize("then", ["ask 'SELECT @mine'", "sum_tables 60"])
def test_a_session_that_was_ended_is_waited_for_no_more_and_none_else_takes_its_place(
    server: Server, tmp_path: Path, then: str
) -> None:
    """Its server was killed, say, or a failover ended what its applier waited for; and another sees other rows."""
    said = server.shell(
        SOURCED.format(folder=tmp_path)
        + f"""
        open_session "${{here[@]}}" -N -B --unbuffered --force
        ask "SET @mine = 1" >/dev/null
        sql "KILL $(ask 'SELECT CONNECTION_ID()')"
        SECONDS=0
        trap 'echo "$SECONDS s" >&2' EXIT
        {then}
        echo "it goes on" """,
        tmp_path,
    )

    assert (said.returncode, said.stdout) == (1, ""), said
    *_, told, seconds = said.stderr.splitlines()
    assert told.startswith("The session in which rows were counted has ended. ERROR 20"), said.stderr
    assert int(seconds.split()[0]) < 5


@pytest.mark.parametrize("name", [NEW, OURS])
def test_a_backup_restored(server: Server, tmp_path: Path, name: str) -> None:
    before = held(server, OURS)
    backed_up = server.shell(
        SOURCED.format(folder=tmp_path) + f"""
        default=$(default_of {OURS}); sums_of {OURS} 60 >$work/before; dump_schema {OURS} >$work/dump
        sums_of {OURS} 60 >$work/after; sums_of_both $work/before $work/after >$work/check
        jq -n --arg version "$(sql 'SELECT VERSION()')" --argjson default "$default" --slurpfile check $work/check \\
          '{{$version, $default, check: $check[0]}}' >$work/manifest""",
        tmp_path,
    )  # fmt: skip
    assert backed_up.returncode == 0, backed_up.stderr
    assert f"{OURS}.singles.f" in backed_up.stderr
    server.run("SET foreign_key_checks = 0", f"DROP DATABASE IF EXISTS {q(name)}")
    text = (SCRIPTS / "restore_schema.sh").read_text()
    made = next(line for line in text.splitlines() if line.startswith("as=$(jq"))
    parts = "\n".join(function(text, each) for each in ("in_this_year", "load", "compare"))

    restored = server.shell(
        SOURCED.format(folder=tmp_path)
        + parts
        + f"""
        plain() {{ cat $work/dump; }}
        RESTORE_SCHEMA={OURS} trial={name}
        {made}
        sql "CREATE DATABASE \\`{name}\\` $as"
        load {name} "SET sql_log_bin = 0;"
        compare""",
        tmp_path,
    )  # fmt: skip

    assert restored.returncode == 0, restored.stderr
    assert int(restored.stdout) > 30, (tmp_path / "manifest").read_text() + (tmp_path / "before").read_text()
    assert_same(held(server, name), loaded_as(name, before))


@pytest.mark.parametrize("name", [NEW, OURS])
def test_a_dump_imported(server: Server, tmp_path: Path, name: str) -> None:
    before = held(server, OURS)
    options = "--single-transaction --routines --events --triggers --max-allowed-packet=1G"
    dumper = f"mysqldump {options} --set-gtid-purged=OFF" if server.mysql else f"mariadb-dump {options} --dump-history"
    dumped = server.shell(f"{dumper} --databases {OURS} >{tmp_path}/dump", tmp_path)
    assert dumped.returncode == 0, dumped.stderr
    server.run("SET foreign_key_checks = 0", f"DROP DATABASE IF EXISTS {q(name)}")
    text = (SCRIPTS / "import_database.sh").read_text()
    unknown = text[text.index("known=$(collations)") : text.index('if [ "$client" = mariadb ]; then\n  year')]
    load = text[
        text.index('import_account "$loader"') : text.index('\nsql "DELETE FROM relaunch.import_loading WHERE run')
    ]

    imported = server.shell(
        f"""
        . $RS_ATTACH_DIR/import_account.sh
        loader=relaunch_import_dump folder={server.folder} reader=$RS_ATTACH_DIR/import_dump.py dump={tmp_path}/dump
        schemas=({name} other) IMPORT_SCHEMA={name if name == NEW else ""} DB_USER=app
        python3 "$reader" look "$dump" >{tmp_path}/facts
        fact() {{ jq -r "$1" {tmp_path}/facts; }}
        {unknown}
        sql "CREATE DATABASE \\`{name}\\` $(fact '.databases["{OURS}"]')"
        {load.replace('"$folder/loader.cnf" ${rename', f'"{server.seen}/loader.cnf" ${{rename')}
        sql "DROP USER $loader@localhost" """,
        tmp_path,
    )

    assert imported.returncode == 0, imported.stderr + imported.stdout
    assert f"{OURS}.singles.f" in (tmp_path / "facts").read_text()
    assert_same(held(server, name), owned(before if name == OURS else loaded_as(NEW, before)))


def test_an_event_that_no_dumper_comes_to_the_end_of_is_named(server: Server, tmp_path: Path) -> None:
    server.run(
        "CREATE DATABASE endless",
        "CREATE EVENT endless.`one two` ON SCHEDULE EVERY 1 DAY STARTS '2035-01-01' DO SET @a = ';;'",
    )

    done = server.shell(SOURCED.format(folder=tmp_path) + "dump_schema endless >$work/dump", tmp_path)

    if done.returncode == 0:
        assert b"Dump completed" in (tmp_path / "dump").read_bytes()
    else:
        assert "endless.one two" in done.stderr
