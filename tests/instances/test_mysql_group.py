"""A group of three MySQL servers, all real: it forms, fails over, mends itself by a clone, switches over.

A controller of its own. Its image comes from Debian sid and takes minutes to make: it stays in
/var/tmp/relaunch-test-mysql (RELAUNCH_MYSQL_TEST_STATE names another folder) from one run to the next, and where it is
not there yet the tests are skipped, unless RELAUNCH_MYSQL_TEST=1 asks for them:

    sudo RELAUNCH_MYSQL_TEST=1 build/venv/bin/python -m pytest tests/instances/test_mysql_group.py
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relaunch.cli.client import Client, find_controller
from relaunch.clouds.local import cgroups

PROJECT = Path(__file__).parents[2]
STATE = Path(os.environ.get("RELAUNCH_MYSQL_TEST_STATE", "/var/tmp/relaunch-test-mysql"))
SETTINGS = 'network = "198.19.40.0/24"\nbridge = "rlt-my9"\napi_port = 17740\nbus_port = 17742\n'
ENVIRONMENT = {**os.environ, "RELAUNCH_STATE": str(STATE), "PYTHONPATH": str(PROJECT / "src")}
PASSWORD = "a password of no worth"
GROUP = """deployment: my
servers:
  db1: {template: mysql9, zone: a}
  db2: {template: mysql9, zone: b}
  db3: {template: mysql9, zone: a}
inputs: {INNODB_BUFFER_POOL: "text:32M", DB_NAME: "text:shop"}
database: {primary: db1, replicas: [db2, db3], durability: strict, backups: {full: never, incremental: never,
  primary: never, prove: never}}
credentials: {REPLICATION_PASSWORD: generate}
"""
ASKED = os.environ.get("RELAUNCH_MYSQL_TEST") == "1" or (STATE / "local-cloud/images").is_dir()
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not ASKED, reason="its image takes minutes to make: RELAUNCH_MYSQL_TEST=1 asks for it"),
    pytest.mark.timeout(900),
]


def relaunch(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "relaunch.cli.main", *words],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def until(is_so: Callable[[], object], what: str, *, seconds: float = 60) -> float:
    """Wait until it is so; how long that took."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - began


@dataclass(frozen=True)
class Ack:
    worker: int
    number: int
    moment: float
    address: str


