"""Everything that looks like a dead primary and is not, mixed, on a real site: no failover may come of it.

    sudo python drills/false_alarms.py [--dialect mysql] [--minutes 120] [--seed N] [--only agent-frozen,…]

A site of a front end, a primary and two replicas (durability strict) as bench/failover.py makes it, with writers that
remember every acknowledged write. One alarm after the other, in the seed's order; after each the same primary must
lead, with nobody having failed over, a page must have said why, and the group must be whole again; at the end every
acknowledged write must be there. What was wrong is told and it goes on. Prints what it does, a table and, last, one
JSON line, which names the alarms that the time was too short for; exit status 1 when anything was wrong, when there
was no alarm, or when nothing was written any more at the end. For a day: --minutes 1440.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import rehearsal
from failover import PASSWORD, TEMPLATES, Group, acks, deployment, instance_network, writers
from rehearsal import STATE
from rigs import Rig, missing, writes_again

from relaunch.cli.client import Client

ALARM_SECONDS = 8.0  # longer than what any rule waits for but a stalled commit
FULL_SECONDS = 20.0  # longer than `stalled`
SHORT_SECONDS = 2.0  # shorter than `silent`
REBOOT_SECONDS = 60.0
HEARD_SECONDS = 2.0  # so long without a gap, and an agent is taken to have come back
CONNECTIONS = 400  # more than any server of ours allows
HUGE = """SET SESSION {unlimited}; CREATE TABLE IF NOT EXISTS rack.huge (i INT PRIMARY KEY, t CHAR(200));
 INSERT INTO rack.huge WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < 400000)
 SELECT i, REPEAT('x', 200) FROM numbers; DROP TABLE rack.huge"""
UNLIMITED = {"mariadb": "max_recursive_iterations = 1000000", "mysql": "cte_max_recursion_depth = 1000000"}
TAKE_CONNECTIONS = """
import pymysql, ssl, sys, time
password, host, many, seconds = sys.stdin.readline().strip(), sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
kept = []
for _ in range(many):
    try:
        kept.append(pymysql.connect(host=host, user="app", password=password, ssl=ssl._create_unverified_context()))
    except pymysql.MySQLError:
        break
