"""What people order about a real group: compare replicas, change passwords, read what an old primary alone has.

A controller of its own and servers of the templates mysql and front-end. RELAUNCH_BUTTONS_TEST_STATE names another
folder than /var/tmp/relaunch-test-buttons; with RELAUNCH_BUTTONS_KEEP=1 all goes on running for the next time.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from relaunch.cli.servers import ssh_command
from relaunch.clouds.local import cgroups

PROJECT = Path(__file__).parents[2]
STATE = Path(os.environ.get("RELAUNCH_BUTTONS_TEST_STATE", "/var/tmp/relaunch-test-buttons"))
KEEP = bool(os.environ.get("RELAUNCH_BUTTONS_KEEP"))
SETTINGS = 'network = "198.19.30.0/24"\nbridge = "rlt-btn"\napi_port = 17730\nbus_port = 17735\n'
ENVIRONMENT = {**os.environ, "RELAUNCH_STATE": str(STATE), "PYTHONPATH": str(PROJECT / "src")}
SHOP = """deployment: shop
servers:
  front1: {template: front-end, zone: a}
  db1: {template: mysql, zone: a, memory: 512M}
  db2: {template: mysql, zone: b, memory: 512M}
database:
  primary: db1
  replicas: [db2]
  backups: {full: never, incremental: never, primary: never, prove: never, schemas: never}
sites:
  www.rack.test: {source: {app: rack}, runtime: rails, database: rack}
credentials: {DB_PASSWORD: generate, REPLICATION_PASSWORD: generate, SECRET_KEY_BASE: generate}
"""
TABLES = """
CREATE TABLE IF NOT EXISTS rack.big (a INT, b VARCHAR(40), c TEXT, PRIMARY KEY (a, b)) COLLATE utf8mb4_unicode_ci;
INSERT IGNORE INTO rack.big SELECT seq % 300, MD5(seq), REPEAT('ä', seq % 50) FROM rack.seq_1_to_20000;
CREATE TABLE IF NOT EXISTS rack.small (a INT PRIMARY KEY); INSERT IGNORE INTO rack.small VALUES (1), (2);
CREATE TABLE IF NOT EXISTS rack.asset (a BINARY(16) PRIMARY KEY);
INSERT IGNORE INTO rack.asset SELECT UNHEX(MD5(seq)) FROM rack.seq_1_to_1500;
CREATE TABLE IF NOT EXISTS rack.no_key (a INT); CREATE TABLE IF NOT EXISTS rack.isam (a INT) ENGINE = MyISAM;
"""
CHANGES = """
UPDATE rack.big SET c = UUID() WHERE a = {n};
DELETE FROM rack.big WHERE a = {more} ORDER BY b LIMIT 1;
INSERT INTO rack.big VALUES ({n}, UUID(), 'new');
"""
PAUSE_SECONDS = 0.01
pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.timeout(900)]


def relaunch(*words: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "relaunch.cli.main", *words],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout
    return done.stdout


def until(is_so: Callable[[], object], what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


def shown(server: str) -> dict[str, Any]:
    return dict(json.loads(relaunch("server", "show", f"shop/{server}", "--json")))


def status() -> dict[str, Any]:
    return dict(json.loads(relaunch("db", "status", "shop", "--json")))


def on(server: str, command: str, text: str = "") -> str:
    done = subprocess.run(
        ssh_command(shown(server)["private_address"], STATE / "ssh/id_ed25519", [command]),
        input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


def sql(server: str, statements: str) -> str:
    return on(server, "mariadb -N -B", statements)


def in_step() -> bool:
    found = status()
    members = [each.get("state") for each in found["members"]]
    return found["mode"] == "sync" and sorted(members) == ["follows", "takes writes"] and found["change"] is None


def idle() -> bool:
    tasks = json.loads(relaunch("task", "list", "--json"))
    return all(task["finished"] for task in tasks)


def primary() -> str:
    return str(status()["primary"])


def replica() -> str:
    return next(str(each["name"]) for each in status()["members"] if each["role"] == "replica")


@pytest.fixture(scope="module", autouse=True)
def shop() -> Iterator[None]:
    put_away()
    try:
        STATE.mkdir(mode=0o711, exist_ok=True)
        (STATE / "controller.toml").write_text(SETTINGS)
        relaunch("controller", "start")
        file = STATE / "shop.yml"
        file.write_text(SHOP)
        relaunch("apply", str(file), "--yes")
        until(in_step, "both in step")
        sql(primary(), TABLES)
        yield
    finally:
        put_away()


class App:
    """Logs in for each write as the front end's app does: through its listener, by what its settings say now."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.failed: list[str] = []
        self.passwords: list[str] = []
        self._over = threading.Event()
        cloud_id = shown("front1")["cloud_id"]
        self._process = next(
            int(folder.name)
            for folder in Path("/proc").glob("[0-9]*")
            if is_haproxy(folder) and cloud_id in str(cgroups.group_of(int(folder.name)))
        )
        self._thread = threading.Thread(target=self._work)

    def password(self) -> str:
        settings = Path(f"/proc/{self._process}/root/etc/app/environment").read_text()
        return re.search(r'^DB_PASSWORD="(.*)"$', settings, re.M)[1]  # type: ignore[index]

    def __enter__(self) -> App:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        with Path(f"/proc/{self._process}/ns/net").open() as network:
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.setns(network.fileno(), 0x40000000) == 0  # CLONE_NEWNET: of this thread alone
        number = 0
        while not self._over.wait(PAUSE_SECONDS):
            number += 1
            try:
                password = self.password()
                self.write(password, number)
                self.acknowledged.append(number)
                if password not in self.passwords:
                    self.passwords.append(password)
            except (pymysql.MySQLError, OSError) as error:
                self.failed.append(f"{number}: {error!r}")

    @staticmethod
    def write(password: str, number: int) -> None:
        with pymysql.connect(
            host="127.0.1.1", user="app", password=password, database="rack", autocommit=True, connect_timeout=10,
            read_timeout=10, ssl=ssl._create_unverified_context(),
        ) as session:  # fmt: skip
            session.cursor().execute("INSERT INTO ledger VALUES (%s)", (number,))


