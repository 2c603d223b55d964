"""The rigs in which other tools lose acknowledged writes or end with two writers, on a real site.

    sudo python bench/rigs.py [--runs 3] [--only applier-blocked,replica-cut,…]

As bench/failover.py: four writers through the site's own HAProxy that remember every acknowledged write; and besides
them one that writes straight to the old primary's address all the time, like an app that kept what DNS once said.
Every acknowledged write of either must be on the primary that leads at the end, and none may be acknowledged by the
old one after the new one's first. Prints a table and, last, one JSON line; exit status 1 when one is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import rehearsal
from failover import AFTER_SECONDS, BEFORE_SECONDS, DEPLOYMENT, PASSWORD, Ack, Group, acks, ledger_command, writers
from rehearsal import PROJECT, STATE, Figure, until

from relaunch.cli.client import Client
from relaunch.cli.servers import ssh_command

BLOCKED_SECONDS = 20  # longer than any failover may take: what blocks the appliers has to be ended
REPLICA_ALONE_SECONDS = 1.0  # of writing without the one that was cut
CUT_SECONDS = 3.0
INSIST_SECONDS = 4.0
REPLICA_HANGS_SECONDS = 30.0  # before the primary dies
SETTLE_SECONDS = 3.0  # for the front end to find a primary that has been away
DISK, DISK_FILE, DISK_BYTES = STATE / "rig-disk", STATE / "rig-disk.btrfs", 4 << 30
BIND_INTO = PROJECT / "src/relaunch/clouds/local/bind_into.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    outage_seconds: float
    acknowledged: int
    by_the_old: int  # of these, straight by the old primary
    lost: int
    two_writers: int  # acknowledged by the old primary after the new one's first
    failed_over: bool


Heal = Callable[[], None]


class Rig:
    """What every rig works with: the group, its primary of before, its replicas."""

    def __init__(self, client: Client, group: Group) -> None:
        self.client = client
        self.group = group
        members = group.shown()["members"]
        self.old = next(each for each in members if each["role"] == "primary")
        self.replicas = [each for each in members if each["role"] == "replica"]

    def kill(self) -> None:
        os.kill(self.group.process(self.old), signal.SIGKILL)

    def role(self, member: dict[str, Any]) -> str:
        return next((str(each["role"]) for each in self.group.shown()["members"] if each["name"] == member["name"]), "")

    def inside(self, member: dict[str, Any], *words: str) -> list[str]:
        """The command that runs `words` on that server."""
        return ["nsenter", f"--target={self.group.process(member)}", "--mount", "--net", "--root", "--wd=/", *words]

    def sql(self, member: dict[str, Any], text: str) -> subprocess.Popen[bytes]:
        words = self.inside(member, "mariadb", "--user=root", "--execute", text)
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ssh(self, member: dict[str, Any], command: str) -> None:
        """On that server, as root."""
        words = ssh_command(member["address"], STATE / "ssh/id_ed25519", [command])
        subprocess.run(words, check=True, timeout=120)

    def while_stopped(self, member: dict[str, Any], command: str) -> None:
        """Done on that server while its database server is stopped, as maintenance that was declared."""
        self.client.post("/databases/shop/pause", {"reason": "a drill"})
        try:
            self.ssh(member, f"systemctl stop mariadb && {command} && systemctl start mariadb")
            self.group.wait_redundant(120)
        finally:
            self.client.post("/databases/shop/resume", {})

    def cut(self, member: dict[str, Any]) -> None:
        self.group.act(member, "cut-off")

    def reconnect(self, member: dict[str, Any]) -> None:
        with contextlib.suppress(Exception):  # it may be replaced already
            self.group.act(member, "reconnect")


def applier_blocked(rig: Rig) -> Heal:
    """Nothing is applied on either replica while all is received; then the primary dies."""
    held = [rig.sql(member, f"FLUSH TABLES WITH READ LOCK; SELECT SLEEP({BLOCKED_SECONDS})") for member in rig.replicas]
    time.sleep(REPLICA_ALONE_SECONDS)
    rig.kill()

    def heal() -> None:
        for process in held:
            process.terminate()
            process.wait(30)

    return heal


def replica_cut(rig: Rig) -> Heal:
    """One replica misses the last second of writes; then the primary dies. It must not be the one that leads."""
    rig.cut(rig.replicas[0])
    time.sleep(REPLICA_ALONE_SECONDS)
    rig.kill()
    return _later(lambda: rig.reconnect(rig.replicas[0]))


def both_cut(rig: Rig) -> Heal:
    """Nobody acknowledges; then the primary dies."""
    for replica in rig.replicas:
        rig.cut(replica)
    time.sleep(REPLICA_ALONE_SECONDS)
    rig.kill()

    def heal() -> None:
        for replica in rig.replicas:
            rig.reconnect(replica)

    return _later(heal)


def one_way_out(rig: Rig) -> Heal:
    """The primary hears everybody, and nobody hears it."""
    return _dropping(rig, "output", "oifname")


def one_way_in(rig: Rig) -> Heal:
    """Everybody hears the primary, and it hears nobody."""
    return _dropping(rig, "input", "iifname")


def _dropping(rig: Rig, hook: str, name: str) -> Heal:
    enter = ("nsenter", f"--net=/proc/{rig.group.process(rig.old)}/ns/net", "nft")
    rules = f"add table ip rig; add chain ip rig {hook} {{ type filter hook {hook} priority 0; }};"
    rules += f'add rule ip rig {hook} {name} != "lo" drop'
    subprocess.run((*enter, rules), check=True, capture_output=True, timeout=10)

    def heal() -> None:  # the server may have been replaced, and its network with it
        subprocess.run((*enter, "delete table ip rig"), check=False, capture_output=True, timeout=10)

    return heal


def made_writable(rig: Rig) -> Heal:
    """The old primary comes back, and somebody insists on making it writable again and again."""
    rig.kill()
    over = threading.Event()

    def insist() -> None:
        until(
            lambda: rig.role(rig.old) == "fenced",
            "the old primary to be fenced", within_seconds=60, every_seconds=0.05,
        )  # fmt: skip
        end = time.monotonic() + INSIST_SECONDS
        while time.monotonic() < end and not over.is_set():
            with contextlib.suppress(Exception):
                rig.sql(rig.old, "SET GLOBAL read_only = OFF").wait(5)
            time.sleep(0.05)

    thread = threading.Thread(target=insist)
    thread.start()

    def heal() -> None:
        thread.join(INSIST_SECONDS + 70)
        over.set()

    return heal


@contextlib.contextmanager
def disk_of_its_own(rig: Rig, member: dict[str, Any]) -> Iterator[None]:
    """That server's data is moved to a file system that nothing else is on, and that can be made to hang."""
    DISK.mkdir(exist_ok=True)
    with DISK_FILE.open("wb") as file:
        file.truncate(DISK_BYTES)
    for words in (["mkfs.btrfs", "--quiet", DISK_FILE], ["mount", "-o", "loop", DISK_FILE, DISK]):
        subprocess.run(words, check=True, timeout=30)
    try:
        bind = [sys.executable, "-I", BIND_INTO, DISK, str(rig.group.init_process(member)), "/mnt"]
        subprocess.run(bind, check=True, timeout=30)
        rig.while_stopped(member, "cp -a /var/lib/mysql/. /mnt && mount --bind /mnt /var/lib/mysql")
        time.sleep(SETTLE_SECONDS)
        yield
    finally:
        _thaw()
        subprocess.run(["umount", "--lazy", DISK], check=True, timeout=30)  # it goes with the instance
        DISK_FILE.unlink()


