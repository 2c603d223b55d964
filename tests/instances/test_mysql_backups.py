"""Backups of a MySQL group in a real object store: what is shipped, restored, proven, and what is refused.

The group with its controller, and beside it a server alone, on which the scripts run as they are.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mysql_stand import NEEDS, PROJECT, STATE, Group, group_of, relaunch, until

from relaunch.databases.backup_key import new_identity
from relaunch.databases.mysql_gtids import without

BY_HAND_ONLY = "{full: never, incremental: never, primary: never, prove: never}"
GROUP = f"""deployment: my
servers:
  db1: {{template: mysql9, zone: a}}
  db2: {{template: mysql9, zone: b}}
inputs: {{INNODB_BUFFER_POOL: "text:32M", DB_NAME: "text:shop"}}
database: {{primary: db1, replicas: [db2], durability: strict, backups: {BY_HAND_ONLY}}}
credentials: {{REPLICATION_PASSWORD: generate}}
"""
LAB = f"""deployment: lab
servers:
  x1: {{template: mysql9, zone: a}}
  bare: {{template: base, zone: b, memory: 1G}}
inputs: {{INNODB_BUFFER_POOL: "text:32M"}}
database: {{primary: x1, backups: {BY_HAND_ONLY}}}
"""
PIECE = "data.tar.zst.age.00000"
WHOLE = "SELECT COUNT(*), MAX(id) FROM shop.story; CHECKSUM TABLE shop.more"
pytestmark = NEEDS


def told(*words: str) -> dict[str, Any]:
    """Its JSON; what it says when it fails comes after that."""
    return dict(json.JSONDecoder().raw_decode(relaunch(*words, "--json", check=False))[0])


@dataclass
class Stand:
    group: Group
    lab: str
    key: str
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def bucket(self) -> Path:
        return STATE / "object-store/backups/my" / self.ids["lineage"]

    @property
    def primary(self) -> str:
        return str(self.group.member("primary")["address"])

    def sql(self, address: str, statements: str) -> str:
        return self.group.run(address, "mysql -N -B", given=statements.encode())

    def write(self, count: int) -> None:
        self.sql(self.primary, "".join("INSERT INTO shop.story () VALUES ();" for _ in range(count)))

    def position(self) -> str:
        return self.sql(self.primary, r"SELECT REPLACE(@@gtid_executed, '\n', '')")

    def shipped(self, position: str) -> bool:
        files = (self.bucket / "binlogs").glob("*/state.json")
        return any(without(position, json.loads(file.read_text())["gtid"]) == "" for file in files)

    def wait_shipped(self) -> float:
        position = self.position()
        return until(lambda: self.shipped(position), f"{position} to be shipped", seconds=30)

    def back_up(self, kind: str) -> str:
        known = {each.name for each in (self.bucket / "backups").glob("*")}
        relaunch("db", "backup", "my", "--kind", kind)
        return next(each.name for each in (self.bucket / "backups").glob("*") if each.name not in known)

    def manifest(self, id: str) -> dict[str, Any]:
        return dict(json.loads((self.bucket / "backups" / id / "manifest.json").read_text()))

    def restore(
        self, *, to: str = "newest", backup: str = "latest", confirm: str = "my", key: str = "", check: bool = True
    ) -> str:
        given = (
            f"export RS_ATTACH_DIR=/root/s/attachments BACKUP_KEY={key or self.key} RESTORE_BACKUP={backup}"
            f" RESTORE_TO='{to}' RESTORE_CONFIRM='{confirm}' RESTORE_START=true RESTORE_LINEAGE={self.ids['lineage']};"
        )
        return self.group.run(self.lab, f"{given} /root/s/restore_mysql.sh; echo status $?", check=check)

    def restored(self, **how: Any) -> dict[str, Any]:
        said = self.restore(**how)
        assert said.endswith("status 0"), said
        return dict(json.JSONDecoder().raw_decode(said.rpartition("RESTORED ")[2])[0])

    def refused(self, **how: Any) -> str:
        """What it says; and that the data that was there is still there."""
        said = self.restore(**how)
        assert not said.endswith("status 0"), said
        assert self.sql(self.lab, "SELECT * FROM keep.me") == "1"
        return said

    def rows(self) -> list[int]:
        return [int(word) for word in self.sql(self.lab, "SELECT id FROM shop.story ORDER BY id").split()]


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with group_of(GROUP) as group:
        yield filled(group)


def filled(group: Group) -> Stand:
    file = STATE / "lab.yml"
    file.write_text(LAB)
    relaunch("apply", str(file), "--yes")
    lab = str(told("server", "show", "lab/x1")["private_address"])
    packed = subprocess.run(
        ["tar", "-C", PROJECT / "templates/scripts", "-cz", "."], stdout=subprocess.PIPE, check=True
    ).stdout
    group.run(lab, "mkdir -p s && tar -C s -xz", given=packed)
    # It ships nothing, and its own group is called as the one whose backups it restores.
    group.run(lab, "systemctl disable --now relaunch-ship-binlogs && sed -i 's/lab$/my/' /etc/relaunch/backup.env")
    stand = Stand(group, lab, json.loads(relaunch("db", "backup-key", "my", "--json"))["identity"].splitlines()[0])
    stand.sql(
        lab, "SET sql_log_bin = 0; CREATE DATABASE keep; CREATE TABLE keep.me (id INT); INSERT INTO keep.me VALUES (1)"
    )
    until(lambda: told("db", "backups", "my")["lineage"], "the data to be given its history's id")
    stand.ids["lineage"] = told("db", "backups", "my")["lineage"]
    stand.sql(
        stand.primary,
        "CREATE TABLE shop.story (id INT PRIMARY KEY AUTO_INCREMENT, at DATETIME(6) DEFAULT NOW(6));"
        "CREATE TABLE shop.more (a INT PRIMARY KEY, b TEXT); SET SESSION cte_max_recursion_depth = 100000;"
        "INSERT INTO shop.more WITH RECURSIVE n (a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM n WHERE a < 20000)"
        " SELECT a, REPEAT(UUID(), 8) FROM n",
    )
    stand.write(10)
    stand.ids["full"] = stand.back_up("full")
    stand.write(10)
    stand.sql(stand.primary, "UPDATE shop.more SET b = 'changed' WHERE a BETWEEN 500 AND 700")
    stand.ids["incremental"] = stand.back_up("incremental")
    stand.write(10)
    stand.ids["gtid"] = stand.position()
    time.sleep(2.1)
    stand.ids["second"] = group.run(stand.primary, "date -u '+%Y-%m-%d %H:%M:%S'")
    stand.write(10)
    return stand


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


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    content = path.read_bytes()
    path.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    try:
        yield
    finally:
        path.write_bytes(content)


def test_the_binary_log_is_in_the_store_within_seconds(stand: Stand) -> None:
    stand.wait_shipped()

    took = []
    for _ in range(3):
        stand.write(1)
        took.append(stand.wait_shipped())
        time.sleep(0.7)

    print(f"\nshipped after {', '.join(f'{each:.1f}' for each in took)} s")
    assert max(took) < 5


def test_an_incremental_has_the_changed_pages_only_and_was_compared_with_the_server_itself(stand: Stand) -> None:
    full, incremental = stand.manifest(stand.ids["full"]), stand.manifest(stand.ids["incremental"])

    print(f"\nfull {full['stored_bytes']} bytes, incremental {incremental['stored_bytes']}")
    assert incremental["parent"] == stand.ids["full"] and incremental["role"] == "replica"
    assert incremental["stored_bytes"] < full["stored_bytes"] / 3
    assert {f"{each['schema']}.{each['table']}" for each in incremental["check"]["tables"]} >= {
        "shop.story",
        "shop.more",
    }
    assert incremental["checked_on"] == "server"


def test_what_cannot_be_restored_is_named_and_nothing_is_touched(stand: Stand) -> None:
    stand.wait_shipped()
    full = stand.bucket / "backups" / stand.ids["full"]
    pieces = sorted(stand.bucket.glob("binlogs/*/*/*.age"), key=lambda file: file.name)

    assert "Nothing was touched. To replace it: RESTORE_CONFIRM=my" in stand.refused(confirm="yes")
    assert "WRONG KEY" in stand.refused(key=new_identity()[0])
    assert "give the whole set" in stand.refused(to="gtid:0-1-5")
    with damaged(full / PIECE):
        assert f"DAMAGED OBJECT: {stand.ids['full']}/{PIECE}" in stand.refused()
    with moved_away(full):
        assert f"MISSING LINK: the backup {stand.ids['full']}" in stand.refused()
    with moved_away(pieces[len(pieces) // 2]):
        assert "MISSING LINK: binary log" in stand.refused()
    assert "MISSING LINK: the binary logs in the store end at" in stand.refused(to=f"gtid:{beyond(stand)}")
    less = f"gtid:{stand.manifest(stand.ids['full'])['gtid']}"
    said = stand.refused(to=less, backup=stand.ids["incremental"])
    assert f"NO SUCH POSITION: the backup {stand.ids['incremental']} has more than" in said and "unpacked" not in said


def beyond(stand: Stand) -> str:
    return re.sub(r":1-(\d+)", lambda found: f":1-{int(found[1]) + 100000}", stand.position())


def test_restored_to_a_set_of_gtids_it_has_these_and_no_more(stand: Stand) -> None:
    done = stand.restored(to=f"gtid:{stand.ids['gtid']}")

    assert without(done["gtid"], stand.ids["gtid"]) == without(stand.ids["gtid"], done["gtid"]) == ""
    assert stand.rows() == list(range(1, 31))
    assert done["tables_compared"] >= 2 and done["chain_length"] == 2


def test_proven_on_a_throw_away_instance_it_is_green_and_with_a_damaged_object_red(stand: Stand) -> None:
    relaunch("db", "prove", "my")
    shown = told("db", "backups", "my")
    assert shown["green"], shown["reasons"]
    assert shown["newest_proven"] == stand.ids["incremental"]

    with damaged(stand.bucket / "backups" / stand.ids["incremental"] / PIECE):
        said = relaunch("db", "prove", "my", check=False)
    assert "DAMAGED OBJECT" in said
    shown = told("db", "backups", "my")
    assert not shown["green"] and any("DAMAGED OBJECT" in each for each in shown["reasons"])


def test_after_a_failover_a_restore_goes_on_in_the_next_log_without_what_only_the_old_one_had(stand: Stand) -> None:
    old, replica = stand.group.member("primary"), str(stand.group.member("replica")["address"])
    rows = int(stand.sql(stand.primary, "SELECT MAX(id) FROM shop.story"))
    relaunch("db", "pause", "a test", "--deployment", "my")  # else a replica that is silent for 10 s is replaced
    stand.group.run(replica, "systemctl stop relaunch-agent && mysql -e 'STOP REPLICA IO_THREAD'")
    with ThreadPoolExecutor(1) as threads:
        threads.submit(
            stand.group.run, old["address"], "mysql -e \"INSERT INTO shop.more VALUES (-1, 'mine')\"", check=False
        )
        waits = "SELECT COUNT(*) FROM performance_schema.processlist WHERE state LIKE 'Waiting for semi-sync ACK%'"
        until(lambda: stand.sql(old["address"], waits) != "0", "a commit that nobody acknowledges", seconds=10)
        until(lambda: all_bytes_shipped(stand, old["address"]), "it to be shipped", seconds=20)
        stand.group.run(old["address"], "systemctl mask --runtime mysql; kill -9 $(pidof mysqld)")  # for good
    stand.group.run(replica, "systemctl start relaunch-agent")
    relaunch("db", "resume", "my")
    let_another_lead(stand, old)
    stand.write(5)
    stand.group.wait_whole(seconds=180)
    stand.wait_shipped()

    stand.restored()

    assert len(list(stand.bucket.glob("binlogs/*/began.json"))) >= 2
    assert stand.rows() == [*range(1, rows + 1), *stand.rows()[rows:]] and len(stand.rows()) == rows + 5
    stand.ids["whole"] = stand.sql(stand.primary, WHOLE)
    assert stand.sql(stand.lab, WHOLE) == stand.ids["whole"]
    assert stand.sql(stand.lab, "SELECT COUNT(*) FROM shop.more WHERE a = -1") == "0"


def all_bytes_shipped(stand: Stand, address: str) -> bool:
    log, end = stand.sql(address, "SHOW BINARY LOG STATUS").split("\t")[:2]
    pieces = stand.bucket.glob(f"binlogs/*/{log}-*/*.age")
    return max((int(piece.name.split("-")[1].partition(".")[0]) for piece in pieces), default=0) >= int(end)


def let_another_lead(stand: Stand, old: dict[str, Any]) -> None:
    """Was it all that slow, the group had let go of its replica: then a person says that nobody has more."""
    degraded = "no failover: replication was degraded"
    until(
        lambda: takes_writes(stand, old) or stand.group.shown()["rule"] == degraded,
        "another primary, or why there is none",
    )
    if not takes_writes(stand, old):
        relaunch("db", "failover", "my", "--allow-data-loss", "it is a test")
    until(lambda: takes_writes(stand, old), "another primary")


def takes_writes(stand: Stand, old: dict[str, Any]) -> bool:
    now = [each for each in stand.group.shown()["members"] if each["role"] == "primary"]
    return bool(now) and now[0]["address"] != old["address"] and now[0].get("state") == "takes writes"


def test_restored_to_a_second_it_has_all_before_and_nothing_after(stand: Stand) -> None:
    stand.restored(to=f"time:{stand.ids['second']}")

    assert stand.rows() == list(range(1, 31))


def test_one_schema_comes_back_alone(stand: Stand) -> None:
    sum_of = "SELECT COUNT(*), SUM(CRC32(b)) FROM {}.more"
    before = stand.sql(stand.primary, sum_of.format("shop"))
    replica = str(stand.group.member("replica")["address"])
    stand.sql(replica, f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{stand.position()}', 60)")
    relaunch("db", "backup", "my", "--schema", "shop")
    stand.sql(stand.primary, "UPDATE shop.more SET b = 'damaged'")

    assert "Nothing was touched" in relaunch("db", "restore-schema", "my", "shop", check=False)
    relaunch("db", "restore-schema", "my", "shop", "--confirm", "shop")

    assert stand.sql(stand.primary, sum_of.format("shop")) == before
    assert [each["id"] for each in told("db", "backups", "my")["schemas"] if "-replaced-" in each["id"]]


def test_in_place_it_is_asked_for_by_name_and_a_fresh_replica_and_a_new_history_follow(stand: Stand) -> None:
    replica = stand.group.member("replica")
    assert "say --confirm my" in relaunch("db", "restore", "my", check=False)

    relaunch("db", "restore", "my", "--to", f"gtid:{stand.ids['gtid']}", "--confirm", "my")

    assert stand.sql(stand.primary, "SELECT COUNT(*), MAX(id) FROM shop.story") == "30\t30"
    assert "mysql-before-" in stand.group.run(stand.primary, "ls -d /var/lib/mysql-before-*")
    stand.group.wait_whole(seconds=180)
    stand.write(3)
    fresh = stand.group.member("replica")
    assert fresh["instance"] != replica["instance"]
    until(lambda: stand.sql(fresh["address"], WHOLE) == stand.sql(stand.primary, WHOLE), "the replica to have the same")
    shown = told("db", "backups", "my")
    assert shown["lineage"] != stand.ids["lineage"] and shown["binary_logs"]
    assert {each["lineage"]: len(each["backups"]) for each in shown["older"]} == {stand.ids["lineage"]: 2}, shown[
        "older"
    ]


def test_by_hand_with_standard_tools_only(stand: Stand) -> None:
    page = (PROJECT / "docs/do/restore-by-hand.md").read_text()
    _, values, chain, _, logs, _, lay_over = re.findall(r"```bash\n(.*?)```", page, re.S)
    install, unpack, start = re.findall(r"```bash mysql\n(.*?)```", page, re.S)
    lines = stand.group.run(stand.primary, "cat /etc/relaunch/backup.env").splitlines()
    env = dict(line.split("=", 1) for line in lines if "=" in line)
    given = {
        "GROUP": "my", "LINEAGE": stand.ids["lineage"],
        "ENDPOINT": env["RCLONE_CONFIG_STORE_ENDPOINT"], "RCLONE_CA_CERT": "/root/ca.crt",
        "ACCESS_KEY": env["RCLONE_CONFIG_STORE_ACCESS_KEY_ID"],
        "SECRET_KEY": env["RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY"],
    }  # fmt: skip
    exports = "".join(f"export {name}='{value}'\n" for name, value in given.items())
    bare = str(told("server", "show", "lab/bare")["private_address"])
    stand.group.run(bare, "umask 077; cat >/root/backup.key", given=stand.key.encode() + b"\n")
    stand.group.run(bare, "cat >/root/ca.crt", given=(STATE / "ca/ca.crt").read_bytes())
    stand.group.run(bare, "systemctl stop relaunch-agent; rm -rf /opt/relaunch /usr/local/bin/relaunch-local")
    stand.group.run(
        bare, f"(set -e; {install}) >install.log 2>&1; tail -n 5 install.log; which mysqlbinlog", seconds=600
    )

    commands = exports + values + chain + lay_over + unpack + logs + start
    said = stand.group.run(bare, "bash -e -s", given=commands.encode())

    assert stand.sql(bare, WHOLE) == stand.ids["whole"], said[-3000:]
