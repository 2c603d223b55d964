"""What people order about a group of MySQL servers: compare replicas, change passwords, read what an old primary alone
has, bring an existing database, have a replica more or less, or all of another size. All real; see mysql_stand.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pymysql
import pytest
from foreign_mysql import MORE_RIGHTS, RIGHTS, Foreign
from foreign_mysql import PASSWORD as FOREIGN_PASSWORD
from foreign_writer import Writer
from mysql_stand import NEEDS, NUMBER, STATE, Group, group_of, relaunch, until
from sqlalchemy import create_engine

from relaunch.cli.servers import ssh_command
from relaunch.clock import SystemClock
from relaunch.controller.log import Secrets
from relaunch.controller.vault import SealedVault, master_key

FILE = """deployment: my
servers:
  db1: {template: mysql9, zone: a, memory: 1G}
  db2: {template: mysql9, zone: b, memory: 1G}
inputs: {INNODB_BUFFER_POOL: "text:32M", DB_NAME: "text:shop"}
database:
  primary: db1
  replicas: [db2]
  backups: {full: never, incremental: never, primary: never, prove: never, schemas: never}
credentials: {REPLICATION_PASSWORD: generate}
"""
HOST, PORT = f"198.19.{NUMBER}.1", 17505 + 6 * NUMBER
TABLES = """
CREATE DATABASE IF NOT EXISTS rack;
CREATE TABLE IF NOT EXISTS rack.big (a INT, b VARCHAR(64), c TEXT, PRIMARY KEY (a, b)) COLLATE utf8mb4_unicode_ci;
SET SESSION cte_max_recursion_depth = 20000;
INSERT IGNORE INTO rack.big WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 20000)
  SELECT n % 300, SHA2(n, 256), REPEAT('ä', n % 50) FROM s;
CREATE TABLE IF NOT EXISTS rack.small (a INT PRIMARY KEY); INSERT IGNORE INTO rack.small VALUES (1), (2);
CREATE TABLE IF NOT EXISTS rack.no_key (a INT); CREATE TABLE IF NOT EXISTS rack.isam (a INT) ENGINE = MyISAM;
CREATE TABLE IF NOT EXISTS rack.kinds (a INT PRIMARY KEY, j JSON, b BIT(9), f DOUBLE, p POINT, e ENUM ('x', 'y'),
  t TIMESTAMP(6), v BLOB, g INT AS (a + 1), d DATETIME DEFAULT NOW());
INSERT IGNORE INTO rack.kinds (a, j, b, f, p, e, t, v) VALUES
  (1, '{"a": "ä"}', b'101', 1 / 3, POINT(1, 2), 'y', NOW(6), X'00ff27'), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