print(len(kept))
time.sleep(seconds)
"""


class Alarms:
    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.found = ""  # the rule that held while it lasted, where that is asked for

    @contextlib.contextmanager
    def _frozen(self, *processes: int) -> Iterator[None]:
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

    def _agent(self, server: str) -> int:
        return rehearsal.agent_of(self.rig.client, server)

    def agent_frozen(self) -> None:
        """The primary's agent says nothing more; the server is fine."""
        with self._frozen(self._agent(self.rig.old["name"])):
            time.sleep(ALARM_SECONDS)

    def agent_killed(self) -> None:
        os.kill(self._agent(self.rig.old["name"]), signal.SIGKILL)
        time.sleep(SHORT_SECONDS)

    def others_frozen(self) -> None:
        """The controller hears fewer than half of its observers, and not the primary either."""
        names = [self.rig.old["name"], self.rig.replicas[0]["name"], "front1"]
        with self._frozen(*(self._agent(name) for name in names)):
            time.sleep(ALARM_SECONDS)
            self.found = str(self.rig.group.shown()["rule"])

    def controller_cut(self) -> None:
        """The controller and the primary do not hear each other; everybody else hears both."""
        process = self.rig.group.process(self.rig.old)
        enter = ("nsenter", f"--net=/proc/{process}/ns/net")
        way = subprocess.run((*enter, "ip", "route", "show", "default"), capture_output=True, text=True).stdout.split()
        rules = "add table ip drill; add chain ip drill out { type filter hook output priority 0; };"
        rules += f"add rule ip drill out ip daddr {way[way.index('via') + 1]} drop"
        subprocess.run((*enter, "nft", rules), check=True, capture_output=True, timeout=10)
        try:
            time.sleep(ALARM_SECONDS)
        finally:
            subprocess.run((*enter, "nft", "delete table ip drill"), check=False, capture_output=True, timeout=10)

    def controller_killed(self) -> None:
        os.kill(rehearsal.controller_pid(), signal.SIGKILL)
        time.sleep(ALARM_SECONDS)
        rehearsal.relaunch("controller", "start")

    def frozen_shortly(self) -> None:
        with self._frozen(self.rig.group.process(self.rig.old)):
            time.sleep(SHORT_SECONDS)

    def replica_frozen(self) -> None:
        """The replica is broken rather than the primary; the other one acknowledges."""
        with self._frozen(self.rig.group.process(self.rig.replicas[0])):
            time.sleep(SHORT_SECONDS * 2)

    def replica_killed(self) -> None:
        os.kill(self.rig.group.process(self.rig.replicas[1]), signal.SIGKILL)
        time.sleep(SHORT_SECONDS)

    def out_of_connections(self) -> None:
        network = instance_network(self.rig.client, "front1")
        words = ["nsenter", f"--net=/proc/{network}/ns/net", sys.executable, "-c", TAKE_CONNECTIONS]
        given = [self.rig.old["address"], str(CONNECTIONS), str(ALARM_SECONDS)]
        subprocess.run([*words, *given], input=PASSWORD + "\n", text=True, check=True, timeout=120)

    def huge_transaction(self) -> None:
        client = self.rig.dialect(self.rig.old).client
        self.rig.ask(self.rig.old, HUGE.format(unlimited=UNLIMITED[client]), seconds=120)

    def global_lock(self) -> None:
        """As a backup of another tool takes it: no write ends while it lasts."""
        self.rig.ask(self.rig.old, "FLUSH TABLES WITH READ LOCK; SELECT SLEEP(5)", seconds=60)

    def disk_full(self) -> None:
        """Nothing more fits on the primary's disk until somebody makes room: mariadbd looks once a minute."""
        with self._small_disk():
            self.rig.ssh(self.rig.old, "dd if=/dev/zero of=/mnt/filler bs=4k 2>/dev/null || true")
            time.sleep(FULL_SECONDS)
            self.rig.ssh(self.rig.old, "rm /mnt/filler")
            self.rig.group.wait_redundant(120)

    @contextlib.contextmanager
    def _small_disk(self) -> Iterator[None]:
        """The primary's data, and what it puts aside for the moment, are on a disk of their own meanwhile."""
        disk = "mount -t tmpfs -o size=$(($(du -sm /var/lib/mysql | cut -f1) + 100))M none /mnt"
        there = "cp -a /var/lib/mysql /mnt/data && mount --bind /mnt/data /var/lib/mysql"
        aside = "mkdir -m 1777 /mnt/tmp && mount --bind /mnt/tmp /tmp"
        self.rig.while_stopped(self.rig.old, f"{disk} && {there} && {aside}")
        try:
            yield
        finally:
            back = "rm -rf /var/lib/mysql/* && cp -a /mnt/data/. /var/lib/mysql"
            self.rig.while_stopped(self.rig.old, f"umount /tmp /var/lib/mysql && {back} && umount /mnt")

    def overloaded(self) -> None:
        """Everything on that server competes with as many processes again as the machine has cores, four times."""
        spin = f"for i in 1 2 3 4; do timeout {ALARM_SECONDS:g} sha1sum /dev/zero & done; wait"
        began = time.monotonic()
        subprocess.run(self.rig.inside(self.rig.old, "sh", "-c", spin), check=True, capture_output=True, timeout=60)
        if time.monotonic() - began < ALARM_SECONDS:
            raise RuntimeError("nothing competed with the server")

    def paused(self) -> None:
        """Somebody works on the servers and has said so: its process dies, and comes back by itself."""
        self.rig.client.post("/databases/shop/pause", {"reason": "a drill"})
        try:
            self.rig.kill()
            time.sleep(ALARM_SECONDS)
        finally:
            self.rig.client.post("/databases/shop/resume", {})

    def rebooted(self) -> None:
        """Declared maintenance: the server is rebooted by relaunch."""
        before, began = self.rig.init_process(self.rig.old), time.monotonic()
        self.rig.group.act(self.rig.old, "reboot")
        rehearsal.until(
            lambda: self._booted_since(before), "another boot", within_seconds=REBOOT_SECONDS, every_seconds=0.1
        )
        time.sleep(max(0.0, began + ALARM_SECONDS - time.monotonic()))

    def _booted_since(self, before: int) -> bool:
        try:
            return self.rig.init_process(self.rig.old) != before
        except RuntimeError:  # it is down at the moment
            return False


def told(name: str) -> str:
    return name.replace("_", "-")


ALARMS: dict[str, Callable[[Alarms], None]] = {
    told(name): made for name, made in vars(Alarms).items() if not name.startswith("_")
}


