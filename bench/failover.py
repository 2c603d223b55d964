"""How long can nothing be written when the primary fails, and is an acknowledged write ever lost?

    sudo python bench/failover.py [--dialect mysql] [--runs 20] [--trace]
        [--only kill,power-off,cut-off,freeze,switchover,controller]

A real site (front end, primary, two replicas, durability strict). Four writers inside the front end write through its
own HAProxy and remember every acknowledged write; then the failure; then every one of them must be on the new primary.
Prints a table and, last, one JSON line; exit status 1 when a limit is missed or a write was lost. With --trace each run
tells what happened when: decisions, what the agents did, and what the machine's disk took for a write meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import rehearsal
from failover_trace import Traced
from rehearsal import PROJECT, STATE, Figure, until

from relaunch.cli.client import Client
from relaunch.clouds.local import cgroups

PASSWORD = "bench-password-of-no-worth"
DEPLOYMENT = """
deployment: shop
cloud: local
servers:
  front1: {template: front-end, zone: a}
  db1: {template: mysql, zone: a}
  db2: {template: mysql, zone: b}
  db3: {template: mysql, zone: a}
database: {primary: db1, replicas: [db2, db3], durability: strict}
sites:
  rack.test: {source: {app: rack}, runtime: rails, database: rack}
credentials: {DB_PASSWORD: generate, REPLICATION_PASSWORD: generate, SECRET_KEY_BASE: generate}
"""
TEMPLATES = {"mariadb": "mysql", "mysql": "mysql9"}
POWER_OFF = signal.SIGRTMIN + 4  # to systemd
PROGRAMS = ("mariadbd", "mysqld")
TRACE = False
BEFORE_SECONDS = 1.5  # of undisturbed writing before the failure
PAGE_SECONDS = 0.02
AFTER_SECONDS = 1.0  # and after writes are back
LIMITS = {  # median, maximum
    "kill": (1.0, 2.0),
    "power-off": (4.0, 5.0),
    "cut-off": (4.0, 5.0),
    "freeze": (4.0, 5.0),
    "switchover": (0.2, 0.5),
    "controller": (10.0, 10.0),
}


def deployment(dialect: str) -> str:
    return DEPLOYMENT.replace("template: mysql,", f"template: {TEMPLATES[dialect]},")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    worker: int
    number: int
    moment: float
    server: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    outage_seconds: float
    acknowledged: int
    lost: int
    old_primary_late: int  # acknowledged by the old primary after the first by the new one
    redundant_seconds: float
    gets: int = 0  # asked of the site meanwhile
    failed_gets: int = 0


class Gets:
    """Somebody who looks at the site all the time: each page must come, and from the database."""

    def __init__(self, address: str) -> None:
        self._url = f"https://{address}/"
        self._over = threading.Event()
        self.asked, self.failed = 0, 0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Gets:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _look(self) -> None:
        while not self._over.is_set():
            self.asked += 1
            try:
                with urllib.request.urlopen(self._url, timeout=10, context=rehearsal.UNVERIFIED) as answer:
                    self.failed += answer.status != 200
                    answer.read()
            except OSError as error:
                self.failed += 1
                print(f"    GET: {error}", file=sys.stderr)
            time.sleep(PAGE_SECONDS)


class Group:
    """The database group as the controller shows it, and what can be done to it."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def shown(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/databases/shop")
        return found

    def primary(self) -> dict[str, Any]:
        return next(each for each in self.shown()["members"] if each["role"] == "primary")

    def wait_redundant(self, seconds: float = 180) -> None:
        def whole() -> bool:
            with contextlib.suppress(Exception):
                shown = self.shown()
                fine = [m for m in shown["members"] if m.get("state") in ("takes writes", "follows")]
                return (
                    shown["mode"] == "sync" and len(shown["sync_set"]) >= 2 and len(fine) == 3 and not shown["change"]
                )
            return False

        until(whole, "primary and two replicas in step", within_seconds=seconds, every_seconds=0.1)

    def cloud_id(self, member: dict[str, Any]) -> str:
        return str(self.client.get(f"/servers/shop/{member['name']}")["cloud_id"])

    def put_out(self, old: dict[str, Any], cloud_id: str) -> None:
        """What was set aside keeps its data, and runs no longer: twenty such would slow the runs to come."""
        if cloud_id == self.cloud_id(old):
            return
        until(
            lambda: all(task["finished"] for task in self.client.get("/tasks")["tasks"]),
            f"{old['name']} to be replaced",
            within_seconds=120,
            every_seconds=0.2,
        )
        with contextlib.suppress(RuntimeError):
            os.kill(init_of(cloud_id), POWER_OFF)

    def init_process(self, member: dict[str, Any]) -> int:
        return init_of(self.cloud_id(member))

    def process(self, member: dict[str, Any]) -> int:
        """The host's number of the member's database server."""
        return database_of(self.cloud_id(member))

    def act(self, member: dict[str, Any], action: str) -> str:
        """The id of the task that does it."""
        return str(self.client.post(f"/servers/shop/{member['name']}/{action}", {})["task"]["id"])


