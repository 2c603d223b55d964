"""A group of three MySQL servers, all real: it forms, fails over, mends itself by a clone, switches over.

sudo RELAUNCH_MYSQL_TEST=1 build/venv/bin/python -m pytest tests/instances/test_mysql_group.py
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from mysql_stand import (
    LONG,
    NEEDS,
    PROJECT,
    Group,
    group_of,
    outage,
    relaunch,
    stop_controller,
    taken_by_another,
    until,
)

from relaunch.errors import Conflict

GROUP = """deployment: my
servers:
  db1: {template: mysql9, zone: a}
  db2: {template: mysql9, zone: b}
  db3: {template: mysql9, zone: a}
inputs: {INNODB_BUFFER_POOL: "text:32M", DB_NAME: "text:shop"}
database: {primary: db1, replicas: [db2, db3], durability: strict, backups: {full: never, incremental: never,
  primary: never, prove: never, schemas: never}}
credentials: {REPLICATION_PASSWORD: generate}
"""
pytestmark = NEEDS


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with group_of(GROUP) as group:
        group.sql(
            group.member("primary")["address"],
            "CREATE TABLE shop.ledger (worker INT, number INT, PRIMARY KEY (worker, number))",
        )
        yield group


def test_killed_its_primary_is_replaced_without_a_loss_and_a_clone_takes_its_place(group: Group) -> None:
    group.purge_logs()
    old = group.member("primary")

    with group.writers() as acks:
        # For good: it might be back before anybody is sure that it is gone.
        group.run(old["address"], "systemctl mask --runtime mysql; kill -9 $(pidof mysqld)")
        until(lambda: taken_by_another(acks()), "writes on another primary", seconds=30)
        time.sleep(1)
    redundant = group.wait_redundant()
    group.wait_whole()
    other = next(m for m in group.shown()["members"] if m["role"] == "replica" and m["name"] != old["name"])

    assert len(acks()) > 50 and group.lost(acks()) == []
    print(f"\nkill -9: {outage(acks()):.2f} s without writes; redundant {redundant:.0f} s after the writers' end")
    assert outage(acks()) < 10
    aside = group.shown()["set_aside"]
    assert [each["id"] for each in aside] == [old["instance"]]
    log = group.join_log(old["name"])
    assert f"Cloning {other['name']} " in log and "The copy is in place" in log, log
    # Started again by hand, what was set aside takes no writes.
    group.run(old["address"], "systemctl unmask --runtime mysql; systemctl restart mysql")
    assert group.sql(old["address"], "SELECT @@super_read_only") == "1"
    said = group.run(old["address"], "mysql -e 'INSERT INTO shop.ledger VALUES (99, 99)' 2>&1", check=False)
    assert "super-read-only" in said or "super_read_only" in said, said


def test_a_planned_switchover_loses_nothing(group: Group) -> None:
    group.wait_whole()
    old, to = group.member("primary"), group.member("replica")["name"]

    with group.writers() as acks:
        until(lambda: is_accepted(group, to), "the switchover to be accepted", seconds=30)
        until(lambda: taken_by_another(acks()), "writes on the other one", seconds=30)
        time.sleep(1)
    group.wait_whole()

    assert group.member("primary")["name"] == to
    assert group.lost(acks()) == []
    print(f"\nswitchover: {outage(acks()):.2f} s without writes")
    assert group.sql(old["address"], "SELECT @@super_read_only") == "1"


def test_the_error_log_is_rotated_and_written_on(group: Group) -> None:
    address = group.member("primary")["address"]
    log, rotate = "/var/log/mysql/error.log", "logrotate --force /etc/logrotate.d/mysql-server"

    group.run(address, f"test -s {log} && {rotate} && test -s {log}.1.gz")
    assert group.run(address, f"stat -c %s {log}").strip() == "0"
    # An account that fails to log in is a line of its log.
    group.sql(address, "SET GLOBAL log_error_verbosity = 3")
    group.run(address, f"mysql --user=nobody --password=wrong --host={address} -e 'SELECT 1'", check=False)
    group.sql(address, "SET GLOBAL log_error_verbosity = 2")

    assert "nobody" in group.run(address, f"cat {log}")


def is_accepted(group: Group, to: str) -> bool:
    """A switchover; refused while that replica is more than a second behind."""
    with contextlib.suppress(Conflict):
        group.client.post("/databases/my/switchover", {"to": to})
        return True
    return False


def test_a_killed_replica_is_back_in_step_by_itself_and_acknowledges(group: Group) -> None:
    group.wait_whole()
    replica = group.member("replica")

    with group.writers() as acks:
        os.kill(group.process(replica), signal.SIGKILL)
        time.sleep(2)
    group.wait_whole()

    assert group.lost(acks()) == []
    state = "SELECT @@super_read_only, @@global.rpl_semi_sync_replica_enabled"
    until(lambda: group.sql(replica["address"], state) == "1\t1", "the replica to acknowledge, read-only", seconds=60)


def test_a_primary_that_is_stopped_answers_no_commit_that_waits(group: Group) -> None:
    """As its clients would take for safe what it alone has."""
    group.wait_whole()
    primary = group.member("primary")["address"]
    replicas = [each["address"] for each in group.shown()["members"] if each["role"] == "replica"]
    account = "CREATE USER writer@localhost IDENTIFIED BY 'writer'; GRANT INSERT ON shop.ledger TO writer@localhost"
    group.sql(primary, account)
    relaunch("db", "pause", "a test", "--deployment", "my")
    try:
        for address in replicas:
            group.run(primary, f"ip route add blackhole {address}/32")
        write = "mysql -u writer -pwriter -e 'INSERT INTO shop.ledger VALUES (88, 1)'"
        kept = f"{write} >/root/said 2>&1; echo status \\$? >>/root/said"
        group.run(primary, f'nohup sh -c "{kept}" >/dev/null 2>&1 </dev/null &')
        # Itself for an acknowledgement, or for the heartbeat's commit, which came just before it and waits for one.
        waits = "mysql -N -e 'SHOW PROCESSLIST' | grep -qE '(semi-sync ACK|handler commit).*.88, 1' && echo it waits"
        until(lambda: group.run(primary, waits, check=False) == "it waits", "the commit to wait", seconds=10)

        group.run(primary, "systemctl stop mysql")

        said = group.run(primary, "cat /root/said")
        assert "status 1" in said and "Lost connection" in said, said
    finally:
        for address in replicas:
            group.run(primary, f"ip route del blackhole {address}/32", check=False)
        group.run(primary, "systemctl start mysql")
        relaunch("db", "resume", "my")
    group.wait_whole(seconds=240)


@LONG
def test_a_lost_acknowledgement_is_asked_for_again(group: Group) -> None:
    """A replica that connects again acknowledges nothing that it has already, and all who could write wait."""
    group.wait_whole()
    primary = group.member("primary")
    replicas = [each["address"] for each in group.shown()["members"] if each["role"] == "replica"]
    again = "SET GLOBAL rpl_semi_sync_replica_enabled = {}; STOP REPLICA IO_THREAD; START REPLICA IO_THREAD"
    group.sql(primary["address"], "DELETE FROM shop.ledger WHERE worker = 77")
    for address in replicas:  # their agents would have them acknowledge again
        group.run(address, "systemctl stop relaunch-agent")
    try:
        for address in replicas:
            group.sql(address, again.format("OFF"))
        with ThreadPoolExecutor(1) as threads:
            write = threads.submit(group.sql, primary["address"], "INSERT INTO shop.ledger VALUES (77, 1)")
            row = "SELECT COUNT(*) FROM shop.ledger WHERE worker = 77"
            until(lambda: group.sql(replicas[0], row) == "1", "the row on a replica", seconds=10)
            time.sleep(2)  # and the heartbeat waits as well
            assert not write.done()
            for address in replicas:
                group.sql(address, again.format("ON"))
            took = until(write.done, "the write to be answered", seconds=30)
            write.result()
    finally:
        for address in replicas:
            group.run(address, "systemctl start relaunch-agent")

    print(f"\na lost acknowledgement: {took:.1f} s")
    assert "prompting it" in group.run(primary["address"], "journalctl -u relaunch-agent -o cat")
    assert group.member("primary")["instance"] == primary["instance"]


@LONG
def test_a_clone_is_refused_without_room_and_begun_anew_after_a_kill(group: Group) -> None:
    group.wait_whole()
    address = group.member("replica")["address"]
    stop_controller()  # it would replace a replica whose data is no longer the group's
    try:
        clone_again_and_again(group, address)
    finally:
        relaunch("controller", "start")
    group.wait_whole()


def clone_again_and_again(group: Group, address: str) -> None:
    packed = subprocess.run(
        ["tar", "-C", PROJECT / "templates/scripts", "-cz", "join_mysql_group.sh", "attachments"],
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    group.run(address, "mkdir -p /root/join && tar -C /root/join -xz", given=packed)
    group.run(
        address, "printf '#!/bin/sh\\necho Avail; echo 1000000\\n' >/usr/local/bin/df; chmod +x /usr/local/bin/df"
    )
    join = (
        "cd /root/join; rm -f /var/lib/mysql/relaunch-group;"
        " export RS_ATTACH_DIR=/root/join/attachments DB_USER=app DB_PASSWORD=unused DB_NAME=shop"
        " CLONE_MIB_PER_SECOND={};"
        " export REPLICATION_PASSWORD=$(jq -r .password /etc/relaunch/replication.json); {} ./join_mysql_group.sh 2>&1"
    )

    refused = group.run(address, join.format(0, ""), check=False)
    assert re.search(r"NOT ENOUGH DISK: \d+ MB are needed in /var/lib/mysql, 1 MB are free", refused), refused
    assert group.sql(address, "SELECT COUNT(*) >= 0 FROM shop.ledger") == "1"

    group.run(address, "rm /usr/local/bin/df")
    older = b"#!/bin/sh\necho mysqld Ver 8.4.5 for Linux\n"
    group.run(address, "install -m 755 /dev/stdin /usr/local/bin/mysqld", given=older)
    refused = group.run(address, join.format(0, ""), check=False)
    assert re.search(r"runs MySQL 9\S+, this server 8\.4\.5: it cannot become its replica", refused), refused
    assert group.sql(address, "SELECT COUNT(*) >= 0 FROM shop.ledger") == "1"

    group.run(address, "rm /usr/local/bin/mysqld")
    killed = group.run(address, join.format(1, "timeout -s KILL 8"), check=False)
    assert "file copy: " in killed and "Cloned in" not in killed, killed
    assert group.sql(address, "SELECT COUNT(*) >= 0 FROM shop.ledger") == "1"

    done = group.run(address, join.format(0, ""))
    assert "An unfinished clone is under way" in done and "caught up with" in done, done