class Group:
    """The deployment as its controller shows it, and what can be done to it."""

    def __init__(self) -> None:
        self.client = Client(find_controller(ENVIRONMENT))

    def shown(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/databases/my")
        return found

    def member(self, role: str) -> dict[str, Any]:
        found: dict[str, Any] = next(each for each in self.shown()["members"] if each["role"] == role)
        return found

    def wait_redundant(self, *, seconds: float = 120) -> float:
        """Until there is a primary that waits for acknowledgements, and two replicas in step."""

        def whole() -> bool:
            shown = self.shown()
            fine = [each for each in shown["members"] if each.get("state") in ("takes writes", "follows")]
            return shown["mode"] == "sync" and len(shown["sync_set"]) == 2 and len(fine) == 3 and not shown["change"]

        try:
            return until(whole, "a primary and two replicas in step", seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {json.dumps(self.shown(), indent=1)}") from None

    def wait_operational(self) -> None:
        def whole() -> bool:
            servers = self.client.get("/servers", deployment="my")["servers"]
            assert not [each for each in servers if each["stranded_why"]], servers
            return all(each["state"] == "operational" for each in servers)

        until(whole, "three operational servers", seconds=120)

    def run(self, address: str, command: str, *, check: bool = True, given: bytes = b"") -> str:
        done = subprocess.run(
            ["ssh", "-i", str(STATE / "ssh/id_ed25519"), "-o", "StrictHostKeyChecking=no", "-o",
             "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", f"root@{address}", command],
            input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False,
        )  # fmt: skip
        said = done.stdout.decode().strip()
        assert not check or done.returncode == 0, said
        return said

    def sql(self, address: str, statement: str) -> str:
        return self.run(address, f'mysql -N -B -e "{statement}"')

    def process(self, member: dict[str, Any]) -> int:
        """The host's number of the member's mysqld."""
        cloud_id = str(self.client.get(f"/servers/my/{member['name']}")["cloud_id"])
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (folder / "comm").read_text().strip() == "mysqld":
                    group = cgroups.group_of(int(folder.name))
                    if group is not None and cloud_id in str(group):
                        return int(folder.name)
        raise AssertionError(f"no mysqld of {member['name']} ({cloud_id})")

    def join_log(self, server: str) -> str:
        """What the newest instance's script that joins the group said."""
        run = self.client.get(f"/servers/my/{server}/runs")["runs"]
        boot = next(each for each in run if each["phase"] == "boot")
        index = next(i for i, each in enumerate(boot["order"]["scripts"]) if each["name"].startswith("Join"))
        return str(self.client.get(f"/runs/{boot['id']}/output", index=index, offset=0)["text"])

    def purge_logs(self) -> None:
        """So that no server can be followed from the beginning: a new replica must be cloned."""
        for member in self.shown()["members"]:
            address = member["address"]
            self.sql(address, "FLUSH BINARY LOGS")

            def purged(address: str = address) -> bool:
                self.sql(address, "PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 SECOND")
                return self.sql(address, "SELECT @@global.gtid_purged <> ''") == "1"

            until(purged, f"the old binary logs of {member['name']} to be gone", seconds=20)

    @contextlib.contextmanager
    def writers(self) -> Iterator[Callable[[], list[Ack]]]:
        """Four writers in the network of a replica, as the host cannot reach the database's port."""
        self.sql(self.member("primary")["address"], "TRUNCATE shop.ledger")
        out = STATE / "acks"
        out.unlink(missing_ok=True)
        inside = self.process(self.member("replica"))
        addresses = [each["address"] for each in self.shown()["members"]]
        process = subprocess.Popen(
            ["nsenter", f"--net=/proc/{inside}/ns/net", sys.executable,
             str(PROJECT / "tests/instances/mysql_writer.py"), str(out), "4", *addresses],
            stdin=subprocess.PIPE, text=True,
        )  # fmt: skip

        def acks() -> list[Ack]:
            words = [line.split() for line in out.read_text().splitlines()] if out.exists() else []
            return [Ack(int(w[0]), int(w[1]), float(w[2]), w[3]) for w in words if len(w) == 4]

        assert process.stdin is not None
        process.stdin.write(PASSWORD + "\n")
        process.stdin.close()
        try:
            until(lambda: len(acks()) > 50, "the first writes", seconds=30)
            yield acks
        finally:
            process.terminate()
            process.wait(30)

    def lost(self, acks: list[Ack]) -> list[Ack]:
        """Those of them that the present primary does not have."""
        rows = self.sql(self.member("primary")["address"], "SELECT worker, number FROM shop.ledger").splitlines()
        there = {tuple(map(int, row.split())) for row in rows}
        return [ack for ack in acks if (ack.worker, ack.number) not in there]


def outage(acks: list[Ack]) -> float:
    moments = sorted(ack.moment for ack in acks)
    return max(after - before for before, after in itertools.pairwise(moments))


def taken_by_another(acks: list[Ack]) -> bool:
    return bool(acks) and acks[-1].address != acks[0].address


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    STATE.mkdir(mode=0o711, exist_ok=True)
    (STATE / "controller.toml").write_text(SETTINGS)
    relaunch("controller", "start")
    try:
        group = Group()
        destroy(group.client)
        group.client.put("/credentials/DB_PASSWORD", {"value": PASSWORD})
        file = STATE / "my.yml"
        file.write_text(GROUP)
        relaunch("apply", str(file), "--yes")
        group.wait_redundant()
        group.sql(
            group.member("primary")["address"],
            "CREATE TABLE shop.ledger (worker INT, number INT, PRIMARY KEY (worker, number))",
        )
        yield group
        destroy(group.client)
    finally:
        relaunch("demo", "--stop")


def stop_controller() -> None:
    pid = int((STATE / "controller.lock").read_text())
    os.kill(pid, signal.SIGTERM)
    until(lambda: not Path("/proc", str(pid)).exists(), "the controller to end", seconds=30)


def destroy(client: Client) -> None:
    until(lambda: all(task["finished"] for task in client.get("/tasks")["tasks"]), "all tasks to end", seconds=120)
    for left in client.get("/deployments")["deployments"]:
        task = client.delete(f"/deployments/{left['name']}?yes=true")["task"]["id"]
        until(lambda task=task: client.get(f"/tasks/{task}")["finished"], "the deployment to be gone", seconds=120)  # type: ignore[misc]


def test_killed_its_primary_is_replaced_without_a_loss_and_a_clone_takes_its_place(group: Group) -> None:
    group.purge_logs()
    old = group.member("primary")

    with group.writers() as acks:
        os.kill(group.process(old), signal.SIGKILL)
        until(lambda: taken_by_another(acks()), "writes on another primary", seconds=30)
        time.sleep(1)
    redundant = group.wait_redundant()
    group.wait_operational()
    other = next(m for m in group.shown()["members"] if m["role"] == "replica" and m["name"] != old["name"])

    assert len(acks()) > 100 and group.lost(acks()) == []
    print(f"\nkill -9: {outage(acks()):.2f} s without writes; redundant {redundant:.0f} s after the writers' end")
    assert outage(acks()) < 10
    aside = group.shown()["set_aside"]
    assert [each["id"] for each in aside] == [old["instance"]]
    log = group.join_log(old["name"])
    assert f"Cloning {other['name']} " in log and "The copy is in place" in log, log
    # Started again by hand, what was set aside takes no writes.
    group.run(old["address"], "systemctl restart mysql")
    assert group.sql(old["address"], "SELECT @@super_read_only") == "1"
    said = group.run(old["address"], "mysql -e 'INSERT INTO shop.ledger VALUES (99, 99)' 2>&1", check=False)
    assert "super-read-only" in said or "super_read_only" in said, said


def test_a_planned_switchover_loses_nothing(group: Group) -> None:
    group.wait_redundant()
    old, to = group.member("primary"), group.member("replica")["name"]

    with group.writers() as acks:
        group.client.post("/databases/my/switchover", {"to": to})
        until(lambda: taken_by_another(acks()), "writes on the other one", seconds=30)
        time.sleep(1)
    group.wait_redundant()

    assert group.member("primary")["name"] == to
    assert group.lost(acks()) == []
    print(f"\nswitchover: {outage(acks()):.2f} s without writes")
    assert group.sql(old["address"], "SELECT @@super_read_only") == "1"


def test_a_killed_replica_is_back_in_step_by_itself_and_acknowledges(group: Group) -> None:
    group.wait_redundant()
    replica = group.member("replica")

    with group.writers() as acks:
        os.kill(group.process(replica), signal.SIGKILL)
        time.sleep(2)
    group.wait_redundant()

    assert group.lost(acks()) == []
    state = "SELECT @@super_read_only, @@global.rpl_semi_sync_replica_enabled"
    until(lambda: group.sql(replica["address"], state) == "1\t1", "the replica to acknowledge, read-only", seconds=60)


def test_a_lost_acknowledgement_is_asked_for_again(group: Group) -> None:
    """A replica that connects again acknowledges nothing that it has already, and all who could write wait."""
    group.wait_redundant()
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


def test_a_clone_is_refused_without_room_and_begun_anew_after_a_kill(group: Group) -> None:
    group.wait_redundant()
    address = group.member("replica")["address"]
    stop_controller()  # it would replace a replica whose data is no longer the group's
    try:
        clone_again_and_again(group, address)
    finally:
        relaunch("controller", "start")
    group.wait_redundant()


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
    killed = group.run(address, join.format(1, "timeout -s KILL 8"), check=False)
    assert "file copy: " in killed and "Cloned in" not in killed, killed
    assert group.sql(address, "SELECT COUNT(*) >= 0 FROM shop.ledger") == "1"

    done = group.run(address, join.format(0, ""))
    assert "An unfinished clone is under way" in done and "caught up with" in done, done
