"""Backing up from the replica: what the primary's clients notice, by their slowest hundredth of transactions.

    sudo python bench/backup_latency.py [--megabytes 600] [--pairs 6] [--seconds 15] [--one-disk | --together]

Windows in turns, without and with full backups of the replica one after the other, durability strict. sysbench writes
at half of what the primary could do at most (measured before): waiting in line is not what is measured.

A replica and an object store are other machines than the primary. So the primary and its client have one CPU to
themselves here and all the rest has the other one, the store goes last there, and the files of all three are in
memory: on one disk each waits for what the others write. The cores of one processor slow each other down: in windows
without a backup something of no consequence keeps the other core as busy as a backup does. --one-disk leaves the
servers' data on the disk of this machine, --together leaves out all of this.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from members import (
    CREDENTIALS,
    NEVER,
    Load,
    addresses,
    caught_up,
    fill,
    install_sysbench,
    on,
    pin,
    pin_the_rest,
    put_scripts,
    sysbench,
)  # fmt: skip
from rehearsal import STATE, Client, Figure, apply, controller, finished, report, until

GROUP = f"""deployment: bench
servers:
  db1: {{template: mysql, zone: a, memory: 2G}}
  db2: {{template: mysql, zone: b, memory: 2G}}
database: {{primary: db1, replicas: [db2], durability: strict, backups: {NEVER}}}
{CREDENTIALS}
"""
TEST = "oltp_write_only"
THREADS = 8
SHARE = 1 / 2  # of what it can do
STORE = STATE / "object-store"
BACKUP = """cd /root/s; export RS_ATTACH_DIR=/root/s/attachments BACKUP_KIND=full BACKUP_MAX_LAG=60
 export BACKUP_CHECK_SECONDS=30 BACKUP_BANDWIDTH=
 while [ -e /run/backing-up ]; do ./backup_database.sh || exit 1; done"""


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--megabytes", type=int, default=600)
    words.add_argument("--pairs", type=int, default=6)
    words.add_argument("--seconds", type=float, default=15.0, help="of each window")
    words.add_argument("--one-disk", action="store_true", help="the servers' data on the disk of this machine")
    words.add_argument("--together", action="store_true", help="on the same CPUs and disk")
    asked = words.parse_args()
    with contextlib.ExitStack() as apart:
        if not asked.together:
            apart.enter_context(in_memory(STORE))
            if not asked.one_disk:
                apart.enter_context(in_memory(STATE / "local-cloud/instances"))
        client = apart.enter_context(controller())
        finished(client, apply(client, GROUP))
        until(lambda: client.get("/databases/bench")["mode"] == "sync", "the replica to be in step",
              within_seconds=60, every_seconds=0.2)  # fmt: skip
        figures = measured(client, asked)
    report(
        "backup latency",
        figures,
        megabytes=asked.megabytes,
        test=TEST,
        together=asked.together,
        one_disk=asked.one_disk,
    )


def measured(client: Client, asked: argparse.Namespace) -> list[Figure]:
    address = addresses(client)
    primary, replica = address["db1"], address["db2"]
    put_scripts(replica)
    install_sysbench(primary)
    fill(primary, asked.megabytes)
    caught_up(primary, replica)
    if not asked.together:
        pin_the_rest({1})
        pin(client, "db2", {1})
        pin(client, "db1", {0})
        go_last("rclone", "serve")
    most = sysbench(primary, TEST, threads=THREADS, seconds=10).rate
    caught_up(primary, replica)
    print(f"{most:.0f} transactions/s at most, {most * SHARE:.0f} from now on", flush=True)
    without, during, backups = [], [], []
    for _ in range(asked.pairs):
        with contextlib.nullcontext() if asked.together else busy(1):
            without.append(sysbench(primary, TEST, threads=THREADS, seconds=asked.seconds, rate=most * SHARE))
        with backing_up(replica):
            during.append(sysbench(primary, TEST, threads=THREADS, seconds=asked.seconds, rate=most * SHARE))
        backups.append(int(on(replica, "grep -c ^BACKED-UP /root/backups.log")))
        for each in STORE.glob("backups/bench/*/backups/*"):
            shutil.rmtree(each)
        caught_up(primary, replica)
        time.sleep(3)
        print(f"without {shown(without[-1])}; with {backups[-1]} backups {shown(during[-1])}", flush=True)
    ratios = [one.p99_ms / other.p99_ms for one, other in zip(during, without, strict=True)]
    return [
        Figure(name="without: p99", unit="ms", values=[each.p99_ms for each in without]),
        Figure(name="with a backup of the replica: p99", unit="ms", values=[each.p99_ms for each in during]),
        Figure(name="p99 with / without", unit="×", values=ratios, limit=1.1),
        Figure(name="average with / without", unit="×", values=[
            one.average_ms / other.average_ms for one, other in zip(during, without, strict=True)]),
        Figure(name="full backups in a window", unit="", values=[statistics.mean(backups)]),
    ]  # fmt: skip


def shown(load: Load) -> str:
    return f"p99 {load.p99_ms:.2f} ms, average {load.average_ms:.2f} ms, {load.rate:.0f}/s"


@contextlib.contextmanager
def backing_up(replica: str) -> Iterator[None]:
    """Full backups, one after the other; at the end the last one is waited for."""
    on(replica, "cat >/root/backing-up.sh", BACKUP.encode())
    on(replica, "touch /run/backing-up; setsid bash /root/backing-up.sh >/root/backups.log 2>&1 </dev/null &")
    time.sleep(1)
    try:
        yield
    finally:
        on(replica, "rm -f /run/backing-up; timeout 120 sh -c 'while pgrep -f backing-up.s[h]; do sleep 0.5; done'")
    assert "failed" not in on(replica, "cat /root/backups.log"), on(replica, "cat /root/backups.log")


@contextlib.contextmanager
def in_memory(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6G,mode=700", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def busy(cpu: int) -> Iterator[None]:
    """As long as nobody else wants that CPU."""
    words = ["taskset", "-c", str(cpu), "chrt", "--idle", "0", "sha256sum", "/dev/zero"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def go_last(*words: str) -> None:
    """The processes of the bench's own with these words have the processor while nobody else wants it."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_text().split("\0")
            if str(STATE) in " ".join(command) and all(any(word in each for each in command) for word in words):
                for task in (folder / "task").iterdir():
                    os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))


if __name__ == "__main__":
    main()
