"""Snapshots of a real MySQL server's btrfs volume: whom they make wait, what they hold, backups and restores made of
them. A primary and a replica of the template mysql9, each with a volume; commits wait for the replica, always."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from mysql_stand import NEEDS, STATE, Group, group_of, relaunch
from snapshot_stand import TAKE, VOLUME, Server, until, writing

NO_TIMER = "inputs: {SNAPSHOT_MINUTES: text:0}"
GROUP = f"""deployment: my
servers:
  db1: {{template: mysql9, zone: a, volume: 10G, {NO_TIMER}}}
  db2: {{template: mysql9, zone: b, volume: 10G, {NO_TIMER}}}
inputs: {{INNODB_BUFFER_POOL: "text:32M", DB_NAME: "text:shop"}}
database: {{primary: db1, replicas: [db2], durability: strict, backups: {{method: snapshot, full: never,
  incremental: never, primary: never, prove: never}}}}
credentials: {{REPLICATION_PASSWORD: generate}}
"""
FREE = "taken without a lock: it is what a crash would have left"
RESTORING = f"{VOLUME}/data-restoring"
pytestmark = NEEDS


@dataclass
class Stand:
    group: Group

    def server(self, role: str) -> Server:
        return Server(str(self.group.member(role)["address"]), STATE / "ssh/id_ed25519", "mysql")

    @property
    def primary(self) -> Server:
        return self.server("primary")

    @contextmanager
    def without_acknowledgements(self) -> Iterator[None]:
        """The replica's server is frozen, so that commits wait."""
        frozen = self.group.process(self.group.member("replica"))
        os.kill(frozen, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(frozen, signal.SIGCONT)


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with group_of(GROUP) as group:
        stand = Stand(group)
        stand.primary.sql(
            "CREATE TABLE shop.ledger (number INT PRIMARY KEY); CREATE TABLE shop.slow (a INT);"
            "INSERT INTO shop.slow VALUES (1);"
            "CREATE TABLE shop.more (a INT PRIMARY KEY, b TEXT); SET SESSION cte_max_recursion_depth = 100000;"
            "INSERT INTO shop.more WITH RECURSIVE n (a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM n WHERE a < 20000)"
            " SELECT a, REPEAT(UUID(), 8) FROM n"
        )
        yield stand


def told(*words: str) -> dict[str, Any]:
    """Its JSON; what it says when it fails comes after that."""
    return dict(json.JSONDecoder().raw_decode(relaunch(*words, "--json", check=False))[0])


def test_behind_a_long_statement_nobody_waits_and_nothing_acknowledged_is_missing(stand: Stand) -> None:
    primary = stand.primary
    with (
        primary.statement("UPDATE slow SET a = SLEEP(60)"),
        primary.statement("SELECT SLEEP(60), a FROM slow"),
        writing(primary) as writes,
    ):
        for _ in range(4):  # on a machine that is busy with other things the lock is not always had in time
            began = time.monotonic()
            taken = primary.take()
            took = time.monotonic() - began
            if taken["lock"] != "none":
                break
        time.sleep(0.5)

    assert taken["lock"] == "LOCK INSTANCE FOR BACKUP" and taken["warnings"] == []
    assert taken["locked_seconds"] < 1 and took < 20
    assert writes.longest < 3, "others' tests run on this machine; the bench knows the limit of 50 ms"
    assert len(writes.before(began)) > 10
    assert writes.before(began) <= primary.numbers_in(taken)


def test_while_commits_wait_for_a_replica_a_snapshot_waits_for_nothing(stand: Stand) -> None:
    primary = stand.primary
    with writing(primary) as writes:
        with stand.without_acknowledgements():
            waiting = "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_source_wait_sessions'"
            until(lambda: int(primary.sql(waiting).split()[1]) > 0, "commits to wait for the replica", seconds=10)
            began = time.monotonic()
            taken = primary.take()
            took = time.monotonic() - began
        time.sleep(1)

    assert "commits wait for a replica to acknowledge: no lock is asked for" in taken["said"]
    assert "attempt" not in taken["said"] and taken["locked_seconds"] < 3
    assert (taken["lock"], taken["waiting"], taken["warnings"]) == ("none", True, [FREE])
    assert max(ended for _, _, ended in writes.acks) > began + took, "commits go on once the replica does"
    assert writes.before(began) <= primary.numbers_in(taken)
    stand.group.wait_whole()


def test_a_table_without_transactions_is_not_waited_for_behind_a_long_statement(stand: Stand) -> None:
    primary = stand.primary
    primary.sql("CREATE TABLE shop.old (a INT) ENGINE = MyISAM; INSERT INTO shop.old VALUES (1)")
    try:
        quiet = next((each for each in (primary.take("--wait 1") for _ in range(4)) if each["exact"]), {})
        with primary.statement("SELECT SLEEP(60), a FROM old"), writing(primary) as writes:
            behind = primary.take("--wait 1")
    finally:
        primary.sql("DROP TABLE shop.old")

    assert quiet.get("lock") == "FLUSH TABLES WITH READ LOCK"
    assert quiet["warnings"] == ["shop.old is MyISAM: not covered by transactions"]
    assert behind["lock"] == "none"
    assert "tables without transactions may be torn in it" in behind["warnings"]
    assert "a statement runs for longer than 1 s" in behind["said"]
    assert writes.longest < 3


def test_backups_of_snapshots_are_made_of_what_changed(stand: Stand) -> None:
    primary = stand.primary
    relaunch("db", "backup", "my", "--kind", "full")
    primary.sql("INSERT INTO shop.more VALUES (-1, 'between'); UPDATE shop.more SET b = 'changed' WHERE a % 1000 = 7")
    relaunch("db", "backup", "my", "--kind", "incremental")

    lineage = told("db", "backups", "my")["lineage"]
    files = (STATE / "object-store/backups/my" / lineage / "backups").glob("*/manifest.json")
    full, incremental = sorted((json.loads(file.read_text()) for file in files), key=lambda each: str(each["ended"]))
    assert (full["method"], full["kind"], incremental["parent"]) == ("snapshot", "full", full["id"])
    assert incremental["kind"] == "incremental" and incremental["stored_bytes"] < full["stored_bytes"] / 2
    assert {each["table"] for each in incremental["check"]["tables"]} >= {"ledger", "more"}
    assert full["role"] == "replica"


def test_of_two_restores_on_one_server_the_second_is_refused_and_touches_nothing(stand: Stand) -> None:
    primary = stand.primary
    primary.copy_scripts()
    primary.take()
    rows = primary.sql("SELECT COUNT(*) FROM shop.more")
    given = "RESTORE_CONFIRM=my RESTORE_SNAPSHOT=latest RESTORE_NEW_LINEAGE= BACKUP_KEY=none RESTORE_TO=newest"
    said = primary.run(
        f"""export RS_ATTACH_DIR=/root/s/attachments {given}
        s/restore_snapshot.sh >first 2>&1 & until [ -e {RESTORING} ]; do sleep 0.01; done
        s/restore_snapshot.sh; echo "second $?"
        RESTORE_PHASE=discard s/restore_mysql.sh; echo "third $?"
        wait $!; echo "first $?"; ls {RESTORING}; cat first
        RESTORE_PHASE=swap RESTORE_NEW_LINEAGE=another s/restore_mysql.sh; echo "other $?"; ls {RESTORING}
        RESTORE_PHASE=discard s/restore_mysql.sh; ls {RESTORING}""",
        check=False,
    )

    refusal = "Another restore is at work on this server. Nothing was touched: wait for its end, then restore again."
    assert [said.count(refusal), "second 1" in said, "third 1" in said, "first 0" in said] == [2, True, True, True], (
        said
    )
    assert said.count("RESTORED {") == 2 and said.count("restored\n") == 2, said
    assert "What is prepared here is another restore's" in said and "other 1" in said, said
    assert f"cannot access '{RESTORING}'" in said, said
    assert primary.sql("SELECT COUNT(*) FROM shop.more") == rows


def test_a_snapshot_is_put_in_place_within_seconds_and_a_fresh_replica_follows(stand: Stand) -> None:
    stand.group.wait_whole()
    primary, old_replica = stand.primary, stand.server("replica")
    with writing(primary) as writes:
        began = time.monotonic()
        taken = primary.take()
    rows = primary.sql("SELECT COUNT(*) FROM shop.more")
    primary.sql("DROP TABLE shop.more")  # the mistake
    before = told("db", "backups", "my")["lineage"]

    relaunch("db", "restore", "my", "--from-snapshot", taken["id"], "--confirm", "my")

    assert primary.sql("SELECT COUNT(*) FROM shop.more") == rows
    there = {int(line) for line in primary.sql("SELECT number FROM shop.ledger").splitlines()}
    assert writes.before(began) <= there and there != {number for number, _, _ in writes.acks}
    kept = primary.run(f"ls -d {VOLUME}/data-before-*")
    assert "ibdata1" in primary.run(f"ls {kept}")
    stand.group.wait_whole(seconds=180)
    primary.sql("INSERT INTO shop.slow VALUES (3)")
    fresh = stand.server("replica")
    assert fresh.address != old_replica.address
    assert fresh.sql("SELECT COUNT(*) FROM shop.more") == rows
    assert told("db", "backups", "my")["lineage"] != before
    assert primary.run(f"{TAKE} list") != ""