def disk_hangs(rig: Rig) -> Heal:
    """Nothing is written to the primary's disk any more; it answers all the same, and in the end the disk is back."""
    subprocess.run(["fsfreeze", "--freeze", DISK], check=True, timeout=30)
    return _thaw


def replica_disk_hangs(rig: Rig) -> Heal:
    """A replica's disk hangs, which cannot confirm anything any more; later the primary dies."""
    subprocess.run(["fsfreeze", "--freeze", DISK], check=True, timeout=30)
    time.sleep(REPLICA_HANGS_SECONDS)
    rig.kill()
    return _thaw


def _thaw() -> None:
    subprocess.run(["fsfreeze", "--unfreeze", DISK], check=False, capture_output=True, timeout=30)


RIGS: dict[str, Callable[[Rig], Heal]] = {
    "applier-blocked": applier_blocked,
    "replica-cut": replica_cut,
    "both-cut": both_cut,
    "one-way-out": one_way_out,
    "one-way-in": one_way_in,
    "made-writable": made_writable,
    "disk-hangs": disk_hangs,
    "replica-disk-hangs": replica_disk_hangs,
}
PREPARED: dict[str, Callable[[Rig], contextlib.AbstractContextManager[None]]] = {
    "disk-hangs": lambda rig: disk_of_its_own(rig, rig.old),
    "replica-disk-hangs": lambda rig: disk_of_its_own(rig, rig.replicas[0]),
}
# By itself writing comes back; the others need it healed.
HEALED_AFTER = ("one-way-out", "one-way-in", "made-writable", "disk-hangs", "replica-disk-hangs")