"""
CHANGES = """
UPDATE rack.big SET c = UUID() WHERE a = {n};
DELETE FROM rack.big WHERE a = {more} ORDER BY b LIMIT 1;
INSERT INTO rack.big VALUES ({n}, UUID(), 'new');
"""
# Of MariaDB 11.8, shortened.
MARIADB_DUMP = """/*M!999999\\- enable the sandbox mode */
-- MariaDB dump 10.20-11.8.9-MariaDB, for debian-linux-gnu (x86_64)
/*!40101 SET NAMES utf8mb4 */;
/*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO' */;
/*M!100616 SET @OLD_NOTE_VERBOSITY=@@NOTE_VERBOSITY, NOTE_VERBOSITY=0 */;
DROP TABLE IF EXISTS `t`;
CREATE TABLE `t` (
  `id` int(11) NOT NULL AUTO_INCREMENT,
  `note` varchar(40) DEFAULT NULL,
  `j` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`j`)),
  `at` timestamp NULL DEFAULT current_timestamp() ON UPDATE current_timestamp(),
  PRIMARY KEY (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=2 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;
SET @OLD_AUTOCOMMIT=@@AUTOCOMMIT, @@AUTOCOMMIT=0;
LOCK TABLES `t` WRITE;
INSERT INTO `t` VALUES
(1,'it\\'s ä','{\\"a\\": 1}','2026-11-28 04:21:50');
UNLOCK TABLES;
COMMIT;
SET AUTOCOMMIT=@OLD_AUTOCOMMIT;
/*!50003 SET collation_connection  = utf8mb4_uca1400_ai_ci */ ;
/*!50003 SET sql_mode              = 'STRICT_TRANS_TABLES,NO_AUTO_CREATE_USER,NO_ENGINE_SUBSTITUTION' */ ;
DELIMITER ;;
/*!50003 CREATE*/ /*!50017 DEFINER=`gone`@`nowhere`*/ /*!50003 TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.id = 7
*/;;
CREATE DEFINER=`gone`@`nowhere` FUNCTION `f`(x INT) RETURNS int(11)
RETURN x + RAND() * 0
;;
/*!50106 CREATE*/ /*!50117 DEFINER=`gone`@`nowhere`*/ /*!50106 EVENT `tick` ON SCHEDULE EVERY 1 SECOND
STARTS '2020-01-01' ON COMPLETION NOT PRESERVE ENABLE DO INSERT INTO t (note) VALUES ('tick') */ ;;
DELIMITER ;
/*!50001 SET collation_connection      = utf8mb4_uca1400_ai_ci */;
/*!50001 CREATE ALGORITHM=UNDEFINED */
/*!50013 DEFINER=`gone`@`nowhere` SQL SECURITY DEFINER */
/*!50001 VIEW `v` AS select `t`.`id` AS `id`,`t`.`id` + 1 AS `n` from `t` */;
/*M!100616 SET NOTE_VERBOSITY=@OLD_NOTE_VERBOSITY */;

-- Dump completed on 2026-11-28  4:21:50
"""
LONG = pytest.mark.skipif(not os.environ.get("RELAUNCH_LONG_TESTS"), reason="RELAUNCH_LONG_TESTS=1 asks for it")
pytestmark = NEEDS


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with group_of(FILE) as group:
        many(group, "primary", TABLES)
        yield group


def many(group: Group, role: str, statements: str) -> str:
    """Statements by the standard input of the client."""
    return group.run(group.member(role)["address"], "mysql -N -B", given=statements.encode())


def one(group: Group, role: str, statement: str) -> str:
    return many(group, role, statement + ";")


def refused(*words: str) -> str:
    said = relaunch(*words, check=False)
    assert ": done" not in said, said
    return said


def pages(group: Group) -> set[str]:
    return {page["rule"] for page in group.shown()["pages"]}


def test_replicas_are_the_same_also_under_writes(group: Group) -> None:
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            many(group, "primary", "".join(CHANGES.format(n=n, more=n + 100) for n in range(90)))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        said = relaunch("db", "checksum", "my")
    finally:
        over.set()
        writer.join()

    assert "rack.big" in said and "rack.kinds" in said and "not compared: rack.isam: its engine is MyISAM" in said
    assert "!" not in said
    until(lambda: pages(group) == set(), "no page")


def test_a_difference_is_named_shown_and_mended_only_when_asked(group: Group) -> None:
    replica = group.member("replica")
    many(group, "replica",
         "SET GLOBAL super_read_only = OFF; SET GLOBAL read_only = OFF; SET sql_log_bin = 0;"
         "UPDATE rack.big SET c = 'other' WHERE a = 17 LIMIT 1; DROP TABLE rack.no_key;"
         "DELETE FROM rack.small WHERE a = 2; SET GLOBAL super_read_only = ON")  # fmt: skip

    said = relaunch("db", "checksum", "my", check=False)

    name = replica["name"]
    assert f"! rack.big on {name}" in said and "rows with other contents" in said
    assert f"! rack.small on {name}: 2 rows on the primary, 1 on {name}" in said
    assert f"! rack.no_key on {name}: the table is another one, or missing" in said
    until(lambda: pages(group) == {"replica differs"}, "that page alone")
    assert group.member("replica")["instance"] == replica["instance"]

    relaunch("db", "checksum", "my", "--repair")
    group.wait_whole()

    assert group.member("replica")["instance"] != replica["instance"]
    until(lambda: pages(group) == set(), "no page")
    assert "!" not in relaunch("db", "checksum", "my")


class App:
    """Logs in at the primary for each write, in the network of a replica."""

    def __init__(self, group: Group, worker: int, password: Callable[[], str]) -> None:
        self.acknowledged: list[int] = []
        self.failed: list[tuple[float, str]] = []  # when, in seconds since 1970, and why
        self.passwords: list[str] = []
        self.over = threading.Event()
        self._worker, self._password = worker, password
        self._address = group.member("primary")["address"]
        self._inside = group.process(group.member("replica"))
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> App:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._thread.join()

    def _work(self) -> None:
        with Path(f"/proc/{self._inside}/ns/net").open() as network:
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.setns(network.fileno(), 0x40000000) == 0  # CLONE_NEWNET: of this thread alone
        number = 0
        while not self.over.wait(0.01):
            number += 1
            try:
                password = self._password()
                if password not in self.passwords:
                    self.passwords.append(password)
                self._write(password, number)
                self.acknowledged.append(number)
            except (pymysql.MySQLError, OSError) as error:
                if not self.over.is_set():
                    self.failed.append((time.time(), f"{number}: {error!r}"))

    def _write(self, password: str, number: int) -> None:
        with pymysql.connect(
            host=self._address, user="app", password=password, database="shop", autocommit=True, connect_timeout=10,
            read_timeout=10, ssl=ssl._create_unverified_context(),
        ) as session:  # fmt: skip
            session.cursor().execute("INSERT INTO logins VALUES (%s, %s)", (self._worker, number))


def test_passwords_change_without_one_failed_login(group: Group) -> None:
    many(group, "primary", "CREATE TABLE shop.logins (worker INT, number INT, PRIMARY KEY (worker, number));")
    vault = SealedVault(
        create_engine(f"sqlite:///{STATE}/controller.db"), master_key(STATE / "master.key"), SystemClock(), Secrets()
    )
    replication = group.run(group.member("replica")["address"], "cat /etc/relaunch/replication.json")
    old = vault.credential("DB_PASSWORD")
    # One knows the new one as soon as it is decided, the other one goes on with the old one until it is dropped.
    with App(group, 1, lambda: vault.credential("DB_PASSWORD")) as early, App(group, 2, lambda: old) as late:
        until(lambda: len(late.acknowledged) > 20, "the apps to write")
        task = group.client.post("/databases/my/rotate-passwords", {})["task"]

        def begun() -> dict[str, float]:
            steps = group.client.get(f"/tasks/{task}")["steps"]
            return {each["name"]: datetime.fromisoformat(each["started"]).timestamp() for each in steps}

        until(lambda: "drop the old ones" in begun() or late.failed, "the last step", seconds=120)
        late.over.set()
        until(lambda: group.client.get(f"/tasks/{task}")["finished"], "the end", seconds=60)
        wrote = len(early.acknowledged)
        until(lambda: len(early.acknowledged) > wrote + 50, "the app to go on")

    assert group.client.get(f"/tasks/{task}")["state"] == "succeeded"
    assert early.failed == [] and len(early.passwords) == 2
    # The old one may be dropped before this test has seen that it is about to be.
    assert [why for at, why in late.failed if at < begun()["drop the old ones"]] == []
    rows = int(one(group, "primary", "SELECT COUNT(*) FROM shop.logins"))
    assert rows == len(early.acknowledged) + len(late.acknowledged)
    print(f"\n{rows} writes, each with a login of its own, 0 failed")
    new = early.passwords[-1]
    login = "mysql -h $(hostname -I | cut -d' ' -f1) -u app --ssl-mode=REQUIRED -e 'SELECT 1' 2>&1; true"
    for role in ("primary", "replica"):
        address = group.member(role)["address"]
        assert "Access denied" in group.run(address, f"MYSQL_PWD={old} {login}".replace(old, f"'{old}'"))
        assert "Access denied" not in group.run(address, f"MYSQL_PWD={new} {login}")
    replica = group.member("replica")["address"]
    assert group.run(replica, "cat /etc/relaunch/replication.json") != replication
    many(group, "replica", "STOP REPLICA IO_THREAD; START REPLICA IO_THREAD;")
    group.wait_whole()
    assert vault.credential("DB_PASSWORD") == new and not vault.has_credential("DB_PASSWORD.next")
    # A member that comes now knows the new ones, and what made the accounts does not bring back the old.
    assert "!" not in relaunch("db", "checksum", "my")


def test_what_an_old_primary_alone_has_is_read_and_never_applied(group: Group) -> None:
    group.wait_whole()
    old, new = group.member("primary"), group.member("replica")
    many(group, "primary", "CREATE TABLE rack.extra (a INT, said TEXT); INSERT INTO rack.extra VALUES (1, 'known');")
    group.wait_whole()

    # What it says to its replica is lost, so nobody acknowledges; and then it dies, for good.
    write = "timeout 9 mysql rack -e \"INSERT INTO extra VALUES (7, 'nobody has')\" >/dev/null 2>&1"
    severed = f"ip route add blackhole {new['address']}/32"
    in_the_log = "mysql -e 'SHOW PROCESSLIST' | grep -q 'semi-sync ACK.*INTO extra'"
    wait = f"for _ in $(seq 20); do {in_the_log} && break; sleep 0.1; done"
    group.run(
        old["address"], f"systemctl mask --runtime mysql; {severed}; ({write} &) ; {wait}; kill -9 $(pidof mysqld)"
    )
    # On a busy machine the group has given up waiting by then: a failover may lose what it acknowledged since.
    relaunch("db", "failover", "my", "--allow-data-loss", "it is a test", check=False)
    until(lambda: group.member("primary")["name"] == new["name"], "the failover", seconds=60)

    def read() -> bool:
        found = json.loads(relaunch("db", "extra-transactions", "my", "--json"))
        return any(each["instance"] == old["instance"] and each.get("count") == 1 for each in found)

    until(read, "the reading", seconds=240)

    said = relaunch("db", "extra-transactions", "my").partition(f"was my/{old['name']}, instance {old['instance']}")[2]
    said = said.partition("EXTRA")[0]
    assert "INSERT INTO `rack`.`extra`" in said and "nobody has" in said and "known" not in said
    assert "extra transactions" in pages(group)
    group.wait_whole(seconds=240)
    question = "SELECT a FROM rack.extra"
    assert one(group, "primary", question) == one(group, "replica", question) == "1"
    assert "!" not in relaunch("db", "checksum", "my")


@pytest.fixture
def foreign(group: Group, request: pytest.FixtureRequest) -> Iterator[Foreign]:
    found = Foreign("buttons", HOST, PORT, gtid_mode=getattr(request, "param", "ON"))
    try:
        found.start()
        yield found
    finally:
        found.stop()
        relaunch("db", "import", "my", "--cancel", check=False)
        with contextlib.suppress(AssertionError):
            many(group, "primary", "DROP DATABASE IF EXISTS shop; DROP DATABASE IF EXISTS copied;")


def dump_of(group: Group, foreign: Foreign, file: Path) -> Path:
    """As somebody makes it with MySQL's own program, of a server with GTIDs."""
    foreign.grant(f"{RIGHTS}, RELOAD")
    address = group.member("primary")["address"]
    login = f"[client]\nhost={foreign.host}\nport={foreign.port}\nuser=mover\npassword={json.dumps(FOREIGN_PASSWORD)}\n"
    group.run(address, "cat >/root/login", given=login.encode())
    command = "mysqldump --defaults-extra-file=/root/login --single-transaction --routines --events --triggers"
    done = subprocess.run(
        ssh_command(address, STATE / "ssh/id_ed25519", [f"{command} --no-tablespaces shop"]),
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    file.write_bytes(done.stdout)
    return file


SUMS = "CHECKSUM TABLE {0}.ledger, {0}.total"


def sums(ask: Callable[[str], str]) -> list[str]:
    return [line.split()[-1] for line in ask(SUMS).splitlines()]


def test_a_dump_is_loaded_and_reaches_the_replica_and_a_broken_one_leaves_nothing(
    group: Group, foreign: Foreign, tmp_path: Path
) -> None:
    group.wait_whole()
    whole = dump_of(group, foreign, tmp_path / "shop.sql")
    wrong = tmp_path / "wrong.sql"
    wrong.write_bytes(whole.read_bytes().replace(b"INSERT INTO `total`", b"INSERT INTO `nobody`"))

    of_wrong = refused("db", "import", "my", "--from-dump", str(wrong), "--schema", "copied")
    assert "nobody" in of_wrong and "copied" not in one(group, "primary", "SHOW DATABASES")
    said = relaunch("db", "import", "my", "--from-dump", str(whole), "--schema", "copied")

    assert "DEFINER becomes app@%" in said
    theirs = [str(row[1]) for row in foreign.sql(SUMS.format("shop"))]
    for role in ("primary", "replica"):
        until(lambda role=role: sums(lambda ask: one(group, role, ask.format("copied"))) == theirs, f"{role} has it")  # type: ignore[misc]
    assert one(group, "primary", "SELECT copied.twice(4), COUNT(*) FROM copied.amounts") == "8\t2000"
    assert "relaunch_import" not in one(group, "primary", "SELECT user FROM mysql.user")


def test_a_dump_of_mariadb_is_loaded(group: Group, tmp_path: Path) -> None:
    group.wait_whole()
    file = tmp_path / "maria.sql"
    file.write_text(MARIADB_DUMP)

    said = relaunch("db", "import", "my", "--from-dump", str(file), "--schema", "of_maria")

    assert "events, which do not run here by themselves: tick" in said
    time.sleep(2)
    found = one(group, "primary", "SELECT note, n, of_maria.f(3) FROM of_maria.t JOIN of_maria.v USING (id)")
    assert found == "it's ä\t2\t3"
    many(group, "primary", "DROP DATABASE of_maria;")


@pytest.mark.parametrize("foreign", ["OFF", pytest.param("ON", marks=LONG)], indirect=True)  # its gtid_mode
def test_followed_and_cut_over_nothing_acknowledged_is_missing(group: Group, foreign: Foreign, tmp_path: Path) -> None:
    words = from_server(tmp_path)
    foreign.sql("GRANT SELECT ON shop.* TO mover@'%'")
    assert "mover lacks SHOW VIEW, TRIGGER, EVENT, LOCK TABLES" in refused("db", "import", "my", *words)
    foreign.grant(MORE_RIGHTS)
    many(group, "primary", "DROP DATABASE IF EXISTS shop;")
    writer = Writer(HOST, PORT, encrypted=True)
    writer.start()
    relaunch("db", "import", "my", *words)
    # What follows is a client like any other: where no writes are taken, it is refused.
    write = "UPDATE relaunch.import_source SET position = 1"
    ours = f"mysql --defaults-extra-file=/etc/relaunch/import/ours.cnf -e '{write}' 2>&1 || true"
    assert "read-only" in group.run(group.member("replica")["address"], ours)
    foreign.sql("CREATE TABLE shop.later (i INT PRIMARY KEY)")
    foreign.sql("ALTER TABLE shop.later ADD t VARCHAR(9) DEFAULT 'x'")
    foreign.sql("INSERT INTO shop.later (i) VALUES (1)")
    foreign.sql("CREATE TABLE shop.copy_of AS SELECT id, amount FROM shop.ledger WHERE id < 5")
    foreign.sql("CREATE OR REPLACE VIEW shop.amounts AS SELECT id FROM shop.ledger")
    before = len(writer.acknowledged)
    for _ in range(5):
        foreign.sql("FLUSH BINARY LOGS")
    until(lambda: len(writer.acknowledged) > before + 20, "the application writes on")

    said = relaunch("db", "import", "my", "--cut-over")
    writer.stop()

    assert "Locked there: 'app'@'%'" in said and "4 tables equal on both sides" in said
    result = json.loads(next(line for line in said.splitlines() if line.startswith("CUT-OVER "))[9:])
    print(f"\ndowntime {result['downtime_seconds']} s, {len(writer.acknowledged)} acknowledged")
    kept = {int(word) for word in one(group, "primary", "SELECT id FROM shop.ledger").split()}
    assert writer.accounts_for(kept - set(range(1, 2001)))
    assert one(group, "primary", "SELECT i, t FROM shop.later") == "1\tx"
    assert one(group, "primary", "SELECT COUNT(*) FROM shop.copy_of") == "4"
    # Nothing of the other server's history is in the group's.
    theirs = foreign.sql("SELECT @@server_uuid")[0][0]
    assert theirs not in one(group, "primary", "SELECT @@global.gtid_executed")
    with pytest.raises(pymysql.err.MySQLError):
        Writer(HOST, PORT, encrypted=True)._write_until_told()
    group.wait_whole()
    assert "!" not in relaunch("db", "checksum", "my")


@LONG
def test_followed_through_a_failover_nothing_acknowledged_is_missing(
    group: Group, foreign: Foreign, tmp_path: Path
) -> None:
    foreign.grant(MORE_RIGHTS)
    many(group, "primary", "DROP DATABASE IF EXISTS shop;")
    writer = Writer(HOST, PORT, encrypted=True)
    writer.start()
    relaunch("db", "import", "my", *from_server(tmp_path))
    old = group.member("primary")
    group.run(old["address"], "systemctl mask --runtime mysql; kill -9 $(pidof mysqld)")
    until(lambda: group.member("primary")["name"] != old["name"], "another primary", seconds=60)

    def follows() -> bool:
        return '"follows": true' in relaunch("db", "import", "my", "--status", "--json", check=False)

    until(follows, "the new primary to follow", seconds=60)
    before = len(writer.acknowledged)
    until(lambda: len(writer.acknowledged) > before + 20, "the application writes on")
    said = relaunch("db", "import", "my", "--cut-over")
    writer.stop()

    assert "2 tables equal on both sides" in said
    kept = {int(word) for word in one(group, "primary", "SELECT id FROM shop.ledger").split()}
    assert writer.accounts_for(kept - set(range(1, 2001)))
    group.wait_whole(seconds=240)
    assert "!" not in relaunch("db", "checksum", "my")


def from_server(tmp_path: Path) -> tuple[str, ...]:
    file = tmp_path / "password"
    file.write_text(FOREIGN_PASSWORD + "\n")
    return ("--from-server", f"{HOST}:{PORT}", "--user", "mover", "--password-file", str(file), "--schema", "shop")


def test_a_replica_comes_and_goes(group: Group) -> None:
    group.wait_whole()
    said = relaunch("db", "add-replica", "my", "--memory", "1100M")
    assert "+  db3: {template: mysql9, zone: a, memory: 1100M}" in said
    group.size = 3
    group.wait_whole(seconds=240)
    leads = group.member("primary")["name"]
    assert "is the primary" in relaunch("db", "remove-replica", leads, "--deployment", "my", "--yes", check=False)

    relaunch("db", "remove-replica", "db3", "--deployment", "my", "--yes")

    group.size = 2
    group.wait_whole()
    assert "db3" not in {each["name"] for each in group.shown()["members"]}


@LONG
def test_all_come_to_another_size_under_writes(group: Group) -> None:
    group.wait_whole()
    relaunch("db", "add-replica", "my")
    group.size = 3
    group.wait_whole(seconds=240)
    many(group, "primary", "CREATE DATABASE IF NOT EXISTS shop; CREATE TABLE shop.sizes (number INT PRIMARY KEY);")
    before = {each["name"]: each["instance"] for each in group.shown()["members"]}
    leads = group.member("primary")["name"]
    over, acknowledged = threading.Event(), []

    def write() -> None:
        for number in range(1_000_000):
            if over.is_set():
                return
            with contextlib.suppress(AssertionError, StopIteration, subprocess.TimeoutExpired):
                many(group, "primary", f"INSERT INTO shop.sizes VALUES ({number});")
                acknowledged.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        relaunch("db", "resize", "my", "--memory", "1200M", "--yes")
    finally:
        over.set()
        writer.join()

    group.wait_whole()
    after = {each["name"]: each["instance"] for each in group.shown()["members"]}
    assert all(after[name] != before[name] for name in before) and group.member("primary")["name"] != leads
    kept = {int(row) for row in one(group, "primary", "SELECT number FROM shop.sizes").split()}
    assert len(acknowledged) > 20 and set(acknowledged) <= kept
    assert "!" not in relaunch("db", "checksum", "my")
    print(f"\n{len(acknowledged)} writes acknowledged while three servers were replaced")
