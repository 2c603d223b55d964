"""The rigs in which other tools lose acknowledged writes or end with two writers, on a real site.

    sudo python bench/rigs.py [--dialect mysql] [--runs 3] [--only applier-blocked,replica-cut,…] [--without-faults]

As bench/failover.py: four writers through the site's own HAProxy that remember every acknowledged write; and besides
them one that writes straight to the old primary's address all the time, like an app that kept what DNS once said.
Every acknowledged write of either must be on the primary that leads at the end, and none may be acknowledged by the
old one after the new one's first; every fault must have been seen to happen, and a failover where the rig is about one.
Prints a table and, last, one JSON line; exit status 1 when one is not so.

--without-faults: each rig once for each of its faults, with only that one left out. Exit status 1 when each of these
runs missed a limit, as it has to; 2 when one did not, so that its rig proves nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import rehearsal
from failover import (
    AFTER_SECONDS,
    BEFORE_SECONDS,
    PASSWORD,
    TEMPLATES,
    Ack,
    Group,
    acks,
    database_of,
    deployment,
    init_of,
    ledger_command,
    writers,
)
from rehearsal import PROJECT, STATE, Figure, until

from relaunch.cli.client import Client
from relaunch.cli.servers import ssh_command

BLOCKED_SECONDS = 20  # longer than any failover may take: what blocks the appliers has to be ended
SUCCESSION_SECONDS = 10.0
SETTLED_SECONDS = 0.3  # for what was received before to be applied
REPLICA_ALONE_SECONDS = 1.0  # of writing without the one that was cut
CUT_SECONDS = 3.0
INSIST_SECONDS, INSIST_WITHIN_SECONDS = 4.0, 30.0  # from the first time that it was writable; until then
ANSWER_SECONDS = 5.0
GONE_SECONDS = 3.0  # for a process to be gone once it is killed, or its instance powered off
ACT_SECONDS = 30.0
REPLICA_HANGS_SECONDS = 30.0  # before the primary dies
WRITES_SECONDS = 15.0  # until a write is acknowledged by a group that is whole
SETTLE_SECONDS = 3.0  # for the front end to find a primary that has been away
DISK, DISK_FILE, DISK_BYTES = STATE / "rig-disk", STATE / "rig-disk.btrfs", 4 << 30
DATA = "var/lib/mysql"
SLEEPING = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP(%'"
BIND_INTO = PROJECT / "src/relaunch/clouds/local/bind_into.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    client: str
    unit: str
    applied: str  # what a replica has applied
    reopen: str


DIALECTS = (
    Dialect(
        client="mariadb",
        unit="mariadb",
        applied="SELECT @@global.gtid_slave_pos",
        reopen="SET GLOBAL read_only = OFF",
    ),
    Dialect(
        client="mysql",
        unit="mysql",
        applied="SELECT @@global.gtid_executed",
        reopen="SET GLOBAL super_read_only = OFF, GLOBAL read_only = OFF",
    ),
)


def dialect_of(process: int) -> Dialect:
    """By the client there is where that process is; MariaDB's when there is none."""
    there = Path(f"/proc/{process}/root/usr/bin")
    return next((each for each in DIALECTS if (there / each.client).exists()), DIALECTS[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    outage_seconds: float
    acknowledged: int
    by_the_old: int  # of these, straight by the old primary
    lost: int
    two_writers: int  # acknowledged by another than who leads at the end, after that one's first
    failed_over: bool
    not_happened: int  # what makes the rig and was not seen to happen


Heal = Callable[[], None]


class Rig:
    """What every rig works with: the group, its primary of before, its replicas. Its members are the instances of the
    beginning, also once others have taken their names. `without`: the fault that is left out."""

    def __init__(self, client: Client, group: Group, *, without: str = "") -> None:
        self.client = client
        self.group = group
        self.without = without
        self.ledger = Path()  # of the writers, once there are some
        self.not_happened: list[str] = []
        members = group.shown()["members"]
        self.old = next(each for each in members if each["role"] == "primary")
        self.replicas = [each for each in members if each["role"] == "replica"]
        self._cloud_ids = {str(each["instance"]): group.cloud_id(each) for each in members}

    def check(self, happened: bool, otherwise: str) -> None:
        if not happened:
            print(f"  not as the rig wants it: {otherwise}", file=sys.stderr, flush=True)
            self.not_happened.append(otherwise)

    def has(self, fault: str) -> bool:
        return fault != self.without

    def kill(self) -> None:
        process = self._leads()
        if self.has("kill"):
            os.kill(process, signal.SIGKILL)
        self.check(_gone(process), f"{self.old['name']} still runs")

    def power_off(self) -> None:
        """Its server does not come back by itself, as one that is killed does."""
        process = self._leads()
        if self.has("power-off"):
            self.group.act(self.old, "power-off")
        self.check(_gone(process), f"{self.old['name']} still runs")

    def _leads(self) -> int:
        """The host's number of the old primary's database server, which nobody may have succeeded yet."""
        self.check(self.leader() == self.old["instance"], f"{self.old['name']} did not lead when it was to die")
        return self.process(self.old)

    def leader(self) -> str:
        """The instance that is to take writes, "" when it is no member any more."""
        return next((str(each["instance"]) for each in self.group.shown()["members"] if each["role"] == "primary"), "")

    def process(self, member: dict[str, Any]) -> int:
        """The host's number of that instance's database server; RuntimeError when it does not run."""
        return database_of(self._cloud_ids[str(member["instance"])])

    def init_process(self, member: dict[str, Any]) -> int:
        """The host's number of that instance's process 1; RuntimeError when it does not run."""
        return init_of(self._cloud_ids[str(member["instance"])])

    def dialect(self, member: dict[str, Any]) -> Dialect:
        return dialect_of(self.init_process(member))

    def inside(self, member: dict[str, Any], *words: str) -> list[str]:
        """The command that runs `words` on that server."""
        return inside(self.init_process(member), *words)

    def sql(self, member: dict[str, Any], text: str) -> subprocess.Popen[bytes]:
        """Begun there, as root."""
        words = sql_words(self.init_process(member), text)
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def ask(self, member: dict[str, Any], text: str, *, seconds: float = ANSWER_SECONDS) -> str:
        """As `asked`."""
        return asked(self.init_process(member), text, seconds=seconds)

    def ssh(self, member: dict[str, Any], command: str) -> None:
        """On that server, as root."""
        words = ssh_command(member["address"], STATE / "ssh/id_ed25519", [command])
        subprocess.run(words, check=True, timeout=120)

    def while_stopped(self, member: dict[str, Any], command: str) -> None:
        """Done on that server while its database server is stopped, as maintenance that was declared."""
        self.client.post("/databases/shop/pause", {"reason": "a drill"})
        try:
            unit = self.dialect(member).unit
            self.ssh(member, f"systemctl stop {unit} && {command} && systemctl start {unit}")
            self.group.wait_redundant(120)
        finally:
            self.client.post("/databases/shop/resume", {})

    def cut(self, member: dict[str, Any]) -> None:
        if self.has("cut"):
            rehearsal.finished(self.client, self.group.act(member, "cut-off"), within_seconds=ACT_SECONDS)

    def reconnect(self, member: dict[str, Any]) -> None:
        with contextlib.suppress(Exception):  # it may be replaced already
            self.group.act(member, "reconnect")

    @contextlib.contextmanager
    def standing_still(self, members: Sequence[dict[str, Any]], *, acknowledged: bool) -> Iterator[None]:
        """Meanwhile none of these may apply anything; `acknowledged`: whether writes must be acknowledged all the same,
        or none may."""
        time.sleep(SETTLED_SECONDS)
        before, since = [self._applied(each) for each in members], time.monotonic()
        yield
        for member, position in zip(members, before, strict=True):
            self.check(self._applied(member) == position, f"{member['name']} went on applying")
        were = any(ack.moment > since for ack in acks(self.ledger))
        self.check(were == acknowledged, f"writes were {'' if were else 'not '}acknowledged meanwhile")

    def _applied(self, member: dict[str, Any]) -> str:
        return self.ask(member, self.dialect(member).applied)


def inside(process: int, *words: str) -> list[str]:
    """The command that runs `words` where that process is."""
    return ["nsenter", f"--target={process}", "--mount", "--net", "--root", "--wd=/", *words]


def sql_words(process: int, text: str) -> list[str]:
    client = dialect_of(process).client
    return inside(process, client, "--user=root", "--batch", "--skip-column-names", "--execute", text)


def asked(process: int, text: str, *, seconds: float = ANSWER_SECONDS) -> str:
    """What the database server where that process is answers to root; RuntimeError with its error."""
    words = sql_words(process, text)
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        raise RuntimeError(f"{text[:60]}: exit status {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def wait_sleeping(process: int) -> None:
    """Until a session of the server there sleeps, and so has the lock that it took before."""
    until(lambda: asked(process, SLEEPING) != "0", "a lock", within_seconds=ANSWER_SECONDS, every_seconds=0.05)


def _gone(process: int) -> bool:
    try:
        return until(
            lambda: not Path(f"/proc/{process}").exists(), "it to be gone",
            within_seconds=GONE_SECONDS, every_seconds=0.01,
        )  # fmt: skip
    except TimeoutError:
        return False


def applier_blocked(rig: Rig) -> Heal:
    """Nothing is applied on either replica while all is received; then the primary dies. The one that is to lead has to
    end what blocks it by itself; the other one is let go then."""
    lock = "FLUSH TABLES WITH READ LOCK; " if rig.has("lock") else ""
    text = f"{lock}SELECT SLEEP({BLOCKED_SECONDS})"
    held = {str(member["instance"]): rig.sql(member, text) for member in rig.replicas}
    for member in rig.replicas:
        wait_sleeping(rig.init_process(member))
    with rig.standing_still(rig.replicas, acknowledged=True):
        time.sleep(REPLICA_ALONE_SECONDS)
    rig.check(all(process.poll() is None for process in held.values()), "a lock was gone before the primary was")
    rig.kill()

    def heal() -> None:
        leads = _successor(rig)
        for instance, process in held.items():
            if instance != leads:
                process.terminate()
        for process in held.values():
            process.wait(BLOCKED_SECONDS + 10)

    return heal


def _successor(rig: Rig) -> str:
    """The instance that is to lead instead of the old primary, "" when none is in time."""
    try:
        until(
            lambda: rig.leader() != rig.old["instance"], "another one to lead",
            within_seconds=SUCCESSION_SECONDS, every_seconds=0.05,
        )  # fmt: skip
    except TimeoutError:
        return ""
    return rig.leader()


def replica_cut(rig: Rig) -> Heal:
    """One replica misses the last second of writes; then the primary dies for good. It must not be the one that leads,
    though it is heard again when there is to be a failover."""
    rig.cut(rig.replicas[0])
    with rig.standing_still(rig.replicas[:1], acknowledged=True):
        time.sleep(REPLICA_ALONE_SECONDS)
    rig.power_off()
    return _later(lambda: rig.reconnect(rig.replicas[0]))


def both_cut(rig: Rig) -> Heal:
    """Nobody acknowledges; then the primary dies, and is back before anybody else could lead."""
    for replica in rig.replicas:
        rig.cut(replica)
    with rig.standing_still(rig.replicas, acknowledged=False):
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
    enter = ("nsenter", f"--net=/proc/{rig.init_process(rig.old)}/ns/net", "nft")
    rules = f"add table ip rig; add chain ip rig {hook} {{ type filter hook {hook} priority 0; }};"
    if rig.has("drop"):
        rules += f'add rule ip rig {hook} {name} != "lo" drop'
    subprocess.run((*enter, rules), check=True, capture_output=True, timeout=10)

    def heal() -> None:  # the server may have been replaced, and its network with it
        subprocess.run((*enter, "delete table ip rig"), check=False, capture_output=True, timeout=10)

    return heal


def made_writable(rig: Rig) -> Heal:
    """The old primary comes back, and somebody insists on making it writable again and again."""
    rig.kill()
    pool = ThreadPoolExecutor(max_workers=1)
    insisting = pool.submit(insist, rig)

    def heal() -> None:
        times = insisting.result()
        print(f"  made writable {times} times", file=sys.stderr, flush=True)
        rig.check(times > 0, f"{rig.old['name']} was never writable again")
        pool.shutdown()

    return heal


def insist(rig: Rig) -> int:
    """How often the old primary was made writable once another one was to lead."""
    times, end = 0, time.monotonic() + INSIST_WITHIN_SECONDS
    while time.monotonic() < end:
        if (times or rig.leader() != rig.old["instance"]) and _made_writable(rig):
            end = end if times else time.monotonic() + INSIST_SECONDS
            times += 1
        time.sleep(0.05)
    return times


def _made_writable(rig: Rig) -> bool:
    try:
        change = f"{rig.dialect(rig.old).reopen}; " if rig.has("write") else ""
        return rig.ask(rig.old, f"{change}SELECT @@global.read_only") == "0"
    except (RuntimeError, subprocess.TimeoutExpired):  # it is not back yet
        return False


@contextlib.contextmanager
def disk_of_its_own(rig: Rig, member: dict[str, Any]) -> Iterator[None]:
    """That server's data is moved to a file system that nothing else is on, and that can be made to hang."""
    DISK.mkdir(exist_ok=True)
    with DISK_FILE.open("wb") as file:
        file.truncate(DISK_BYTES)
    for words in (["mkfs.btrfs", "--quiet", str(DISK_FILE)], ["mount", "-o", "loop", str(DISK_FILE), str(DISK)]):
        subprocess.run(words, check=True, timeout=30)
    try:
        bind = [sys.executable, "-I", str(BIND_INTO), str(DISK), str(rig.init_process(member)), "/mnt"]
        subprocess.run(bind, check=True, timeout=30)
        rig.while_stopped(member, f"cp -a /{DATA}/. /mnt && mount --bind /mnt /{DATA}")
        if Path(f"/proc/{rig.process(member)}/root/{DATA}").stat().st_dev != DISK.stat().st_dev:
            raise RuntimeError(f"the data of {member['name']} is not on {DISK}")
        time.sleep(SETTLE_SECONDS)
        yield
    finally:
        _thaw()
        subprocess.run(["umount", "--lazy", DISK], check=True, timeout=30)  # it goes with the instance
        DISK_FILE.unlink()


def disk_hangs(rig: Rig) -> Heal:
    """Nothing is written to the primary's disk any more; it answers all the same, and in the end the disk is back."""
    _freeze(rig)
    return _thaw


def replica_disk_hangs(rig: Rig) -> Heal:
    """A replica's disk hangs, which cannot confirm anything any more; later the primary dies."""
    _freeze(rig)
    time.sleep(REPLICA_HANGS_SECONDS)
    rig.check(_is_frozen(), "the disk did not hang")
    rig.kill()
    return _thaw


def _freeze(rig: Rig) -> None:
    if rig.has("freeze"):
        subprocess.run(["fsfreeze", "--freeze", DISK], check=True, timeout=30)


def _is_frozen() -> bool:
    """Only one that is not frozen can be frozen."""
    done = subprocess.run(["fsfreeze", "--freeze", DISK], check=False, capture_output=True, timeout=30)
    if done.returncode == 0:
        _thaw()
    return done.returncode != 0


def _thaw() -> None:
    subprocess.run(["fsfreeze", "--unfreeze", DISK], check=False, capture_output=True, timeout=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    breaks: Callable[[Rig], Heal]
    faults: tuple[str, ...]  # what it does to the group, as `Rig.has` names it
    fails_over: bool = True  # it proves nothing unless another one leads in the end
    healed_after: bool = False  # writing comes back by itself; else it needs the group healed
    prepared: Callable[[Rig], contextlib.AbstractContextManager[None]] | None = None


RIGS: dict[str, Kind] = {
    "applier-blocked": Kind(breaks=applier_blocked, faults=("lock", "kill")),
    "replica-cut": Kind(breaks=replica_cut, faults=("cut", "power-off")),
    "both-cut": Kind(breaks=both_cut, faults=("cut", "kill"), fails_over=False),
    "one-way-out": Kind(breaks=one_way_out, faults=("drop",), healed_after=True),
    "one-way-in": Kind(breaks=one_way_in, faults=("drop",), healed_after=True),
    "made-writable": Kind(breaks=made_writable, faults=("kill", "write"), healed_after=True),
    "disk-hangs": Kind(
        breaks=disk_hangs, faults=("freeze",), healed_after=True, prepared=lambda rig: disk_of_its_own(rig, rig.old)
    ),
    "replica-disk-hangs": Kind(
        breaks=replica_disk_hangs,
        faults=("freeze", "kill"),
        healed_after=True,
        prepared=lambda rig: disk_of_its_own(rig, rig.replicas[0]),
    ),
}


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


def writes_again(out: Path) -> bool:
    """Whether one more is acknowledged from now on: a ledger whose writers have ended would find nothing wrong."""
    before = out.stat().st_size
    try:
        return until(lambda: out.stat().st_size > before, "a write", within_seconds=WRITES_SECONDS, every_seconds=0.2)
    except TimeoutError:
        return False


def missing(client: Client, table: str, given: list[Ack]) -> list[Ack]:
    """Those that the present primary does not have."""
    rows = STATE / f"{table}.rows"
    words = ledger_command(client, table, rows, "--rows")
    subprocess.run(words, input=PASSWORD + "\n", text=True, check=True, timeout=600)
    return not_among(rows.read_text(), given)


def not_among(rows: str, given: list[Ack]) -> list[Ack]:
    """Those that are not in the rows, each a line of worker and number."""
    there = {tuple(map(int, line.split())) for line in rows.splitlines()}
    return [ack for ack in given if (ack.worker, ack.number) not in there]


def one(client: Client, group: Group, name: str, run: int, *, without: str = "") -> Result:
    group.wait_redundant()
    client.post("/databases/shop/resume", {})  # the budget of failovers is not what is measured here
    rig, kind = Rig(client, group, without=without), RIGS[name]
    table = f"rig_{name.replace('-', '_')}_{run}"
    with contextlib.ExitStack() as kept:
        if kind.prepared is not None:
            kept.enter_context(kind.prepared(rig))
        out = rig.ledger = kept.enter_context(writers(client, table))
        strayed = kept.enter_context(stray(client, table, rig.old["address"]))
        time.sleep(BEFORE_SECONDS)
        began = time.monotonic()
        heal = kind.breaks(rig)
        broken = time.monotonic()
        if not kind.healed_after:
            heal()
        try:
            until(
                lambda: any(ack.moment > broken + 0.5 for ack in acks(out)[-20:]), f"writes after {name}",
                within_seconds=120, every_seconds=0.1,
            )  # fmt: skip
            time.sleep(AFTER_SECONDS)
        finally:
            if kind.healed_after:
                heal()
        time.sleep(AFTER_SECONDS)
    group.wait_redundant(300)
    given, beside = acks(out), acks(strayed)
    last_server = given[-1].server
    new_began = next(ack.moment for ack in given if ack.server == last_server)
    late = [ack for ack in (*given, *beside) if ack.server != last_server and ack.moment > new_began]
    around = [ack.moment for ack in given if ack.moment > began - 1]
    return Result(
        outage_seconds=max(after - before for before, after in itertools.pairwise(around)),
        acknowledged=len(given) + len(beside),
        by_the_old=len(beside),
        lost=len(missing(client, table, given) + missing(client, f"{table}_stray", beside)),
        two_writers=len(late),
        failed_over=last_server != given[0].server,
        not_happened=len(rig.not_happened),
    )


def figures_of(name: str, results: Sequence[Result]) -> list[Figure]:
    found = [
        Figure(name=f"{name}: write outage", unit="s", values=[each.outage_seconds for each in results]),
        Figure(
            name=f"{name}: faults not seen to happen", unit="", values=[sum(r.not_happened for r in results)], limit=0
        ),
        Figure(name=f"{name}: acknowledged, then lost", unit="", values=[sum(r.lost for r in results)], limit=0),
        Figure(name=f"{name}: acknowledged by two", unit="", values=[sum(r.two_writers for r in results)], limit=0),
    ]
    over = [sum(each.failed_over for each in results)]
    limit = len(results) if RIGS[name].fails_over else None
    return [*found, Figure(name=f"{name}: failed over", unit="times", values=over, limit=limit, at_least=True)]


def measured(client: Client, group: Group, names: Sequence[str], runs: int) -> list[Figure]:
    figures: list[Figure] = []
    for name in names:
        results = []
        for run in range(runs):
            results.append(one(client, group, name, run))
            print(f"{name} {run + 1}/{runs}: {results[-1]}", file=sys.stderr, flush=True)
        figures += figures_of(name, results)
    return figures


def without_faults(client: Client, group: Group, names: Sequence[str]) -> dict[str, bool]:
    """Each rig without each of its faults, and whether that missed a limit."""
    noticed: dict[str, bool] = {}
    for name in names:
        for run, fault in enumerate(RIGS[name].faults):
            result = one(client, group, name, run, without=fault)
            what = f"{name} without {fault}"
            noticed[what] = rehearsal.missed(figures_of(name, [result]))
            said = "noticed" if noticed[what] else "NOT NOTICED"
            print(f"{what}: {said}: {result}", file=sys.stderr, flush=True)
    return noticed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default=",".join(RIGS))
    parser.add_argument("--dialect", choices=sorted(TEMPLATES), default="mariadb")
    parser.add_argument("--without-faults", action="store_true", help="that each rig notices when a fault is left out")
    args = parser.parse_args()
    names = args.only.split(",")
    with rehearsal.controller() as client:
        client.put("/credentials/DB_PASSWORD", {"value": PASSWORD})
        rehearsal.finished(client, rehearsal.apply(client, deployment(args.dialect)))
        group = Group(client)
        noticed = without_faults(client, group, names) if args.without_faults else {}
        figures = [] if args.without_faults else measured(client, group, names, args.runs)
    if args.without_faults:
        print(json.dumps({"title": "Rigs of failover, each without one of its faults", "noticed": noticed}))
        raise SystemExit(1 if all(noticed.values()) else 2)
    rehearsal.report(f"Rigs of failover, {args.dialect}", figures)


if __name__ == "__main__":
    main()