def is_haproxy(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return (folder / "comm").read_text().strip() == "haproxy"
    return False


def put_away() -> None:
    if STATE.exists() and not KEEP:
        relaunch("demo", "--stop", "--purge")
        STATE.rmdir()


def test_replicas_are_the_same_also_under_writes() -> None:
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            sql(primary(), "".join(CHANGES.format(n=n, more=n + 100) for n in range(90)))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        said = relaunch("db", "checksum", "shop")
    finally:
        over.set()
        writer.join()

    assert "rack.big" in said and "not compared: rack.isam: its engine is MyISAM" in said
    assert "!" not in said
    until(lambda: status()["pages"] == [], "no page")


def test_what_a_restore_loads_for_trial_is_no_difference() -> None:
    """One that was killed has left it, on the primary alone."""
    sql(primary(), "SET sql_log_bin = 0; CREATE DATABASE relaunch_trial; CREATE TABLE relaunch_trial.t (a INT KEY)")
    try:
        said = relaunch("db", "checksum", "shop")
    finally:
        sql(primary(), "SET sql_log_bin = 0; DROP DATABASE relaunch_trial")

    assert "!" not in said and "relaunch_trial" not in said
    assert status()["pages"] == []


def test_a_difference_is_named_shown_and_mended_only_when_asked() -> None:
    before = shown("db2")["instance"]
    sql("db2", "SET sql_log_bin = 0; UPDATE rack.big SET c = 'other' WHERE a = 17 LIMIT 1; DROP TABLE rack.no_key;"
               "DELETE FROM rack.small WHERE a = 2; DELETE FROM rack.asset ORDER BY a LIMIT 1")  # fmt: skip

    said = relaunch("db", "checksum", "shop", status=1)

    assert "! rack.big on db2" in said and "rows with other contents" in said
    assert "! rack.small on db2: 2 rows on the primary, 1 on db2" in said
    assert "! rack.no_key on db2: the table is another one, or missing" in said
    assert re.search(r"! rack\.asset on db2, up to 0x[0-9A-F]{32}: [0-9]+ rows on the primary, [0-9]+ on db2", said)
    until(lambda: [page["rule"] for page in status()["pages"]] == ["replica differs"], "that page alone")
    assert "replicas differ" in relaunch("audit", "--subject", "database:shop")
    assert "checksum-" in relaunch("task", "list")
    until(in_step, "both in step")
    assert shown("db2")["instance"] == before

    relaunch("db", "checksum", "shop", "--repair")
    until(in_step, "the fresh replica in step")

    assert shown("db2")["instance"] != before
    until(lambda: status()["pages"] == [], "no page")
    assert "!" not in relaunch("db", "checksum", "shop")


def test_passwords_change_without_one_failed_write() -> None:
    sql(primary(), "CREATE OR REPLACE TABLE rack.ledger (number INT PRIMARY KEY)")
    old_login = on(replica(), "cat /etc/relaunch/replication.json")
    with App() as app:
        until(lambda: len(app.acknowledged) > 20, "the app to write")
        relaunch("db", "rotate-passwords", "shop")
        wrote = len(app.acknowledged)
        until(lambda: len(app.acknowledged) > wrote + 50, "the app to go on")

    assert app.failed == [] and len(app.passwords) == 2
    rows = sql(primary(), "SELECT COUNT(*) FROM rack.ledger")
    assert int(rows) == len(app.acknowledged)
    print(f"{rows} writes, each with a login of its own, 0 failed")
    old, new = app.passwords
    login = (
        "mariadb -h $(hostname -I | cut -d' ' -f1) -u app --ssl-ca=/etc/relaunch/tls/ca.crt -e 'SELECT 1' 2>&1; true"
    )
    for server in (primary(), replica()):
        assert "Access denied" in on(server, f"MYSQL_PWD={old} {login}"), "the old one is dropped"
        assert "Access denied" not in on(server, f"MYSQL_PWD={new} {login}")
    assert on(replica(), "cat /etc/relaunch/replication.json") != old_login
    sql(replica(), "STOP SLAVE IO_THREAD; START SLAVE IO_THREAD")
    until(in_step, "the replica logs in again by the new password")
    assert not [name for name in relaunch("credential", "list").split() if name.endswith(".next")]


def test_what_an_old_primary_alone_has_is_read_and_never_applied() -> None:
    old, new = primary(), replica()
    lost, away = shown(old)["instance"], shown(new)["private_address"]
    sql(old, "CREATE OR REPLACE TABLE rack.extra (a INT, said TEXT); INSERT INTO rack.extra VALUES (1, 'known')")
    until(in_step, "both in step")

    # What it says to its replica is lost, so nobody acknowledges; and then it dies, for good.
    write = "timeout 9 mariadb rack -e \"INSERT INTO extra VALUES (7, 'nobody has')\" >/dev/null 2>&1"
    in_the_log = "mariadb -e 'SHOW PROCESSLIST' | grep -q 'semi-sync ACK.*INTO extra'"
    wait = f"for _ in $(seq 20); do {in_the_log} && break; sleep 0.1; done"
    on(old, f"systemctl mask --runtime mariadb; ip route add blackhole {away}/32; ({write} &) ; {wait};"
            " kill -9 $(pidof mariadbd)")  # fmt: skip
    # On a busy machine the group has given up waiting by then: a failover may lose what it acknowledged since.
    until(lambda: primary() == new or status()["rule"].startswith("no failover"), "the failover, or its refusal")
    if primary() == old:
        relaunch("db", "failover", "shop", "--allow-data-loss", "it is a test")
    until(lambda: primary() == new, "the failover")

    def read() -> bool:
        found = json.loads(relaunch("db", "extra-transactions", "shop", "--json"))
        return any(each["instance"] == lost and each.get("count") == 1 for each in found)

    until(read, "the reading", 240)

    said = relaunch("db", "extra-transactions", "shop").partition(f"was shop/{old}, instance {lost}")[2]
    said = said.partition("EXTRA")[0]
    assert "INSERT INTO `rack`.`extra`" in said and "nobody has" in said and "known" not in said
    assert "extra transactions" in {page["rule"] for page in status()["pages"]}
    assert f"instance={lost}" in relaunch("audit", "--subject", "database:shop")
    until(in_step, "redundant again", 240)
    assert sql(primary(), "SELECT a FROM rack.extra") == sql(replica(), "SELECT a FROM rack.extra") == "1"
    assert "!" not in relaunch("db", "checksum", "shop")


def test_a_replica_that_somebody_wrote_to_is_replaced() -> None:
    until(in_step, "both in step")
    wrote = shown(replica())["instance"]

    sql(replica(), "CREATE TABLE rack.of_its_own (a INT)")

    def another() -> bool:
        return [each["instance"] != wrote for each in status()["members"] if each["role"] == "replica"] == [True]

    until(another, "another in its place", 60)
    until(in_step, "the fresh one in step", 240)
    assert sql(replica(), "SHOW TABLES IN rack LIKE 'of_its_own'") == ""
    assert "divergence" in relaunch("audit", "--subject", "database:shop")


def test_a_broken_replica_leads_only_when_it_is_named_twice() -> None:
    until(in_step, "both in step")
    old, new = primary(), replica()
    sql(new, "SET sql_log_bin = 0; INSERT INTO rack.small VALUES (99)")
    sql(old, "INSERT INTO rack.small VALUES (99); INSERT INTO rack.small VALUES (100)")
    until(lambda: "replica broken" in {page["rule"] for page in status()["pages"]}, "the page")

    assert "has an error" in relaunch("db", "switchover", "shop", "--to", new, status=4)
    said = relaunch("db", "promote", new, "--deployment", "shop", status=5)
    assert "has an error" in said and f"--force {new} --reason 'WHY'" in said
    relaunch("db", "promote", new, "--deployment", "shop", "--force", old, "--reason", "a test", status=5)
    relaunch("db", "promote", new, "--deployment", "shop", "--force", new, "--reason", "a test")

    assert primary() == new and sql(new, "SELECT MAX(a) FROM rack.small") == "99"
    assert status()["loss_allowed"] == "" and "promote with loss" in relaunch("audit", "-n", "500")
    until(in_step, "redundant again", 240)


def test_a_replica_comes_and_goes() -> None:
    until(idle, "what was broken is put away")
    said = relaunch("db", "add-replica", "shop", "--memory", "768M")
    assert "+  db3: {template: mysql, zone: a, memory: 768M}" in said

    def three() -> bool:
        return sorted(each.get("state", "") for each in status()["members"]) == ["follows", "follows", "takes writes"]

    until(lambda: three() and "db3" in status()["sync_set"], "the third in step")
    assert shown("db3")["zone"] == "a"

    assert "is the primary" in relaunch("db", "remove-replica", primary(), "--yes", status=4)
    relaunch("db", "remove-replica", "db3", "--yes")
    until(in_step, "two again, in step")
    assert "db3" not in {each["name"] for each in status()["members"]}
    if replica() == "db2":
        assert "no replica but db2 is in step" in relaunch("db", "remove-replica", "db2", "--yes", status=5)
