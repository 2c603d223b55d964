"""Bringing an existing database into a real group: by dumps, and from a server that goes on being written to.

A controller of its own, servers of the template mysql, and a MariaDB in a root of its own that is not ours.
RELAUNCH_IMPORT_TEST_STATE names another folder than /var/tmp/relaunch-test-import; with RELAUNCH_TEST_KEEP the servers
stay for the next run.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import pytest
from debian_root import inside
from foreign_writer import Writer
from mariadb_lab import root_of

from relaunch.cli.servers import ssh_command

PROJECT = Path(__file__).parents[2]
STATE = Path(os.environ.get("RELAUNCH_IMPORT_TEST_STATE", "/var/tmp/relaunch-test-import"))
SETTINGS = 'network = "198.19.20.0/24"\nbridge = "rlt-imp"\napi_port = 17720\nbus_port = 17722\n'
ENVIRONMENT = {**os.environ, "RELAUNCH_STATE": str(STATE), "PYTHONPATH": str(PROJECT / "src")}
HOST, PORT = "198.19.20.1", 17729
PASSWORD = 'it\'s a \\ "secret"'
GROUP = """deployment: imp
servers:
  db1: {template: mysql, zone: a, memory: 1G}
  db2: {template: mysql, zone: b, memory: 1G}
database:
  primary: db1
  replicas: [db2]
  backups: {full: never, incremental: never, primary: never, prove: never, schemas: never}