def _later(heal: Heal) -> Heal:
    def wait_and_heal() -> None:
        time.sleep(CUT_SECONDS)
        heal()

    return wait_and_heal


@contextlib.contextmanager
def stray(client: Client, table: str, address: str) -> Iterator[Path]:
    """Writes to that address all the time, whoever leads."""
    out = STATE / f"{table}.stray"
    out.unlink(missing_ok=True)
    words = ledger_command(client, f"{table}_stray", out, "--host", address, "--workers", "1")
    process = subprocess.Popen(words, stdin=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdin is not None
    process.stdin.write(PASSWORD + "\n")
    process.stdin.close()
    try:
        until(lambda: out.exists() and out.stat().st_size > 50, "stray writes", within_seconds=30, every_seconds=0.05)
        yield out
    finally:
        process.terminate()
        process.wait(30)


def missing(client: Client, table: str, given: list[Ack]) -> int:
    """How many of these the present primary does not have."""
    rows = STATE / f"{table}.rows"
    words = ledger_command(client, table, rows, "--rows")
    subprocess.run(words, input=PASSWORD + "\n", text=True, check=True, timeout=600)
    there = {tuple(map(int, line.split())) for line in rows.read_text().splitlines()}
    return sum((ack.worker, ack.number) not in there for ack in given)


def one(client: Client, group: Group, name: str, run: int) -> Result:
    group.wait_redundant()
    client.post("/databases/shop/resume", {})  # the budget of failovers is not what is measured here
    rig = Rig(client, group)
    table = f"rig_{name.replace('-', '_')}_{run}"
    with contextlib.ExitStack() as kept:
        if name in PREPARED:
            kept.enter_context(PREPARED[name](rig))
        out = kept.enter_context(writers(client, table))
        strayed = kept.enter_context(stray(client, table, rig.old["address"]))
        time.sleep(BEFORE_SECONDS)
        began = time.monotonic()
        heal = RIGS[name](rig)
        broken = time.monotonic()
        if name not in HEALED_AFTER:
            heal()
        try:
            until(
                lambda: any(ack.moment > broken + 0.5 for ack in acks(out)[-20:]), f"writes after {name}",
                within_seconds=120, every_seconds=0.1,
            )  # fmt: skip
            time.sleep(AFTER_SECONDS)
        finally:
            if name in HEALED_AFTER:
                heal()
        time.sleep(AFTER_SECONDS)
    group.wait_redundant(300)
    given, beside = acks(out), acks(strayed)
    last_server = given[-1].server
    new_began = next(ack.moment for ack in given if ack.server == last_server)
    failed_over = last_server != given[0].server
    late = [ack for ack in (*given, *beside) if ack.server != last_server and ack.moment > new_began]
    around = [ack.moment for ack in given if ack.moment > began - 1]
    return Result(
        outage_seconds=max(after - before for before, after in itertools.pairwise(around)),
        acknowledged=len(given) + len(beside),
        by_the_old=len(beside),
        lost=missing(client, table, given) + missing(client, f"{table}_stray", beside),
        two_writers=len(late) if failed_over else 0,
        failed_over=failed_over,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default=",".join(RIGS))
    args = parser.parse_args()
    figures: list[Figure] = []
    with rehearsal.controller() as client:
        client.put("/credentials/DB_PASSWORD", {"value": PASSWORD})
        rehearsal.finished(client, rehearsal.apply(client, DEPLOYMENT))
        group = Group(client)
        for name in args.only.split(","):
            results = []
            for run in range(args.runs):
                results.append(one(client, group, name, run))
                print(f"{name} {run + 1}/{args.runs}: {results[-1]}", file=sys.stderr, flush=True)
            figures += [
                Figure(name=f"{name}: write outage", unit="s", values=[each.outage_seconds for each in results]),
                Figure(
                    name=f"{name}: acknowledged, then lost", unit="", values=[sum(r.lost for r in results)], limit=0
                ),
                Figure(
                    name=f"{name}: acknowledged by two", unit="", values=[sum(r.two_writers for r in results)], limit=0
                ),
            ]
    rehearsal.report("Rigs of failover", figures)


if __name__ == "__main__":
    main()
