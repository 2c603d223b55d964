"""Backups of a real database group in a real object store: what is restored, and what is refused.

A controller of its own, servers of the template mysql, and the scripts run as they are on the server.
RELAUNCH_BACKUP_TEST_STATE names another folder than /var/tmp/relaunch-test-backups (images stay there between runs).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relaunch.cli.servers import ssh_command
from relaunch.databases.backup_key import new_identity
from relaunch.databases.mariadb import MariaDB

PROJECT = Path(__file__).parents[2]
STATE = Path(os.environ.get("RELAUNCH_BACKUP_TEST_STATE", "/var/tmp/relaunch-test-backups"))
SETTINGS = 'network = "198.19.242.0/24"\nbridge = "rlt-bak"\napi_port = 17643\nbus_port = 17622\n'
SETTINGS += f'alert_command = ["sh", "-c", "cat >>{STATE}/alerts"]\n'
ENVIRONMENT = {**os.environ, "RELAUNCH_STATE": str(STATE), "PYTHONPATH": str(PROJECT / "src")}
BY_HAND_ONLY = "{full: never, incremental: never, primary: never, prove: never, schemas: never}"
GROUP = f"""deployment: bak
servers:
  db1: {{template: mysql, zone: a, memory: 1G}}
  db2: {{template: mysql, zone: b, memory: 1G}}
database: {{primary: db1, replicas: [db2], backups: {BY_HAND_ONLY}}}
credentials: {{DB_PASSWORD: generate, REPLICATION_PASSWORD: generate}}
"""
LAB = f"""deployment: lab
servers:
  x1: {{template: mysql, zone: a, memory: 1G}}
  bare: {{template: base, zone: b, memory: 1G}}
database: {{primary: x1, backups: {BY_HAND_ONLY}}}
"""
# Gives one row of a table another key, in the page that has it, whose checksum (full_crc32) is then right again.
DAMAGE = """import sys
name, key, other = sys.argv[1], *(bytes([0x80]) + int(n).to_bytes(3, "big") for n in sys.argv[2:])
pages, size = bytearray(open(name, "rb").read()), 16384
def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF
def checksum(at):
    return crc32c(pages[at : at + size - 4]).to_bytes(4, "big")
found = [at for at in range(4 * size, len(pages), size) if key in pages[at : at + size]]
assert found and pages[found[-1] + size - 4 : found[-1] + size] == checksum(found[-1]), found
where = pages.index(key, found[-1])
pages[where : where + 4] = other
pages[found[-1] + size - 4 : found[-1] + size] = checksum(found[-1])
open(name, "wb").write(pages)
"""
pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.timeout(900)]


def relaunch(*words: str, check: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "relaunch.cli.main", *words],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout
    return done.stdout


def until(is_so: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


@dataclass(frozen=True)
class Ended:
    status: int
    output: str


@dataclass(frozen=True)
class Server:
    address: str

    def run(self, command: str, *, check: bool = True, text: str | None = None) -> Ended:
        done = subprocess.run(
            ssh_command(self.address, STATE / "ssh/id_ed25519", [command]),
            input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout
        return Ended(done.returncode, done.stdout)

    def sql(self, statements: str) -> str:
        return self.run("mariadb -N -B", text=statements).output.strip()

    def script(self, name: str, *, check: bool = True, **inputs: str) -> Ended:
        """One of the template's, as the agent would run it."""
        given = " ".join(f"{key}='{value}'" for key, value in inputs.items())
        return self.run(f"RS_ATTACH_DIR=/root/s/attachments {given} /root/s/{name}", check=check)


@dataclass
class Stand:
    primary: Server
    replica: Server
    lab: Server
    bare: Server
    key: str
    ids: dict[str, str]

    @property
    def bucket(self) -> Path:
        return STATE / "object-store/backups/bak" / self.ids["lineage"]

    def back_up(self, kind: str) -> str:
        ended = self.replica.script(
            "backup_database.sh", BACKUP_KIND=kind, BACKUP_MAX_LAG="60", BACKUP_CHECK_SECONDS="30", BACKUP_BANDWIDTH=""
        )
        return ended.output.strip().rpartition("BACKED-UP ")[2]

    def restore(
        self, *, to: str = "newest", backup: str = "latest", confirm: str = "bak", key: str = "", **more: Any
    ) -> Ended:
        return self.lab.script(
            "restore_database.sh", BACKUP_KEY=key or self.key, RESTORE_BACKUP=backup, RESTORE_TO=to,
            RESTORE_CONFIRM=confirm, RESTORE_START="true", **more,
        )  # fmt: skip

    def restored(self, **how: Any) -> dict[str, Any]:
        ended = self.restore(check=True, **how)
        return dict(json.loads(ended.output.strip().rpartition("RESTORED ")[2]))

    def refused(self, **how: Any) -> str:
        """What it says; and that the data that was there is still there."""
        before = self.lab.sql("SELECT COUNT(*), COALESCE(MAX(id), 0) FROM keep.me")
        ended = self.restore(check=False, **how)
        assert ended.status != 0, ended.output
        assert self.lab.sql("SELECT COUNT(*), COALESCE(MAX(id), 0) FROM keep.me") == before
        return ended.output

    def position(self) -> str:
        return self.primary.sql("SELECT @@gtid_binlog_pos")

    def shipped(self) -> None:
        """Until everything the primary has written is in the store."""
        reached = self.position()
        number = int(reached.rpartition("-")[2])
        streams = self.bucket / "binlogs"
        until(
            lambda: any(
                int(json.loads(file.read_text())["gtid"].rpartition("-")[2]) >= number
                for file in streams.glob("*/state.json")
            ),
            f"{reached} to be shipped",
        )

    def write(self, count: int) -> None:
        self.primary.sql("".join("INSERT INTO shop.story () VALUES ();" for _ in range(count)))

    def rows(self) -> list[int]:
        return [int(word) for word in self.lab.sql("SELECT id FROM shop.story ORDER BY id").split()]


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    put_away()
    try:
        yield brought_up()
    finally:
        put_away()