credentials: {DB_PASSWORD: generate, REPLICATION_PASSWORD: generate}
"""
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.timeout(900),
]


def relaunch(*words: str, check: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "relaunch.cli.main", *words], stdin=subprocess.DEVNULL,
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout
    assert PASSWORD not in done.stdout
    return done.stdout


def refused(*words: str) -> str:
    """What it says."""
    said = relaunch("db", "import", "imp", *words, check=False)
    assert ": done" not in said, said
    return said


def until(is_so: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


def sql(server: str, statements: str) -> str:
    """As root on a server of the group, by its name."""
    address = json.loads(relaunch("server", "show", f"imp/{server}", "--json"))["private_address"]
    return on(address, "mariadb -N -B", statements)


def on(address: str, command: str, text: str = "") -> str:
    done = subprocess.run(
        ssh_command(address, STATE / "ssh/id_ed25519", [command]),
        input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def status() -> dict[str, Any]:
    return dict(json.loads(relaunch("db", "status", "imp", "--json")))


def primary() -> str:
    return str(status()["primary"])


@dataclass
class Foreign:
    """A MariaDB as somebody else runs it: no GTID settings, domain 0, server 1, latin1."""

    folder: Path
    root: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def inside(self) -> list[str]:
        return inside(self.root, self.folder)

    def start(self) -> None:
        subprocess.run(
            [*self.inside, "mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={self.folder}/data",
             "--skip-test-db", "--skip-name-resolve", "--force"], check=True, capture_output=True,
        )  # fmt: skip
        self.process = subprocess.Popen(
            [*self.inside, "mariadbd", "--no-defaults", "--user=root", f"--datadir={self.folder}/data",
             f"--socket={self.folder}/s", f"--pid-file={self.folder}/pid", f"--port={PORT}",
             f"--bind-address={HOST}", "--server-id=1",
             "--log-bin=theirs", "--binlog-format=ROW", "--skip-name-resolve", "--innodb-buffer-pool-size=64M"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(self.folder / "log").open("wb"),
            start_new_session=True,
        )  # fmt: skip
        until(lambda: self.answers(), "the foreign server answers")
        quoted = PASSWORD.replace("\\", "\\\\").replace("'", "''")
        self.sql(
            f"CREATE USER mover@'%' IDENTIFIED BY '{quoted}'; CREATE USER app@'%' IDENTIFIED BY 'app';"
            "CREATE DATABASE shop CHARACTER SET latin1; CREATE DATABASE other; CREATE TABLE other.noise (i INT);"
            "GRANT ALL ON shop.* TO app@'%'; GRANT ALL ON other.* TO app@'%'"
        )
        self.sql(
            "USE shop; CREATE TABLE ledger (id INT PRIMARY KEY AUTO_INCREMENT, amount DECIMAL(9,2), note VARCHAR(99),"
            " raw BLOB, at TIMESTAMP(6) DEFAULT NOW(6)); CREATE TABLE total (id INT PRIMARY KEY, n INT);"
            "INSERT INTO total VALUES (1, 0); CREATE TRIGGER counts AFTER INSERT ON ledger FOR EACH ROW"
            " UPDATE total SET n = n + 1 WHERE id = 1; CREATE VIEW amounts AS SELECT id, amount FROM ledger;"
            "CREATE FUNCTION twice (x INT) RETURNS INT DETERMINISTIC RETURN 2 * x;"
            "INSERT INTO ledger (amount, note, raw) SELECT seq, CONCAT('\\\\ '' ', CHAR(228 USING latin1)),"
            " UNHEX(MD5(seq)) FROM seq_1_to_2000"
        )

    def answers(self) -> bool:
        ask = [*self.inside, "mariadb", "--no-defaults", "-uroot", f"-S{self.folder}/s", "-e", "SELECT 1"]
        return subprocess.run(ask, capture_output=True, check=False).returncode == 0

    def sql(self, statements: str) -> str:
        done = subprocess.run(
            [*self.inside, "mariadb", "--no-defaults", "-uroot", f"-S{self.folder}/s", "-N", "-B"], input=statements,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def grant(self, more: str = "") -> None:
        self.sql(
            f"GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, REPLICATION SLAVE, BINLOG MONITOR{more} ON *.* TO mover@'%'"
        )

    def dump(self, file: Path, *words: str) -> Path:
        command = [
            *self.inside,
            "mariadb-dump",
            "--no-defaults",
            "-uroot",
            f"-S{self.folder}/s",
            "--routines",
            "--triggers",
            *words,
        ]
        file.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
        return file

    def stop(self) -> None:
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    keep = bool(os.environ.get("RELAUNCH_TEST_KEEP"))
    if not keep:
        put_away()
    STATE.mkdir(parents=True, exist_ok=True)
    (STATE / "controller.toml").write_text(SETTINGS)
    (STATE / "group.yml").write_text(GROUP)
    try:
        relaunch("controller", "start")
        relaunch("apply", str(STATE / "group.yml"), "--yes")
        until(lambda: status()["mode"] == "sync", "the group is in step")
        yield
    finally:
        if not keep:
            put_away()


def put_away() -> None:
    if STATE.exists():
        relaunch("demo", "--stop", "--purge")
        shutil.rmtree(STATE, ignore_errors=True)


@pytest.fixture
def foreign(group: None, tmp_path: Path) -> Iterator[Foreign]:
    root = root_of("trixie")
    assert root is not None, "mmdebstrap is not installed"
    found = Foreign(tmp_path, root)
    try:
        found.start()
        yield found
    finally:
        found.stop()
        relaunch("db", "import", "imp", "--cancel", check=False)
        sql(primary(), "DROP DATABASE IF EXISTS shop; DROP DATABASE IF EXISTS copied")


def sums(ask: Callable[[str], str], schema: str = "shop") -> str:
    return ask(f"CHECKSUM TABLE {schema}.ledger, {schema}.total; SELECT * FROM {schema}.total").replace(schema, "")


def from_server(tmp_path: Path, *words: str) -> tuple[str, ...]:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    return ("--from-server", f"{HOST}:{PORT}", "--user", "mover", "--password-file", str(file), *words)


def test_a_dump_is_loaded_and_reaches_the_replica(foreign: Foreign, tmp_path: Path) -> None:
    plain = foreign.dump(tmp_path / "shop.sql", "--databases", "shop", "--system=users").read_bytes()
    # What a MySQL with GTID writes: with this, replicas would not get anything.
    packed = tmp_path / "shop.sql.gz"
    packed.write_bytes(
        gzip.compress(b"SET @@SESSION.SQL_LOG_BIN= 0;\nSET @@GLOBAL.GTID_PURGED='a:1-5,\nb:1';\n" + plain)
    )

    said = relaunch("db", "import", "imp", "--from-dump", str(packed))

    assert "left out, as it is of another server" in said and "SQL_LOG_BIN" in said
    assert sums(foreign.sql) == sums(lambda ask: sql("db1", ask))
    until(lambda: sums(foreign.sql) == sums(lambda ask: sql("db2", ask)), "the replica has it")
    assert sql("db1", "SELECT shop.twice(4), COUNT(*) FROM shop.amounts") == "8\t2000"
    assert "mover" not in sql("db1", "SELECT user FROM mysql.user")
    assert (
        sql("db1", "SELECT DISTINCT definer FROM information_schema.triggers WHERE trigger_schema = 'shop'") == "app@%"
    )


def test_a_dump_that_breaks_leaves_nothing(foreign: Foreign, tmp_path: Path) -> None:
    whole = foreign.dump(tmp_path / "whole.sql", "shop").read_bytes()
    cut, wrong = tmp_path / "cut.sql", tmp_path / "wrong.sql"
    cut.write_bytes(whole[: len(whole) // 2])
    wrong.write_bytes(whole.replace(b"INSERT INTO `total`", b"INSERT INTO `nobody`"))

    of_cut = refused("--from-dump", str(cut), "--schema", "copied")
    of_wrong = refused("--from-dump", str(wrong), "--schema", "copied")
    nameless = refused("--from-dump", str(tmp_path / "whole.sql"))

    assert "breaks off" in of_cut and "nobody" in of_wrong and "--schema NAME" in nameless
    assert "copied" not in sql("db1", "SHOW DATABASES")
    until(lambda: "copied" not in sql("db2", "SHOW DATABASES"), "nothing of it is on the replica")


def test_what_is_there_is_replaced_only_when_confirmed_and_comes_back_when_the_load_breaks(
    foreign: Foreign, tmp_path: Path
) -> None:
    whole = foreign.dump(tmp_path / "whole.sql", "shop")
    wrong = tmp_path / "wrong.sql"
    wrong.write_bytes(whole.read_bytes().replace(b"INSERT INTO `total`", b"INSERT INTO `nobody`"))
    sql("db1", "CREATE DATABASE copied; CREATE TABLE copied.old (i INT); INSERT INTO copied.old VALUES (7)")

    asked = refused("--from-dump", str(whole), "--schema", "copied")
    assert "There are tables in copied" in asked
    refused("--from-dump", str(wrong), "--schema", "copied", "--confirm", "imp")
    assert sql("db1", "SELECT * FROM copied.old") == "7"
    relaunch("db", "import", "imp", "--from-dump", str(whole), "--schema", "copied", "--confirm", "imp")

    assert sums(foreign.sql) == sums(lambda ask: sql("db1", ask), "copied")
    assert "old" not in sql("db1", "SHOW TABLES IN copied").split()


def test_what_an_earlier_import_noted_as_half_is_not_dropped_by_another(foreign: Foreign, tmp_path: Path) -> None:
    whole = str(foreign.dump(tmp_path / "whole.sql", "shop"))
    sql("db1", "CREATE DATABASE copied; CREATE TABLE copied.old (i INT); INSERT INTO copied.old VALUES (7)")
    # As an earlier release noted it.
    sql(
        "db1",
        "DROP TABLE IF EXISTS relaunch.import_loading; CREATE TABLE relaunch.import_loading (name VARCHAR(64) PRIMARY"
        " KEY, saved VARCHAR(255) NOT NULL, begun DATETIME NOT NULL) ENGINE = InnoDB;"
        "INSERT INTO relaunch.import_loading VALUES ('copied', '/missing', UTC_TIMESTAMP())",
    )

    refused("--from-dump", whole)
    said = relaunch("db", "import", "imp", "--from-dump", whole, "--schema", "shop")

    assert "an earlier import of copied broke off" in said
    assert sql("db1", "SELECT * FROM copied.old") == "7"
    assert "There are tables in copied" in refused("--from-dump", whole, "--schema", "copied")
    relaunch("db", "import", "imp", "--from-dump", whole, "--schema", "copied", "--confirm", "imp")
    assert "old" not in sql("db1", "SHOW TABLES IN copied").split()
    assert sql("db1", "SELECT * FROM relaunch.import_loading") == ""


def test_a_server_that_cannot_be_followed_is_refused_with_all_reasons(foreign: Foreign, tmp_path: Path) -> None:
    foreign.sql("GRANT SELECT ON shop.* TO mover@'%'; SET GLOBAL binlog_format = MIXED")

    said = refused(*from_server(tmp_path, "--schema", "shop"))

    assert "mover lacks SHOW VIEW, TRIGGER, EVENT, REPLICATION SLAVE, BINLOG MONITOR" in said
    assert "binlog_format is MIXED" in said
    assert "shop" not in sql("db1", "SHOW DATABASES").split()
    assert "nothing is being imported" in refused("--status")


def test_cancelled_nothing_stays(foreign: Foreign, tmp_path: Path) -> None:
    foreign.grant()
    relaunch("db", "import", "imp", *from_server(tmp_path, "--schema", "shop"))
    before = json.loads(relaunch("db", "import", "imp", "--status", "--json"))

    relaunch("db", "import", "imp", "--cancel")

    assert before["follows"] and before["stage"] == "following"
    assert "shop" not in sql("db1", "SHOW DATABASES").split()
    assert "relaunch_import" not in sql("db1", "SELECT user FROM mysql.user").split()
    assert "import" not in relaunch("credential", "list")
    assert "nothing is being imported" in refused("--status")


def test_a_schema_that_is_there_has_the_other_servers_collation_until_it_is_cancelled(
    foreign: Foreign, tmp_path: Path
) -> None:
    foreign.grant()
    foreign.sql("CREATE PROCEDURE shop.same (wanted VARCHAR(50)) SELECT wanted")
    sql("db1", "CREATE DATABASE shop COLLATE utf8mb4_turkish_ci")
    of_parameter = "SELECT collation_name FROM information_schema.parameters WHERE specific_name = 'same'"
    of_schema = "SELECT default_collation_name FROM information_schema.schemata WHERE schema_name = 'shop'"

    relaunch("db", "import", "imp", *from_server(tmp_path, "--schema", "shop"))
    assert sql("db1", of_parameter) == foreign.sql(of_parameter) == "latin1_swedish_ci"
    relaunch("db", "import", "imp", "--cancel")

    assert sql("db1", of_schema) == "utf8mb4_turkish_ci"


def test_cut_over_only_once_nobody_writes(foreign: Foreign, tmp_path: Path) -> None:
    foreign.grant()
    writer = Writer(HOST, PORT)
    writer.start()
    relaunch("db", "import", "imp", *from_server(tmp_path, "--schema", "shop"))

    still = refused("--cut-over", "--wait", "4")
    assert "Something still writes there" in still
    foreign.sql("CREATE TABLE shop.later (i INT PRIMARY KEY); USE other; ALTER TABLE shop.later ADD t TEXT DEFAULT 'x'")
    foreign.sql(
        "INSERT INTO shop.later (i) VALUES (1); CREATE OR REPLACE VIEW shop.amounts AS SELECT id FROM shop.ledger"
    )
    writer.stop()
    said = relaunch("db", "import", "imp", "--cut-over", "--quiet", "1")

    assert "3 tables equal on both sides" in said
    assert sql("db1", "SELECT * FROM shop.later") == "1\tx"
    assert sql("db1", "SELECT DISTINCT definer FROM information_schema.views WHERE table_schema = 'shop'") == "app@%"
    kept = {int(word) for word in sql(primary(), "SELECT id FROM shop.ledger").split()}
    assert len(writer.acknowledged) > 20 and set(writer.acknowledged) <= kept


def test_a_change_of_structure_under_way_is_not_begun_again(foreign: Foreign, tmp_path: Path) -> None:
    foreign.grant()
    foreign.sql(
        "USE shop; CREATE TABLE big (id INT PRIMARY KEY, t VARCHAR(200));"
        "INSERT INTO big SELECT seq, REPEAT('x', 200) FROM seq_1_to_600000"
    )
    address = json.loads(relaunch("server", "show", "imp/db1", "--json"))["private_address"]
    relaunch("db", "import", "imp", *from_server(tmp_path, "--schema", "shop"))
    under_way = (
        "SELECT COUNT(*) FROM information_schema.processlist"
        " WHERE user = 'relaunch_import' AND info LIKE '%ALTER TABLE%'"
    )

    foreign.sql("ALTER TABLE shop.big ADD later INT, ALGORITHM = COPY")
    until(lambda: on(address, "mariadb -N -B", under_way) == "1", "the change is under way here, too")
    on(address, "systemctl restart relaunch-import")
    said = relaunch("db", "import", "imp", "--cut-over", "--quiet", "1")

    assert "3 tables equal on both sides" in said


def test_rows_that_differ_stop_the_cut_over(foreign: Foreign, tmp_path: Path) -> None:
    foreign.grant()
    relaunch("db", "import", "imp", *from_server(tmp_path, "--schema", "shop"))
    sql("db1", "UPDATE shop.ledger SET amount = 0 WHERE id = 77")

    said = refused("--cut-over", "--quiet", "1")

    assert "Both sides are not equal" in said and "shop.ledger" in said
    assert json.loads(relaunch("db", "import", "imp", "--status", "--json"))["stage"] == "following"


def test_who_was_locked_already_stays_so_when_a_cut_over_fails(foreign: Foreign, tmp_path: Path) -> None:
    foreign.grant(", CREATE USER, CONNECTION ADMIN, PROCESS")
    foreign.sql("CREATE USER gone@'%' ACCOUNT LOCK; GRANT ALL ON shop.* TO gone@'%'")
    relaunch("db", "import", "imp", *from_server(tmp_path, "--schema", "shop"))
    sql("db1", "UPDATE shop.ledger SET amount = 0 WHERE id = 77")

    said = refused("--cut-over", "--quiet", "1")

    assert "Unlocked there: 'app'@'%'" in said and "'gone'" not in said
    locked = "SELECT user FROM mysql.global_priv WHERE JSON_VALUE(priv, '$.account_locked') = 1 AND host = '%'"
    assert foreign.sql(locked) == "gone"


def test_a_dump_is_loaded_while_a_server_is_followed(foreign: Foreign, tmp_path: Path) -> None:
    foreign.grant()
    relaunch("db", "import", "imp", *from_server(tmp_path, "--schema", "shop"))
    whole = foreign.dump(tmp_path / "whole.sql", "shop")

    relaunch("db", "import", "imp", "--from-dump", str(whole), "--schema", "copied")
    on_primary = json.loads(relaunch("server", "show", f"imp/{primary()}", "--json"))["private_address"]
    on(on_primary, "systemctl restart relaunch-import")  # a session that is open outlives its account
    foreign.sql("INSERT INTO shop.ledger (amount) VALUES (5)")

    until(lambda: sums(foreign.sql) == sums(lambda ask: sql(primary(), ask)), "it is followed on")


def test_through_a_failover_every_acknowledged_write_arrives_and_accounts_are_locked(
    foreign: Foreign, tmp_path: Path
) -> None:
    foreign.grant(", CREATE USER, CONNECTION ADMIN, PROCESS")
    writer = Writer(HOST, PORT)
    writer.start()
    relaunch("db", "import", "imp", *from_server(tmp_path, "--schema", "shop"))
    old = primary()
    other = "db2" if old == "db1" else "db1"
    address, replica = (
        json.loads(relaunch("server", "show", f"imp/{each}", "--json"))["private_address"] for each in (old, other)
    )
    # What follows is a client like any other: where no writes are taken, it is refused.
    write = "UPDATE relaunch.import_source SET position = 1"
    denied = on(replica, f"mariadb --defaults-extra-file=/etc/relaunch/import/ours.cnf -e '{write}' 2>&1 || true")
    assert "read-only" in denied, denied
    on(address, "systemctl stop relaunch-agent; pkill -9 mariadbd; systemctl mask --now mariadb")
    until(lambda: primary() != old, "another server is the primary", 180)

    def follows() -> bool:
        shown = relaunch("db", "import", "imp", "--status", "--json", check=False)
        return '"follows": true' in shown

    until(follows, "the new primary follows", 300)
    before = len(writer.acknowledged)
    until(lambda: len(writer.acknowledged) > before + 20, "the application writes on")
    said = relaunch("db", "import", "imp", "--cut-over")
    writer.stop()

    assert "Locked there: 'app'@'%'" in said
    result = json.loads(next(line for line in said.splitlines() if line.startswith("CUT-OVER "))[9:])
    print(f"downtime {result['downtime_seconds']} s, {len(writer.acknowledged)} acknowledged")
    kept = {int(word) for word in sql(primary(), "SELECT id FROM shop.ledger").split()}
    assert writer.accounts_for(kept - set(range(1, 2001)))
    assert sums(foreign.sql) == sums(lambda ask: sql(primary(), ask))
    # Nothing of the other server's history is in the group's: one domain.
    assert "," not in sql(primary(), "SELECT @@gtid_binlog_pos")
    with pytest.raises(pymysql.err.MySQLError):
        pymysql.connect(host=HOST, port=PORT, user="app", password="app")