def database_of(cloud_id: str) -> int:
    """The host's number of that instance's database server."""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if (folder / "comm").read_text().strip() not in PROGRAMS:
                continue
            group = cgroups.group_of(int(folder.name))
            if group is not None and cloud_id in str(group):
                return int(folder.name)
    raise RuntimeError(f"no database server of {cloud_id}")


def init_of(cloud_id: str) -> int:
    """The host's number of that instance's process 1."""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            group = cgroups.group_of(int(folder.name))
            is_first = re.search(r"^NSpid:.*\s1$", (folder / "status").read_text(), re.MULTILINE)
            if group is not None and cloud_id in str(group) and is_first:
                return int(folder.name)
    raise RuntimeError(f"no process 1 of {cloud_id}")


def instance_network(client: Client, server: str) -> int:
    """The number of a process in the network of that server."""
    cloud_id = str(client.get(f"/servers/shop/{server}")["cloud_id"])
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            group = cgroups.group_of(int(folder.name))
            if group is not None and cloud_id in str(group) and (folder / "comm").read_text().strip() == "haproxy":
                return int(folder.name)
    raise RuntimeError(f"no haproxy of {server}")


@contextlib.contextmanager
def writers(client: Client, table: str) -> Iterator[Path]:
    out = STATE / f"{table}.acks"
    out.unlink(missing_ok=True)  # of an earlier bench
    process = subprocess.Popen(
        ledger_command(client, table, out), stdin=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin is not None
    process.stdin.write(PASSWORD + "\n")
    process.stdin.close()
    try:
        until(
            lambda: out.exists() and out.stat().st_size > 200, "the first writes", within_seconds=30, every_seconds=0.05
        )
        yield out
    finally:
        process.terminate()
        process.wait(30)


def ledger_command(client: Client, table: str, out: Path, *more: str) -> list[str]:
    network = instance_network(client, "front1")
    return [
        "nsenter", f"--net=/proc/{network}/ns/net", sys.executable, str(PROJECT / "bench" / "ledger.py"),
        "--database", "rack", "--table", table, "--out", str(out), *more,
    ]  # fmt: skip


def acks(out: Path) -> list[Ack]:
    found = []
    for line in out.read_text().splitlines():
        words = line.split()
        if len(words) == 4:
            found.append(Ack(worker=int(words[0]), number=int(words[1]), moment=float(words[2]), server=int(words[3])))
    return sorted(found, key=lambda ack: ack.moment)


def one(client: Client, group: Group, kind: str, run: int) -> Result:
    group.wait_redundant()
    client.post("/databases/shop/resume", {})  # the budget of failovers is not what is measured here
    table = f"ledger_{kind.replace('-', '_')}_{run}"
    old = group.primary()
    cloud_id = group.cloud_id(old)
    front_end = str(client.get("/servers/shop/front1")["private_address"])
    looked = Traced(client, [each["name"] for each in group.shown()["members"]]) if TRACE else None
    with writers(client, table) as out, Gets(front_end) as gets, looked or contextlib.nullcontext():
        time.sleep(BEFORE_SECONDS)
        began, wall = time.monotonic(), time.time()
        thaw = FAILURES[kind](client, group, old)
        until(lambda: _back(acks(out), began, kind), f"writes after {kind}", within_seconds=60, every_seconds=0.1)
        time.sleep(AFTER_SECONDS)
        if thaw is not None:
            thaw()
            time.sleep(AFTER_SECONDS)
    group.wait_redundant()
    redundant = time.monotonic() - began
    group.put_out(old, cloud_id)
    given = acks(out)
    if looked:
        looked.tell([ack.moment for ack in given], began, wall)
    rows = STATE / f"{table}.rows"
    subprocess.run(
        ledger_command(client, table, rows, "--rows"), input=PASSWORD + "\n", text=True, check=True, timeout=60
    )
    there = {tuple(map(int, line.split())) for line in rows.read_text().splitlines()}
    first, last_server = given[0].server, given[-1].server
    new_began = next(ack.moment for ack in given if ack.server == last_server)
    around = [ack.moment for ack in given if ack.moment > began - 1]
    return Result(
        outage_seconds=max(after - before for before, after in itertools.pairwise(around)),
        acknowledged=len(given),
        lost=sum((ack.worker, ack.number) not in there for ack in given),
        old_primary_late=sum(first != last_server and ack.server == first and ack.moment > new_began for ack in given),
        redundant_seconds=redundant,
        gets=gets.asked,
        failed_gets=gets.failed,
    )


def _back(given: list[Ack], began: float, kind: str) -> bool:
    """Writes on another primary; with the controller away the old one may have been started again before it is back."""
    if kind == "controller":
        return any(ack.moment > began + 1.0 for ack in given)
    return any(ack.moment > began + 0.05 and ack.server != given[0].server for ack in given)


def kill(client: Client, group: Group, old: dict[str, Any]) -> None:
    os.kill(group.process(old), signal.SIGKILL)


def freeze(client: Client, group: Group, old: dict[str, Any]) -> Callable[[], None]:
    process = group.process(old)
    os.kill(process, signal.SIGSTOP)

    def thaw() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)

    return thaw