def put_away() -> None:
    if STATE.exists():
        relaunch("demo", "--stop", "--purge")
        (STATE / "alerts").unlink(missing_ok=True)
        STATE.rmdir()


def brought_up() -> Stand:
    STATE.mkdir(parents=True, exist_ok=True)
    (STATE / "controller.toml").write_text(SETTINGS)
    relaunch("controller", "start")
    for text in (GROUP, LAB):
        file = STATE / "deployment.yml"
        file.write_text(text)
        relaunch("apply", str(file), "--yes")
    servers = {
        name: Server(json.loads(relaunch("server", "show", name, "--json"))["private_address"])
        for name in ("bak/db1", "bak/db2", "lab/x1", "lab/bare")
    }
    packed = subprocess.run(
        ["tar", "-C", PROJECT / "templates/scripts", "-cz", "."], stdout=subprocess.PIPE, check=True
    ).stdout
    for server in servers.values():
        subprocess.run(
            ssh_command(server.address, STATE / "ssh/id_ed25519", ["mkdir -p s && tar -C s -xz"]),
            input=packed,
            check=True,
        )
    shown = relaunch("db", "backup-key", "bak", "--json")
    stand = Stand(
        primary=servers["bak/db1"], replica=servers["bak/db2"], lab=servers["lab/x1"], bare=servers["lab/bare"],
        key=json.loads(shown)["identity"].splitlines()[0], ids={},
    )  # fmt: skip
    stand.lab.run("systemctl disable --now relaunch-ship-binlogs && sed -i 's/lab$/bak/' /etc/relaunch/backup.env")
    stand.ids["lineage"] = lineage_of(stand.primary)
    stand.primary.sql("CREATE DATABASE shop; CREATE TABLE shop.story (id INT PRIMARY KEY AUTO_INCREMENT, at DATETIME(6)"
                      " DEFAULT NOW(6)); CREATE TABLE shop.more (a INT PRIMARY KEY, b TEXT);"
                      " INSERT INTO shop.more SELECT seq, REPEAT(MD5(seq), 8) FROM shop.seq_1_to_20000")  # fmt: skip
    stand.write(10)
    stand.ids["full"] = stand.back_up("full")
    stand.write(10)
    stand.primary.sql("UPDATE shop.more SET b = 'changed' WHERE a % 100 = 3")
    stand.ids["incremental"] = stand.back_up("incremental")
    stand.write(10)
    stand.ids["gtid"] = stand.position()
    time.sleep(2.1)
    stand.ids["second"] = stand.primary.run("date -u '+%Y-%m-%d %H:%M:%S'").output.strip()
    stand.write(10)
    stand.shipped()
    return stand


def alerted() -> str:
    file = STATE / "alerts"
    return file.read_text() if file.exists() else ""


def lineage_of(server: Server) -> str:
    ask = "mariadb -N -B -e 'SELECT id FROM relaunch.lineage' 2>/dev/null"
    until(lambda: server.run(ask, check=False).output.strip() != "", "the data to be given its history's id")
    return server.run(ask).output.strip()


def make_keepsake(stand: Stand) -> None:
    stand.lab.run("mariadb", text="SET sql_log_bin = 0; SET GLOBAL read_only = OFF; CREATE DATABASE IF NOT EXISTS keep;"
                  "CREATE TABLE IF NOT EXISTS keep.me (id INT); INSERT INTO keep.me VALUES (1)")  # fmt: skip


@contextmanager
def moved_away(path: Path) -> Iterator[None]:
    aside = STATE / "moved-away"
    path.rename(aside)
    time.sleep(3)  # the store remembers for 2 s what was in a folder
    try:
        yield
    finally:
        aside.rename(path)
        time.sleep(3)  # the store remembers for 2 s what a folder holds


def test_data_that_is_there_is_not_touched_without_its_name(stand: Stand) -> None:
    make_keepsake(stand)

    assert "Nothing was touched" in stand.refused(confirm="")
    assert "Nothing was touched" in stand.refused(confirm="yes")


def test_a_wrong_key_is_named(stand: Stand) -> None:
    assert "WRONG KEY" in stand.refused(key=new_identity()[0])


