"""A group of MySQL servers under a controller of its own, for tests: all real, on instances of the template mysql9.

Its image comes from Debian sid and takes minutes to make: it stays in /var/tmp/relaunch-test-mysql
(RELAUNCH_MYSQL_TEST_STATE names another folder) from one run to the next, and where it is not there yet the tests are
skipped, unless RELAUNCH_MYSQL_TEST=1 asks for them, as ./test does. Those marked LONG run in drills/long_tests only.
One at a time: they share the folder, the bridge and the ports; RELAUNCH_MYSQL_TEST_NUMBER (40; up to 59) gives other
addresses and ports, for another folder.
"""

from __future__ import annotations

import contextlib
import itertools
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

import pytest
import yaml

from relaunch.cli.client import Client, find_controller
from relaunch.cli.servers import ssh_command
from relaunch.clouds.local import cgroups
from relaunch.errors import Conflict, NotFound

PROJECT = Path(__file__).parents[2]
STATE = Path(os.environ.get("RELAUNCH_MYSQL_TEST_STATE", "/var/tmp/relaunch-test-mysql"))
NUMBER = int(os.environ.get("RELAUNCH_MYSQL_TEST_NUMBER", "40"))
SETTINGS = (
    f'network = "198.19.{NUMBER}.0/24"\nbridge = "rlt-my{NUMBER}"\n'
    f"api_port = {17500 + 6 * NUMBER}\nbus_port = {17502 + 6 * NUMBER}\n"
)
ENVIRONMENT = {**os.environ, "RELAUNCH_STATE": str(STATE), "PYTHONPATH": str(PROJECT / "src")}
PASSWORD = "a password of no worth"  # of the app
WANTED = os.environ.get("RELAUNCH_MYSQL_TEST", "")
ASKED = WANTED == "1" or (not WANTED and (STATE / "local-cloud/images").is_dir())
NEEDS = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not ASKED, reason="its image takes minutes to make: RELAUNCH_MYSQL_TEST=1 asks for it"),
    pytest.mark.timeout(900),
]
LONG = pytest.mark.skipif("RELAUNCH_LONG_TESTS" not in os.environ, reason="takes minutes: sudo drills/long_tests")


def relaunch(*words: str, check: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "relaunch.cli.main", *words],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout
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

    def __init__(self, size: int) -> None:
        self.client = Client(find_controller(ENVIRONMENT))
        self.size = size  # servers, when it is whole

    def shown(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/databases/my")
        return found

    def member(self, role: str) -> dict[str, Any]:
        found: dict[str, Any] = next(each for each in self.shown()["members"] if each["role"] == role)
        return found

    def wait_redundant(self, *, seconds: float = 120) -> float:
        """Until there is a primary that waits for acknowledgements, and all replicas are in step."""

        def whole() -> bool:
            shown = self.shown()
            fine = [each for each in shown["members"] if each.get("state") in ("takes writes", "follows")]
            whole = (len(shown["sync_set"]), len(fine)) == (self.size - 1, self.size)
            return shown["mode"] == "sync" and whole and not shown["change"]

        try:
            return until(whole, f"{self.size} servers in step", seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {json.dumps(self.shown(), indent=1)}") from None

    def wait_whole(self, *, seconds: float = 120) -> None:
        """Until it is redundant, every server operational and every task over: then nothing refuses an order."""
        self.wait_redundant(seconds=seconds)
        missing = ["not looked yet"]

        def whole() -> bool:
            servers = self.client.get("/servers", deployment="my")["servers"]
            assert not [each for each in servers if each["stranded_why"]], servers
            missing[:] = [
                f"{task['title']} is under way" for task in self.client.get("/tasks")["tasks"] if not task["finished"]
            ]
            missing.extend(f"{each['name']} is {each['state']}" for each in servers if each["state"] != "operational")
            return not missing

        try:
            until(whole, "operational servers", seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {missing}") from None

    def run(self, address: str, command: str, *, check: bool = True, given: bytes = b"", seconds: float = 120) -> str:
        done = subprocess.run(
            ssh_command(address, STATE / "ssh/id_ed25519", [command]),
            input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, check=False,
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


@contextlib.contextmanager
def group_of(file: str) -> Iterator[Group]:
    """The deployment `my` of that file, alone with its controller and an empty store, in step; gone afterwards."""
    STATE.mkdir(mode=0o711, exist_ok=True)
    shutil.rmtree(STATE / "object-store", ignore_errors=True)  # what a run before this one backed up
    (STATE / "controller.toml").write_text(SETTINGS)
    relaunch("controller", "start")
    try:
        group = Group(len(yaml.safe_load(file)["servers"]))
        destroy(group.client)
        group.client.put("/credentials/DB_PASSWORD", {"value": PASSWORD})
        path = STATE / "my.yml"
        path.write_text(file)
        relaunch("apply", str(path), "--yes")
        group.wait_redundant()
        yield group
        destroy(group.client)
    finally:
        relaunch("demo", "--stop")


def stop_controller() -> None:
    pid = int((STATE / "controller.lock").read_text())
    os.kill(pid, signal.SIGTERM)
    until(lambda: not Path("/proc", str(pid)).exists(), "the controller to end", seconds=30)


def destroy(client: Client) -> None:
    """All deployments; what a run before this one left may just be starting again, and is waited for."""

    def gone() -> bool:
        try:
            for left in client.get("/deployments")["deployments"]:
                client.delete(f"/deployments/{left['name']}?yes=true")
        except (Conflict, NotFound):  # under way; gone meanwhile
            return False
        return not client.get("/deployments")["deployments"]

    until(gone, "all deployments to be gone", seconds=180)
    until(lambda: all(task["finished"] for task in client.get("/tasks")["tasks"]), "all tasks to end", seconds=120)