def power_off(client: Client, group: Group, old: dict[str, Any]) -> None:
    group.act(old, "power-off")


def cut_off(client: Client, group: Group, old: dict[str, Any]) -> None:
    group.act(old, "cut-off")


def switchover(client: Client, group: Group, old: dict[str, Any]) -> None:
    to = next(each["name"] for each in group.shown()["members"] if each["role"] == "replica")
    client.post("/databases/shop/switchover", {"to": to})


def controller(client: Client, group: Group, old: dict[str, Any]) -> None:
    """The primary dies while the controller is being started again."""
    process = group.process(old)
    os.kill(rehearsal.controller_pid(), signal.SIGKILL)
    os.kill(process, signal.SIGKILL)
    rehearsal.relaunch("controller", "start")


FAILURES: dict[str, Callable[[Client, Group, dict[str, Any]], Callable[[], None] | None]] = {
    "kill": kill,
    "power-off": power_off,
    "cut-off": cut_off,
    "freeze": freeze,
    "switchover": switchover,
    "controller": controller,
}


def main() -> None:
    global TRACE
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--only", default=",".join(FAILURES))
    parser.add_argument("--dialect", choices=sorted(TEMPLATES), default="mariadb")
    parser.add_argument("--trace", action="store_true", help="tell what happened when in each run")
    args = parser.parse_args()
    TRACE = args.trace
    figures, lost, late, counted = [], 0, 0, 0
    with rehearsal.controller() as client:
        client.put("/credentials/DB_PASSWORD", {"value": PASSWORD})
        rehearsal.finished(
            client,
            rehearsal.apply(client, deployment(args.dialect)),
        )
        group = Group(client)
        for kind in args.only.split(","):
            results = []
            for run in range(args.runs):
                result = one(client, group, kind, run)
                results.append(result)
                lost, late, counted = lost + result.lost, late + result.old_primary_late, counted + result.acknowledged
                print(f"{kind} {run + 1}/{args.runs}: {result}", file=sys.stderr, flush=True)
            median, worst = LIMITS[kind]
            outages = [each.outage_seconds for each in results]
            figures += [
                Figure(name=f"{kind}: write outage", unit="s", values=outages, limit=median),
                Figure(name=f"{kind}: the longest", unit="s", values=[max(outages)], limit=worst),
                Figure(name=f"{kind}: redundant again", unit="s", values=[each.redundant_seconds for each in results]),
                Figure(
                    name=f"{kind}: failed GETs of {sum(each.gets for each in results)}",
                    unit="",
                    values=[sum(each.failed_gets for each in results)],
                    limit=0 if kind == "switchover" else None,
                ),
            ]
    figures.append(Figure(name="acknowledged writes lost", unit="", values=[lost], limit=0))
    figures.append(
        Figure(name="acknowledged by the old primary after the new one began", unit="", values=[late], limit=0)
    )
    rehearsal.report(f"Failover and switchover, {args.dialect}", figures, acknowledged=counted)


if __name__ == "__main__":
    main()