# What a person is to read of each. The others are over before there is anything to say, or nothing is wrong with them.
PAGES = {
    "agent-frozen": "only we are cut off",
    "controller-cut": "only we are cut off",
    "others-frozen": "controller is blind",
    "frozen-shortly": "in doubt",
    "out-of-connections": "out of connections",
    "global-lock": "explained stall",
    "disk-full": "explained stall",
    "paused": "no failover: paused",
}


def pages_of(client: Client, since: datetime) -> set[str]:
    """By the audit trail."""
    entries = client.get("/audit", subject="database:shop", limit=100)["entries"]
    told = [each for each in entries if each["action"] == "page" and datetime.fromisoformat(each["at"]) >= since]
    return {rule for each in told for rule in each["detail"] if rule != "seen"}


def wait_heard(client: Client) -> None:
    """Until the controller has heard every agent for some time: what it cannot see no page can tell."""
    since = time.monotonic()

    def heard() -> bool:
        nonlocal since
        if not all(each["connected"] for each in rehearsal.servers(client, "shop")):
            since = time.monotonic()
        return time.monotonic() - since >= HEARD_SECONDS

    rehearsal.until(heard, "every agent to be heard", within_seconds=60, every_seconds=0.1)


def one(group: Group, name: str) -> str:
    """What was wrong with it, "" when nothing was."""
    rig = Rig(group.client, group)
    before, began = group.shown(), datetime.now(UTC)
    alarms, not_given = Alarms(rig), ""
    try:
        ALARMS[name](alarms)
    except (RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
        not_given = f"it could not be given: {type(error).__name__} {error}"
    group.client = Client(rehearsal.find_controller(rehearsal.ENVIRONMENT))  # it may be another process now
    group.wait_redundant(300)
    wait_heard(group.client)
    after: dict[str, Any] = group.shown()
    if after["primary"] != before["primary"] or after["failovers_last_day"] != before["failovers_last_day"]:
        moved = f"{before['primary']} was replaced by {after['primary']}: {after['rule']}"
        return f"{moved}; {not_given}" if not_given else moved
    if not_given or rig.not_happened:
        return not_given or ", ".join(rig.not_happened)
    pages = pages_of(group.client, began)
    print(f"  pages: {', '.join(sorted(pages)) or 'none'}", file=sys.stderr, flush=True)
    if name in PAGES and PAGES[name] not in pages:
        found = f"; at its end the rule {alarms.found!r} held" if alarms.found else ""
        return f"no page {PAGES[name]!r}, but {sorted(pages)}{found}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--dialect", choices=sorted(TEMPLATES), default="mariadb")
    parser.add_argument("--only", default=",".join(ALARMS))
    args = parser.parse_args()
    names, chosen = args.only.split(","), random.Random(args.seed)
    print(f"seed {args.seed}", file=sys.stderr, flush=True)
    wrong: list[str] = []
    count: Counter[str] = Counter()
    with rehearsal.controller() as client:
        client.put("/credentials/DB_PASSWORD", {"value": PASSWORD})
        # A full disk is one in memory here, which counts as the server's.
        template = f"template: {TEMPLATES[args.dialect]},"
        large = deployment(args.dialect).replace(template, f"{template} memory: 1536M,")
        rehearsal.finished(client, rehearsal.apply(client, large))
        group = Group(client)
        group.wait_redundant()
        end = time.monotonic() + args.minutes * 60
        with writers(client, "false_alarms") as out:
            while time.monotonic() < end:
                order = list(names)
                chosen.shuffle(order)
                for name in order:
                    began = time.monotonic()
                    said = one(group, name)
                    count[name] += 1
                    took = time.monotonic() - began
                    print(
                        f"{name}: {said or 'no failover'}, whole again after {took:.0f} s", file=sys.stderr, flush=True
                    )
                    wrong += [f"{name}: {said}"] if said else []
                    if time.monotonic() >= end:
                        break
            wrong += [] if writes_again(out) else ["nothing is written any more"]
        given = acks(out)
        lost = len(missing(group.client, "false_alarms", given))
    print(f"\n{'false alarm':<24} times")
    for name, times in sorted(count.items()):
        print(f"{name:<24} {times:>5}")
    wrong += [] if count else ["there was no alarm"]
    report = {"seed": args.seed, "alarms": count.total(), "wrong": wrong, "acknowledged": len(given), "lost": lost}
    print(json.dumps({**report, "not_given": sorted(set(names) - count.keys())}))
    if wrong or lost:
        raise SystemExit(1)


if __name__ == "__main__":
    STATE.mkdir(parents=True, exist_ok=True)
    main()
