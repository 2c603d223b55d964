"""Snapshots of a busy primary's volume: what they add to the worst commit, what they hold, how soon one is usable.

python bench/snapshots.py [--dialects mariadb,mysql] [--rounds 8] [--seconds 8]

Eight writers on the server itself remember each acknowledged row and how long its commit took. Snapshots are taken
while they write: with nothing else, behind an UPDATE and behind a SELECT that run for a minute. The image of MySQL
comes from Debian sid and takes minutes to make, once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rehearsal import PROJECT, STATE, Figure, apply, controller, finished, report, servers, until

from relaunch.cli.servers import ssh_command

NEVER = "{full: never, incremental: never, primary: never, prove: never}"
GROUP = """deployment: {name}
servers:
  db1: {{template: {template}, zone: a, memory: 2G, volume: 20G, inputs: {{SNAPSHOT_MINUTES: text:0}}}}
database: {{primary: db1, backups: {never}}}
credentials: {{DB_PASSWORD: generate, REPLICATION_PASSWORD: generate}}
"""
WRITER = PROJECT / "bench/snapshot_writer.py"
AROUND_SECONDS = 0.5  # a commit that began so long before the snapshot, or after it, counts as beside it
ADDED_LIMIT_MS, USABLE_LIMIT = 50.0, 2.0
RESTORES = 5
LONG = {
    "alone": "",
    "behind an UPDATE": "UPDATE bench.slow SET a = SLEEP(60)",
    "behind a SELECT": "SELECT SLEEP(60), a FROM bench.slow",
}


@dataclass(frozen=True)
class Dialect:
    template: str
    client: str
    restore: str


DIALECTS = {
    "mariadb": Dialect("mysql", "mariadb", "restore_database.sh"),
    "mysql": Dialect("mysql9", "mysql", "restore_mysql.sh"),
}


@dataclass(frozen=True)
class Ack:
    worker: int
    number: int
    began: float
    ended: float  # both of the machine's monotonic clock, which servers and we share


class Primary:
    def __init__(self, address: str, dialect: Dialect) -> None:
        self.address, self.dialect = address, dialect

    def run(self, command: str, text: bytes = b"") -> str:
        done = subprocess.run(self._ssh(command), input=text, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{command}: {(done.stdout + done.stderr).decode()}")
        return done.stdout.decode().strip()

    def _ssh(self, command: str) -> list[str]:
        return ssh_command(self.address, STATE / "ssh/id_ed25519", [command])

    def sql(self, statements: str) -> str:
        return self.run(f"{self.dialect.client} -N -B", statements.encode())

    @staticmethod
    def script(name: str, **inputs: str) -> str:
        given = " ".join(f"{key}='{value}'" for key, value in inputs.items())
        return f"RS_ATTACH_DIR=/root/s/attachments {given} /root/s/{name}"

    def take(self) -> dict[str, Any]:
        said = self.run("python3 /root/s/attachments/take_snapshot.py take --keep 6")
        return dict(json.loads(said.splitlines()[-1]))

    @contextmanager
    def statement(self, statement: str) -> Iterator[None]:
        """It runs meanwhile, and is killed in the end."""
        if not statement:
            yield
            return
        running = subprocess.Popen(self._ssh(f"exec {self.dialect.client} -N -B -e '{statement}'"))
        try:
            until(lambda: self.running(statement), statement, within_seconds=10, every_seconds=0.1)
            time.sleep(1.5)  # it is a long one by then
            yield
        finally:
            for id in self.running(statement):
                self.sql(f"KILL {id}")
            running.wait(timeout=30)

    def running(self, statement: str) -> list[str]:
        found = self.sql(
            f"SELECT id FROM information_schema.processlist WHERE info LIKE '{statement[:6]}%SLEEP(60)%'"
            " AND id <> CONNECTION_ID()"
        )
        return found.split()

    @contextmanager
    def writers(self) -> Iterator[list[Ack]]:
        """What they have acknowledged is in the list once they have ended."""
        acks: list[Ack] = []
        command = "exec python3 /root/snapshot_writer.py --workers 8 2>&1"
        running = subprocess.Popen(self._ssh(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert running.stdin is not None
        try:
            time.sleep(3)
            yield acks
        finally:
            out, _ = running.communicate("", timeout=60)
            for line in out.splitlines():
                worker, number, began, ended = line.split()
                acks.append(Ack(int(worker), int(number), float(began), float(ended)))


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--dialects", default="mariadb,mysql")
    words.add_argument("--rounds", type=int, default=8)
    words.add_argument("--megabytes", type=int, default=300)
    asked = words.parse_args()
    figures: list[Figure] = []
    with controller() as client:
        for name in asked.dialects.split(","):
            dialect = DIALECTS[name]
            finished(client, apply(client, GROUP.format(name=name, template=dialect.template, never=NEVER)))
            until(lambda d=name: all(s["tags"].get("database") for s in servers(client, d)), "a role",
                  within_seconds=60, every_seconds=0.2)  # fmt: skip
            primary = Primary(servers(client, name)[0]["private_address"], dialect)
            figures += measured(primary, name, asked.rounds, asked.megabytes)
    report("snapshots", figures, rounds=asked.rounds, megabytes=asked.megabytes)


def measured(primary: Primary, name: str, rounds: int, megabytes: int) -> list[Figure]:
    prepare(primary, megabytes)
    figures = []
    for what, statement in LONG.items():
        with primary.statement(statement), primary.writers() as acks:
            taken = [snapshot(primary) for _ in range(rounds)]
        added, without, locks = worst(acks, taken)
        print(
            f"{name}, {what}: {len(acks)} commits, added {[round(each) for each in added]} ms, {locks};"
            f" above {ADDED_LIMIT_MS:g} ms: {above(added)}, without a snapshot {above(without)}",
            flush=True,
        )
        figures += [
            Figure(name=f"{name}: added to the worst commit, {what}", unit="ms", values=added, limit=ADDED_LIMIT_MS),
            Figure(name=f"{name}: the same of as long a time without one", unit="ms", values=without),
        ]
    return figures + restored(primary, name)


def snapshot(primary: Primary) -> tuple[float, float, str]:
    """When it began and ended, and which lock it had."""
    time.sleep(2)
    began = time.monotonic()
    record = primary.take()
    return began, time.monotonic(), record["lock"]


def worst(acks: list[Ack], taken: list[tuple[float, float, str]]) -> tuple[list[float], list[float], set[str]]:
    """For each snapshot the worst commit beside it less the typical worst of as long a time without one; the same of
    each such time, as the file system makes commits wait by itself; the locks."""
    beside = []
    for began, ended, _ in taken:
        near = [a for a in acks if a.ended > began - AROUND_SECONDS and a.began < ended + AROUND_SECONDS]
        beside.append((max(a.ended - a.began for a in near) * 1000, ended - began + 2 * AROUND_SECONDS))
    quiet = [a for a in acks if all(a.ended < b - AROUND_SECONDS or a.began > e + AROUND_SECONDS for b, e, _ in taken)]
    length = sum(long for _, long in beside) / len(beside)
    windows: dict[int, float] = {}
    for ack in quiet:
        at = int(ack.began / length)
        windows[at] = max(windows.get(at, 0.0), (ack.ended - ack.began) * 1000)
    typical = statistics.median(windows.values())
    added = [max(0.0, found - typical) for found, _ in beside]
    return added, [max(0.0, found - typical) for found in windows.values()], {lock for _, _, lock in taken}


def above(added: list[float]) -> str:
    return f"{sum(each > ADDED_LIMIT_MS for each in added)} of {len(added)}"


def restored(primary: Primary, name: str) -> list[Figure]:
    """A snapshot taken while they write, put in place, started; what was acknowledged before has to be there."""
    answers: list[float] = []
    took, outage, missing, seen = [], [], 0, 0
    for _ in range(RESTORES):
        with primary.writers() as acks:
            time.sleep(2)
            began, _, _ = snapshot(primary)
            time.sleep(1)
        primary.run("systemctl stop relaunch-agent")  # nobody but us does anything now
        began_restore = time.monotonic()
        said = primary.run(in_place(primary, name))  # one connection: to open three would take a third of it all
        took.append(time.monotonic() - began_restore)
        answers.append(float(said.partition(" answers after ")[2].partition(" s,")[0]))
        outage.append((noted(said, "USABLE") - noted(said, "PREPARED")) / 1e9)
        there = set(primary.sql("SELECT CONCAT(worker, ' ', number) FROM bench.ledger").splitlines())
        wanted = {f"{a.worker} {a.number}" for a in acks if a.ended < began}
        missing += len(wanted - there)
        seen += len(wanted)
        primary.run("systemctl start relaunch-agent")
        until(lambda: primary.sql("SELECT @@read_only") == "0", "writes again", within_seconds=60, every_seconds=0.2)
        primary.run("rm -rf /var/lib/mysql-volume/data-before-*")
    return [
        Figure(name=f"{name}: a server beside, on a snapshot, answers", unit="s", values=answers, limit=USABLE_LIMIT),
        Figure(name=f"{name}: in place, from asked for to usable", unit="s", values=took, limit=USABLE_LIMIT),
        Figure(name=f"{name}: of these without the database", unit="s", values=outage),
        Figure(name=f"{name}: acknowledged rows missing of {seen}", unit="rows", values=[missing], limit=0),
    ]


def in_place(primary: Primary, name: str) -> str:
    """The commands; they say in nanoseconds when the data was prepared and when the database answered."""
    client, ask = primary.dialect.client, "SELECT 1 FROM bench.ledger"
    return " && ".join(
        [
            primary.script(
                "restore_snapshot.sh", RESTORE_SNAPSHOT="latest", RESTORE_CONFIRM=name, RESTORE_NEW_LINEAGE="",
            ),
            "date +'PREPARED %s%N'",
            primary.script(
                primary.dialect.restore, RESTORE_PHASE="swap", RESTORE_CONFIRM=name, RESTORE_START="true",
                BACKUP_KEY="", RESTORE_TO="newest", RESTORE_BACKUP="latest",
            ),
            f"""timeout 60 sh -c "until {client} -e '{ask}' >/dev/null 2>&1; do sleep 0.02; done" """,
            "date +'USABLE %s%N'",
        ]
    )  # fmt: skip


def noted(said: str, word: str) -> int:
    return next(int(line.split()[1]) for line in said.splitlines() if line.startswith(word + " "))


def prepare(primary: Primary, megabytes: int) -> None:
    packed = subprocess.run(["tar", "-C", PROJECT / "templates/scripts", "-c", "."], capture_output=True, check=True)
    primary.run("mkdir -p s && tar -C s -x", packed.stdout)
    primary.run("cat >/root/snapshot_writer.py", Path(WRITER).read_bytes())
    primary.sql(
        "CREATE DATABASE bench; CREATE TABLE bench.ledger (worker INT, number INT, PRIMARY KEY (worker, number));"
        "CREATE TABLE bench.slow (a INT); INSERT INTO bench.slow VALUES (1);"
        "CREATE TABLE bench.filling (id INT PRIMARY KEY AUTO_INCREMENT, a VARCHAR(1200));"
        "INSERT INTO bench.filling (a) VALUES (REPEAT('x', 1000))"
    )
    while int(primary.sql("SELECT COUNT(*) FROM bench.filling")) < megabytes * 1000:
        primary.sql(
            "INSERT INTO bench.filling (a) SELECT CONCAT(SHA2(RAND(), 512), SHA2(RAND(), 512), REPEAT(UUID(), 20))"
            " FROM bench.filling LIMIT 20000"
        )


if __name__ == "__main__":
    main()