def test_a_damaged_object_is_named(stand: Stand) -> None:
    file = stand.bucket / f"backups/{stand.ids['full']}/data.mbstream.zst.age.00000"
    content = file.read_bytes()
    file.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    try:
        said = stand.refused()
    finally:
        file.write_bytes(content)

    assert f"DAMAGED OBJECT: {stand.ids['full']}/data.mbstream.zst.age.00000" in said


def test_a_missing_link_of_the_chain_is_named(stand: Stand) -> None:
    with moved_away(stand.bucket / "backups" / stand.ids["full"]):
        said = stand.refused()

    assert f"MISSING LINK: the backup {stand.ids['full']}" in said


def test_a_missing_piece_of_the_binary_log_is_named(stand: Stand) -> None:
    pieces = sorted(stand.bucket.glob("binlogs/*/*/*.age"), key=lambda file: file.name)

    with moved_away(pieces[len(pieces) // 2]):
        said = stand.refused()

    assert "MISSING LINK: binary log" in said


def test_rows_other_than_those_that_were_noted_are_named(stand: Stand) -> None:
    manifest = stand.bucket / "backups" / stand.ids["incremental"] / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text(whole.replace('"rows": 20000', '"rows": 20001'))  # as long as it was
    try:
        said = stand.refused()
    finally:
        manifest.write_text(whole)

    assert "DIFFERENT: shop.more (all): noted 20001 rows" in said and "found 20000 " in said


def test_a_backup_with_an_expired_credential_fails_and_does_not_count(stand: Stand) -> None:
    before = sorted(stand.bucket.glob("backups/*/manifest.json"))
    stand.replica.run("cp /etc/relaunch/backup.env /root/env; sed -i 's/^RCLONE_CONFIG_STORE_SECRET.*/"
                      "RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY=expired/' /etc/relaunch/backup.env")  # fmt: skip
    try:
        ended = stand.replica.script(
            "backup_database.sh", check=False, BACKUP_KIND="full", BACKUP_MAX_LAG="60", BACKUP_CHECK_SECONDS="0",
            BACKUP_BANDWIDTH="",
        )  # fmt: skip
    finally:
        stand.replica.run("cp /root/env /etc/relaunch/backup.env")

    assert ended.status != 0 and "SignatureDoesNotMatch" in ended.output
    assert sorted(stand.bucket.glob("backups/*/manifest.json")) == before


def test_a_schema_is_backed_up_from_no_replica_that_does_not_apply(stand: Stand) -> None:
    """Which stays a member: then it is backed up from the primary."""
    before = sorted(stand.bucket.glob("schemas/*/*/manifest.json"))
    running = "mariadb -E -e 'SHOW SLAVE STATUS' | grep -q 'Slave_SQL_Running: Yes'"
    # A key that is there already stops it again, whoever starts it.
    stand.replica.sql("SET sql_log_bin = 0; INSERT INTO shop.more VALUES (-77, 'here alone')")
    stand.primary.sql("INSERT INTO shop.more VALUES (-77, 'of the group')")
    try:
        until(lambda: stand.replica.run(running, check=False).status != 0, "the applier to stop")
        ended = stand.replica.script(
            "backup_schema.sh", check=False, BACKUP_SCHEMA="shop", BACKUP_MAX_LAG="2", BACKUP_CHECK_SECONDS="5"
        )
        assert ended.status != 0 and "Replication does not run here" in ended.output
        assert sorted(stand.bucket.glob("schemas/*/*/manifest.json")) == before
        until(lambda: "does not apply" in relaunch("db", "status", "bak"), "the controller to know")
        relaunch("db", "backup", "bak", "--schema", "shop")
    finally:
        stand.replica.sql("SET sql_log_bin = 0; DELETE FROM shop.more WHERE a = -77; START SLAVE SQL_THREAD")
        stand.primary.sql("DELETE FROM shop.more WHERE a = -77")
    assert stand.replica.sql(f"SELECT MASTER_GTID_WAIT('{stand.position()}', 60)") == "0"

    (made,) = set(stand.bucket.glob("schemas/*/*/manifest.json")) - set(before)
    manifest = json.loads(made.read_text())
    assert manifest["server"] == stand.primary.run("hostname").output.strip()
    assert (manifest["role"], manifest["lag_seconds"]) == ("primary", 0)


def damage_table(stand: Stand, id: str) -> None:
    """In a backup: one row of shop.more has a key out of order, and all hashes and checksums are right."""
    stored = stand.bucket / "backups" / id
    file = stored / "data.mbstream.zst.age.00000"
    place = f"$BACKUP_ROOT/{stand.ids['lineage']}/backups/{id}/{file.name}"
    stand.lab.run("cat >/root/damage.py", text=DAMAGE)
    stand.lab.run(
        "set -ea -o pipefail; . /etc/relaunch/backup.env; umask 077; rm -rf /root/bad; mkdir /root/bad; cat >/root/key;"
        f"rclone cat {place} | age -d -i /root/key | zstd -q -d | mbstream -x -C /root/bad; rm /root/key; cd /root/bad;"
        "python3 /root/damage.py shop/more.[in]* 12345 99; find * -type f | xargs mbstream -c | zstd -q |"
        f'age -r "$BACKUP_RECIPIENT" >/root/object; rclone copyto /root/object {place}',
        text=stand.key,
    )
    content, told = file.read_bytes(), json.loads((stored / "manifest.json").read_text())
    objects = [{"name": file.name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}]
    (stored / "manifest.json").write_text(json.dumps({**told, "objects": objects}))
    time.sleep(3)


def test_a_table_whose_index_is_damaged_is_named(stand: Stand) -> None:
    make_keepsake(stand)
    stand.replica.run("systemctl restart mariadb")  # so that the rows are in its file, and no log makes them anew
    follows = f"mariadb -N -e \"SELECT MASTER_GTID_WAIT('{stand.position()}', 5)\""
    until(lambda: stand.replica.run(follows, check=False).output.strip() == "0", "it follows again")
    id = stand.back_up("full")
    try:
        damage_table(stand, id)
        said = stand.refused(backup=id, to="backup")
    finally:
        shutil.rmtree(stand.bucket / "backups" / id)
        time.sleep(3)

    assert "Table checks found faults: shop.more" in said


def test_a_position_that_never_was_and_a_backup_of_another_version_are_named(stand: Stand) -> None:
    make_keepsake(stand)
    domain, server, number = stand.ids["gtid"].split("-")
    never = f"{domain}-{int(server) + 1}-{number}"

    said = stand.refused(to=f"gtid:{never}")
    assert f"NO SUCH POSITION: this history has no {never}; it is at {stand.ids['gtid']} there" in said

    manifest = stand.bucket / "backups" / stand.ids["incremental"] / "manifest.json"
    content = manifest.read_text()
    manifest.write_text(json.dumps({**json.loads(content), "version": "10.3.39-MariaDB"}))
    try:
        time.sleep(3)
        assert "ANOTHER VERSION" in stand.refused()
    finally:
        manifest.write_text(content)
        time.sleep(3)


def test_restored_to_a_position_it_has_all_before_and_nothing_after(stand: Stand) -> None:
    done = stand.restored(to=f"gtid:{stand.ids['gtid']}")

    assert done["gtid"] == stand.ids["gtid"]
    assert stand.rows() == list(range(1, 31))
    assert done["tables_compared"] >= 2 and done["chain_length"] == 2


def test_restored_to_a_second_it_has_all_before_and_nothing_after(stand: Stand) -> None:
    stand.restored(to=f"time:{stand.ids['second']}")

    assert stand.rows() == list(range(1, 31))


def test_restored_to_the_newest_it_has_everything(stand: Stand) -> None:
    written = int(stand.position().rpartition("-")[2])
    stand.shipped()

    done = stand.restored()

    assert stand.rows() == list(range(1, 41))
    assert int(done["gtid"].rpartition("-")[2]) >= written
    # InnoDB notes a place in the log of where the backup was made: in a log of ours that may not come later.
    noted = int(stand.lab.run("cut -f1 /var/lib/mysql/*_binlog_pos_innodb").output.strip().rpartition(".")[2])
    first = stand.lab.sql("SHOW BINARY LOGS").split()[0]
    assert int(first.rpartition(".")[2]) > noted


@pytest.mark.skipif("RELAUNCH_LONG_TESTS" not in os.environ, reason="takes minutes: sudo drills/long_tests")
def test_a_store_that_is_away_for_minutes_is_an_alarm_and_nothing_is_missing_afterwards(stand: Stand) -> None:
    store = int((STATE / "object-store.pid").read_text().split()[0])
    bound = 2_000_000

    def shipping() -> dict[str, Any]:
        return dict(json.loads(stand.primary.run("cat /var/lib/relaunch-backup/shipping.json").output))

    stand.primary.run(
        f"sed -i 's/^BACKUP_QUEUE_BYTES=.*/BACKUP_QUEUE_BYTES={bound}/' /etc/relaunch/backup.env && "
        "systemctl restart relaunch-ship-binlogs"
    )
    stand.shipped()
    os.kill(store, signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        stand.write(5)
        until(lambda: shipping()["state"] == "store down", "the shipper to say that the store is down", 90)
        assert shipping()["unshipped_bytes"] < bound
        stand.primary.sql("FLUSH BINARY LOGS; UPDATE shop.more SET b = CONCAT(b, 'x')")
        until(lambda: shipping()["state"] == "queue too long", "the shipper to say that too much waits", 90)
        until(lambda: "waits on this server's disk" in alerted(), "an alert", 300)
        shown = relaunch("db", "backups", "bak", check=False)
        assert "more binary log than was allowed" in shown and "cannot be looked at" in shown and "RED" in shown
        stand.write(5)
        assert time.monotonic() - stopped > 100
    finally:
        os.kill(store, signal.SIGCONT)
    alert = json.loads(alerted().splitlines()[-1])
    assert (alert["subject"], alert["state"]) == ("backups of bak", "alert")
    until(lambda: shipping()["state"] == "ok", "the shipper to go on", 60)
    stand.shipped()
    assert shipping()["unshipped_bytes"] == 0

    stand.restored()

    assert stand.rows() == list(range(1, 51))
    assert stand.lab.sql("CHECKSUM TABLE shop.more") == stand.primary.sql("CHECKSUM TABLE shop.more")


def test_by_hand_with_standard_tools_only(stand: Stand) -> None:
    said = restored_by_hand(stand, stand.primary, stand.ids["lineage"])

    every = "SELECT COUNT(*), MAX(id) FROM shop.story; CHECKSUM TABLE shop.more"
    assert stand.bare.sql(every) == stand.primary.sql(every), said[-3000:]


def restored_by_hand(stand: Stand, member: Server, history: str) -> str:
    """On a bare Debian, by the commands of the page; `member` knows where the store is. What they say."""
    page = (PROJECT / "docs/do/restore-by-hand.md").read_text()
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", page, re.S))
    env = dict(
        line.split("=", 1) for line in member.run("cat /etc/relaunch/backup.env").output.splitlines() if "=" in line
    )
    stand.bare.run("systemctl stop mariadb; rm -rf /var/lib/mysql-before /var/lib/restore", check=False)
    stand.bare.run("umask 077; cat >/root/backup.key", text=stand.key + "\n")
    stand.bare.run("cat >/root/ca.crt", text=(STATE / "ca/ca.crt").read_text())
    given = {
        "GROUP": "bak", "LINEAGE": history,
        "ENDPOINT": env["RCLONE_CONFIG_STORE_ENDPOINT"], "RCLONE_CA_CERT": "/root/ca.crt",
        "ACCESS_KEY": env["RCLONE_CONFIG_STORE_ACCESS_KEY_ID"],
        "SECRET_KEY": env["RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY"],
    }  # fmt: skip
    stand.bare.run("rm -rf /opt/relaunch /usr/local/bin/relaunch-local")
    exports = "".join(f"export {name}='{value}'\n" for name, value in given.items())
    return stand.bare.run("bash -e -s", text=exports + commands).output


def address(server: str) -> str:
    return str(json.loads(relaunch("server", "show", server, "--json"))["private_address"])


def told(*words: str) -> dict[str, Any]:
    """Its JSON; what it says when it fails comes after that."""
    return dict(json.JSONDecoder().raw_decode(relaunch(*words, "--json", check=False))[0])


def serving(stand: Stand) -> str:
    """What the primary holds; it takes writes and its replica follows: all that a refusal must not touch."""
    stand.primary.sql("REPLACE INTO shop.more VALUES (0, 'still here')")
    follows = stand.replica.run("mariadb -e 'SHOW SLAVE STATUS\\G'").output
    assert "Slave_IO_Running: Yes" in follows and "Slave_SQL_Running: Yes" in follows
    return stand.primary.sql("SELECT COUNT(*), MAX(id) FROM shop.story")


def refused_restore(stand: Stand, *words: str) -> str:
    before = serving(stand)
    said = relaunch("db", "restore", "bak", *words, check=False)
    assert serving(stand) == before, said
    assert told("db", "status", "bak")["paused"] == ""
    assert stand.primary.run("ls -d /var/lib/mysql-before-*", check=False).status != 0
    return said


def test_in_place_it_is_refused_without_the_name_or_a_link_or_room(stand: Stand) -> None:
    assert "say --confirm bak" in refused_restore(stand)
    assert "say --confirm bak" in refused_restore(stand, "--confirm", "lab")
    for to, why in (("time:2040-01-01 00:00:00", "is still to come"), ("time:2020-01-01 00:00:00", "no moment before")):
        assert why in refused_restore(stand, "--confirm", "bak", "--to", to)
    with moved_away(stand.bucket / "backups" / stand.ids["full"]):
        said = refused_restore(stand, "--confirm", "bak")
        assert f"the backup {stand.ids['full']}, which {stand.ids['incremental']} builds on is not in the store" in said
    manifest = stand.bucket / "backups" / stand.ids["incremental"] / "manifest.json"
    content = manifest.read_text()
    manifest.write_text(json.dumps({**json.loads(content), "data_bytes": 10**15}))
    try:
        time.sleep(3)
        assert "NOT ENOUGH DISK" in refused_restore(stand, "--confirm", "bak")
    finally:
        manifest.write_text(content)
    time.sleep(3)


def test_a_key_that_was_changed_still_opens_what_was_encrypted_before(stand: Stand) -> None:
    def set_key(value: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "relaunch.cli.main", "credential", "set", "BACKUP_KEY"],
            env=ENVIRONMENT, input=value + "\n", text=True, check=True, stdout=subprocess.PIPE,
        ).stdout  # fmt: skip

    identity, recipient = new_identity()
    said = set_key(identity)
    try:
        shown = told("db", "backup-key", "bak")
        relaunch("db", "prove", "bak")
    finally:
        set_key(stand.key)

    assert f"encrypted to {recipient} from now on" in said
    assert shown["recipient"] == recipient
    assert shown["identity"].splitlines()[:2] == [identity, stand.key]
    assert told("db", "backup-key", "bak")["identity"].splitlines()[:2] == [stand.key, identity]


def test_in_place_to_a_position_the_replicas_are_filled_anew_and_backups_begin_a_new_history(stand: Stand) -> None:
    old_files = sorted(str(each) for each in stand.bucket.glob("backups/*/*"))
    old_replica = stand.replica.address

    relaunch("db", "restore", "bak", "--to", f"gtid:{stand.ids['gtid']}", "--confirm", "bak")

    assert stand.primary.sql("SELECT GROUP_CONCAT(id ORDER BY id) FROM shop.story") == ",".join(map(str, range(1, 31)))
    lineage = lineage_of(stand.primary)
    assert lineage != stand.ids["lineage"]
    assert "mysql-before-" in stand.primary.run("ls -d /var/lib/mysql-before-*").output
    stand.write(3)
    until(lambda: address("bak/db2") not in ("", "None", old_replica), "a fresh replica", 120)
    until(
        lambda: told("server", "show", "bak/db2")["state"] == "operational", "the fresh replica to be operational", 120
    )
    stand.replica = Server(address("bak/db2"))
    same = "SELECT COUNT(*), MAX(id) FROM shop.story; CHECKSUM TABLE shop.more; SELECT id FROM relaunch.lineage"
    until(lambda: stand.replica.sql(same) == stand.primary.sql(same), "the fresh replica to have the same", 60)
    relaunch("db", "backup", "bak")
    shown = told("db", "backups", "bak")
    assert shown["lineage"] == lineage
    assert len(shown["backups"]) == 1 and shown["binary_logs"]
    assert {each["lineage"]: len(each["backups"]) for each in shown["older"]} == {stand.ids["lineage"]: 2}
    assert sorted(str(each) for each in stand.bucket.glob("backups/*/*")) == old_files
    until(lambda: told("db", "status", "bak")["mode"] == "sync", "the group to be in step again", 60)


def test_back_to_the_older_history(stand: Stand) -> None:
    said = relaunch("db", "restore", "bak", "--lineage", stand.ids["lineage"], "--confirm", "bak")

    assert "until a replica is in step, writes are on the primary alone" in said
    assert "one copy only" in relaunch("audit", "--subject", "database:bak", "--json")
    assert int(stand.primary.sql("SELECT MAX(id) FROM shop.story")) >= 40
    assert len(told("db", "backups", "bak")["older"]) == 2


def test_one_schema_comes_back_alone_under_another_name_and_its_own(stand: Stand) -> None:
    sum_of = "SELECT COUNT(*), SUM(CRC32(b)) FROM {}.more"
    collation_of = (
        "SELECT collation_name FROM information_schema.parameters"
        " WHERE specific_schema = '{}' AND specific_name = 'same'"
    )
    until(lambda: told("db", "status", "bak")["mode"] == "sync", "a fresh replica after the restore before", 240)
    stand.replica = Server(address("bak/db2"))
    stand.primary.sql(
        "CREATE DATABASE other; CREATE TABLE other.t (a INT); INSERT INTO other.t VALUES (1);"
        "CREATE VIEW shop.seen AS SELECT a FROM shop.more; CREATE TRIGGER shop.grows BEFORE INSERT ON shop.more"
        " FOR EACH ROW SET NEW.b = REPLACE(NEW.b, 'a@shop.test', '');"
        # The dump changes the schema's default for the trigger, which was made before, and back.
        "ALTER DATABASE shop COLLATE utf8mb4_turkish_ci; CREATE PROCEDURE shop.same (wanted VARCHAR(50)) SELECT wanted"
    )
    before = stand.primary.sql(sum_of.format("shop"))
    stand.replica.run(f"mariadb -e \"SELECT MASTER_GTID_WAIT('{stand.position()}', 60)\"")
    reached = stand.position()
    relaunch("db", "backup", "bak", "--schema", "shop")
    relaunch("db", "prove", "bak", "--schema", "shop")
    (made,) = told("db", "backups", "bak")["schemas"]
    assert (made["schema"], made["proven"], made["fault"]) == ("shop", True, "")
    assert MariaDB().covers(made["gtid"], reached)
    history = STATE / "object-store/backups/bak" / lineage_of(stand.primary)
    manifest = history / "schemas/shop" / made["id"] / "manifest.json"
    whole = manifest.read_text()
    assert {each["table"] for each in json.loads(whole)["check"]["tables"]} == {"story", "more"}
    rows = next(each["rows"] for each in json.loads(whole)["check"]["tables"] if each["table"] == "more")
    other = rows - 1 if rows % 10 else rows + 1  # as long as it was: the store remembers how long objects are
    manifest.write_text(whole.replace(f'"rows": {rows}', f'"rows": {other}'))
    assert "DIFFERENT: shop.more" in relaunch("db", "prove", "bak", "--schema", "shop", check=False)
    assert any("DIFFERENT: shop.more" in each for each in told("db", "backups", "bak")["reasons"])
    manifest.write_text(whole)
    stand.primary.sql("UPDATE shop.more SET b = 'damaged'; INSERT INTO other.t VALUES (2)")

    relaunch("db", "restore-schema", "bak", "shop", "--as", "shop2")
    assert stand.primary.sql(sum_of.format("shop2")) == before
    assert stand.primary.sql(collation_of.format("shop2")) == "utf8mb4_turkish_ci"
    triggers = "SELECT action_statement FROM information_schema.triggers WHERE trigger_schema = 'shop2'"
    assert "'a@shop.test'" in stand.primary.sql(triggers)
    until(lambda: stand.replica.sql("SHOW DATABASES LIKE 'shop2'") == "shop2", "the replica to have it too", 120)
    assert stand.primary.sql("SELECT COUNT(*) FROM shop2.seen") == before.split("\t")[0]
    assert stand.primary.sql("SELECT COUNT(DISTINCT b) FROM shop.more") == "1"

    assert "Nothing was touched" in relaunch("db", "restore-schema", "bak", "shop", check=False)
    relaunch("db", "restore-schema", "bak", "shop", "--confirm", "shop")
    assert stand.primary.sql(sum_of.format("shop")) == before
    assert stand.primary.sql(collation_of.format("shop")) == "utf8mb4_turkish_ci"
    assert stand.primary.sql("SELECT COUNT(*) FROM other.t") == "2"
    kept = [each for each in told("db", "backups", "bak")["schemas"] if "-replaced-" in each["id"]]
    assert len(kept) == 1
    relaunch("db", "restore-schema", "bak", "shop", "--backup", kept[0]["id"], "--as", "damaged")
    assert stand.primary.sql("SELECT DISTINCT b FROM damaged.more") == "damaged"


@pytest.mark.parametrize(
    ("asks", "says", "tables"),
    [(2, "another one leads now. Nothing was touched.", "0"), (3, "which may have only a part of late", "2")],
    ids=["before anything is replaced", "while it is loaded"],
)
def test_a_schema_is_not_restored_on_a_server_that_leads_no_more(
    stand: Stand, asks: int, says: str, tables: str
) -> None:
    # As a client of this server would see it once another one leads: it takes no writes, though root may do anything.
    stand.primary.run("mkdir -p fake; rm -f fake/asked; cat >fake/mariadb; chmod +x fake/mariadb", text=f"""#!/bin/bash
if [[ "$*" = *"@@read_only = 0"* ]]; then
  echo >>/root/fake/asked
  [ "$(wc -l </root/fake/asked)" -lt {asks} ] || {{ echo 0; exit; }}
fi
exec /usr/bin/mariadb "$@"
""")  # fmt: skip
    ended = stand.primary.script(
        "restore_schema.sh", check=False, PATH="/root/fake:/usr/sbin:/usr/bin:/sbin:/bin", RESTORE_SCHEMA="shop",
        RESTORE_AS="late", RESTORE_BACKUP="latest", RESTORE_GROUP="", RESTORE_LINEAGE="newest", RESTORE_CONFIRM="late",
        BACKUP_KEY=stand.key,
    )  # fmt: skip

    assert ended.status == 1 and says in ended.output and "RESTORED" not in ended.output, ended.output
    found = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'late' AND table_type = 'BASE TABLE'"
    assert stand.primary.sql(found) == tables
    stand.primary.sql("DROP DATABASE IF EXISTS late")


def test_a_deployment_made_again_has_a_history_of_its_own_and_takes_anothers_data(stand: Stand) -> None:
    relaunch("deployment", "destroy", "lab", "--yes")
    file = STATE / "deployment.yml"
    file.write_text(LAB)
    relaunch("apply", str(file), "--yes")
    fresh = Server(address("lab/x1"))
    first = lineage_of(fresh)
    until(lambda: told("db", "backups", "lab")["lineage"] == first, "the controller to know the new history")
    assert len(told("db", "backups", "lab")["older"]) == 1

    relaunch("db", "restore", "lab", "--from", "bak", "--lineage", stand.ids["lineage"], "--confirm", "lab")

    assert int(fresh.sql("SELECT MAX(id) FROM shop.story")) >= 40
    assert lineage_of(fresh) not in (first, stand.ids["lineage"])
    assert fresh.run("cat /var/lib/mysql/relaunch-group").output.strip() == "lab"


def test_a_backup_of_the_primary_holds_commits_up_for_a_moment_only(stand: Stand) -> None:
    """They wait until mariadb-backup looks once more whether the redo log has grown: by itself once a second."""
    each = "INSERT INTO shop.story () VALUES (); SELECT UNIX_TIMESTAMP(SYSDATE(6)); DO SLEEP(0.005);"
    given = {"BACKUP_KIND": "full", "BACKUP_MAX_LAG": "60", "BACKUP_CHECK_SECONDS": "30", "BACKUP_BANDWIDTH": ""}
    longest = []
    for number in range(5):  # the machine may be busy with something else just then
        file = f"/root/written-{number}"
        writer = f"(yes '{each}' | timeout 100 mariadb -N -B --unbuffered >{file}) >/dev/null 2>&1 </dev/null"
        stand.primary.run(f"{writer} & sleep 1")
        stand.primary.script("backup_database.sh", **given)
        moments = [float(line) for line in stand.primary.run(f"pkill -x yes; cat {file}").output.split("\n") if line]
        assert len(moments) > 100, "it wrote all the time"
        longest.append(max(after - before for before, after in itertools.pairwise(moments[:-1])))
        if longest[-1] < 0.4:
            break

    print(f"the longest time without a commit: {longest} s")
    assert min(longest) < 0.4, longest


def test_after_a_failover_to_a_seeded_replica_a_restore_has_what_the_group_had(stand: Stand) -> None:
    """Its first log file says that nothing came before it; the old primary's has a transaction that nobody else got."""
    old, lab = Server(address("bak/db1")), Server(address("lab/x1"))
    history = lineage_of(old)
    bucket = STATE / "object-store/backups/bak" / history / "binlogs"
    until(lambda: is_quiet(old), "the writers of before to end")
    relaunch("db", "backup", "bak")
    before = stories(old)
    old.sql("INSERT INTO shop.story () VALUES ()")
    then = stories(old)
    time.sleep(2.1)
    second = old.run("date -u '+%Y-%m-%d %H:%M:%S'").output.strip()
    old.sql("INSERT INTO shop.story () VALUES ()")
    relaunch("server", "relaunch", "bak/db2", "--yes")
    until(lambda: told("db", "status", "bak")["mode"] == "sync", "the fresh replica in step", 240)
    replica = Server(address("bak/db2"))
    old.sql("INSERT INTO shop.story () VALUES ()")
    until(lambda: stories(replica) == stories(old), "the replica to have it too")
    relaunch("db", "pause", "a test", "--deployment", "bak")  # else a replica that is silent for 10 s is replaced
    replica.run("systemctl stop relaunch-agent && mariadb -e 'STOP SLAVE IO_THREAD'")
    # The first waits, until the group has given that up.
    old.sql("".join(f"INSERT INTO shop.more VALUES ({key}, 'mine');" for key in range(-8, 0)))
    until(lambda: all_shipped(old, bucket), "what nobody else has to be shipped")
    relaunch("server", "power-off", "bak/db1")
    replica.run("systemctl start relaunch-agent")
    until(lambda: follows_nobody("db2"), "the replica to be heard again, which has nobody to follow")
    relaunch("db", "resume", "bak")
    until(lambda: told("db", "status", "bak")["mode"] != "sync" or is_primary("db2"), "the group to know", 60)
    if not is_primary("db2"):
        relaunch("db", "promote", "db2", "--deployment", "bak", "--force", "db2", "--reason", "a test", check=False)
    until(lambda: is_primary("db2"), "another primary", 60)
    replica.sql("".join("INSERT INTO shop.story () VALUES ();" for _ in range(5)))
    reached = int(replica.sql("SELECT @@gtid_binlog_pos").rpartition("-")[2])
    until(lambda: reached <= shipped_by(bucket, "db2"), "it to be shipped")
    sums = "CHECKSUM TABLE shop.story, shop.more"

    def restored(*to: str) -> list[int]:
        relaunch("db", "restore", "lab", "--from", "bak", "--lineage", history, "--confirm", "lab", *to)
        assert lab.sql("SELECT COUNT(*) FROM shop.more WHERE a < 0") == "0"
        return stories(lab)

    assert restored("--to", f"time:{second}") == then
    assert restored() == stories(replica) and len(stories(replica)) == len(before) + 8
    assert lab.sql(sums) == replica.sql(sums)
    stand.bare = Server(address("lab/bare"))  # its deployment was made anew
    said = restored_by_hand(stand, replica, history)
    assert stand.bare.sql(sums) == replica.sql(sums), said[-3000:]


def is_quiet(server: Server) -> bool:
    found = stories(server)
    time.sleep(1)
    return stories(server) == found


def stories(server: Server) -> list[int]:
    return [int(word) for word in server.sql("SELECT id FROM shop.story ORDER BY id").split()]


def is_primary(name: str) -> bool:
    return state_of(name) == "takes writes"


def follows_nobody(name: str) -> bool:
    """By its own word."""
    state = state_of(name)
    return state != "follows" and not state.startswith("not heard")


def state_of(name: str) -> str:
    """As its agent says."""
    members = told("db", "status", "bak")["members"]
    return next((str(each["state"]) for each in members if each["name"] == name), "")


def shipped_by(binlogs: Path, name: str) -> int:
    """The number of the last transaction in the store that this server has shipped as the primary; 0 for none."""
    states = sorted(binlogs.glob(f"*-{name}/state.json"))
    return int(json.loads(states[-1].read_text())["gtid"].rpartition("-")[2]) if states else 0


def all_shipped(server: Server, binlogs: Path) -> bool:
    """Every byte of that server's newest log file is in the store."""
    log, size = server.run("stat -c '%n %s' $(ls /var/lib/mysql/binlog.0* | tail -n 1)").output.split()
    pieces = binlogs.glob(f"*/{Path(log).name}-*/*.age")
    return max((int(piece.name.split("-")[1].partition(".")[0]) for piece in pieces), default=0) >= int(size)
