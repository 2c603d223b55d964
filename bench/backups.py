"""Backups of a group with real data: size of an incremental, delay of the binary log, restore against plain copying.

    sudo python bench/backups.py [--megabytes 1000] [--seconds 60] [--runs 3] [--only shipping,incremental,restore]

Restored is the newest backup with all it builds on, on the replica, by the script itself: fetched from the object
store, decrypted, unpacked, prepared, started, the binary log replayed, its rows compared, its tables checked, stopped,
synced to disk, put in place. Beside it the server's data files are copied by cp, onto the same disk, and synced; they
are in the system's cache before: that favours cp. And they are fetched by rclone from the same object store, where they
lie as they are, neither compressed nor encrypted, and synced: no restore could begin with less.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from typing import Any

from members import CREDENTIALS, NEVER, addresses, caught_up, fill, on, put_scripts, script, sql
from rehearsal import STATE, Client, Figure, apply, controller, finished, report, servers, until

GROUP = f"""deployment: bench
servers:
  db1: {{template: mysql, zone: a, memory: 2G}}
  db2: {{template: mysql, zone: b, memory: 2G}}
database: {{primary: db1, replicas: [db2], backups: {NEVER}}}
{CREDENTIALS}
"""
STORE = "set -ea; . /etc/relaunch/backup.env;"  # and whatever rclone needs to know
PARTS = ("shipping", "incremental", "restore")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--megabytes", type=int, default=1000)
    words.add_argument("--seconds", type=int, default=60, help="of looking at the shipping of the binary log")
    words.add_argument("--runs", type=int, default=3, help="of the restore")
    words.add_argument("--only", default=",".join(PARTS))
    asked = words.parse_args()
    with controller() as client:
        finished(client, apply(client, GROUP))
        until(lambda: all(s["tags"].get("database") for s in servers(client, "bench")), "roles", within_seconds=60,
              every_seconds=0.2)  # fmt: skip
        figures = measured(client, asked)
        # The replica whose MariaDB was stopped for the restore is being replaced by now.
        until(
            lambda: all(task["state"] != "running" for task in client.get("/tasks")["tasks"]),
            "tasks to end",
            within_seconds=300,
            every_seconds=1,
        )
    report("backups", figures, megabytes=asked.megabytes)


def measured(client: Client, asked: Any) -> list[Figure]:
    parts, address = asked.only.split(","), addresses(client)
    primary, replica = address["db1"], address["db2"]
    for each in (primary, replica):
        put_scripts(each)
    fill(primary, asked.megabytes)
    sql(primary, "FLUSH BINARY LOGS")  # the rows are not to be in what is replayed onto them, too
    caught_up(primary, replica)
    figures = []
    if "shipping" in parts:
        figures += shipping(primary, asked.seconds)
        caught_up(primary, replica)
    if {"incremental", "restore"} & set(parts):
        figures += incremental(primary, replica)
    if "restore" in parts:
        client.post("/databases/bench/pause", {"reason": "a restore is measured on the replica"})
        figures += restored(client, replica, asked.runs)
    return figures


def shipping(primary: str, seconds: int) -> list[Figure]:
    """Delays from a commit until the store's state names its position, and the shipper's share of a core."""
    time.sleep(5)
    began = cpu(primary)
    time.sleep(20)
    idle = (cpu(primary) - began) / 20 * 100
    delays, deadline, began, began_at = [], time.monotonic() + seconds, cpu(primary), time.monotonic()
    while time.monotonic() < deadline:
        gtid = sql(primary, "INSERT INTO bench.t (a) VALUES (UUID()); SELECT @@gtid_binlog_pos").split()[-1]
        committed = time.monotonic()
        until(lambda wanted=gtid: number(shipped_gtid()) >= number(wanted), gtid, within_seconds=60, every_seconds=0.05)
        delays.append(time.monotonic() - committed)
    busy = (cpu(primary) - began) / (time.monotonic() - began_at) * 100
    print(f"binary log: {len(delays)} delays, at most {max(delays):.2f} s; {idle:.1f} %, {busy:.1f} %", flush=True)
    return [
        Figure(name="binary log: commit to store", unit="s", values=delays, limit=5.0),
        Figure(name="binary log: shipper, idle", unit="% of a core", values=[idle]),
        Figure(name="binary log: shipper, under load", unit="% of a core", values=[busy]),
    ]


def incremental(primary: str, replica: str) -> list[Figure]:
    """A full backup, 1 % of the pages changed, an incremental; beside what mariadb-backup alone would store for it."""
    print(last_line(script(replica, "backup_database.sh", BACKUP_KIND="full", BACKUP_CHECK_SECONDS="30")), flush=True)
    sql(primary, "UPDATE bench.t SET a = REVERSE(a) WHERE id % 1500 = 7")  # 15 rows a page: 1 % of the pages
    caught_up(primary, replica)
    alone = float(
        on(replica, "mariadb-backup --backup --stream=mbstream --incremental-lsn=$(awk '/^to_lsn/ {print $3}'"
                    " /var/lib/relaunch-backup/last/checkpoints) 2>/dev/null | zstd -q -T1 -3 | wc -c")
    )  # fmt: skip
    print(
        last_line(script(replica, "backup_database.sh", BACKUP_KIND="incremental", BACKUP_CHECK_SECONDS="30")),
        flush=True,
    )
    newest = json.loads(max((STATE / "object-store/backups/bench").glob("*/backups/*incr*/manifest.json")).read_text())
    return [
        Figure(name="incremental stored / mariadb-backup alone", unit="×", values=[newest["stored_bytes"] / alone],
               limit=1.5),
    ]  # fmt: skip


def restored(client: Client, replica: str, runs: int) -> list[Figure]:
    key = str(client.post("/databases/bench/backup-key", {})["identity"])
    on(replica, "systemctl stop mariadb; cd /var/lib/mysql; rm -f binlog.* relay*")  # as in a backup: without logs
    on(replica, f"{STORE} rclone copy /var/lib/mysql $BACKUP_ROOT/plain")
    rates, copies, fetches, ratios = [], [], [], []
    for _ in range(runs):
        size, copy_seconds = plain_copy(replica)
        fetched_seconds = plain_fetch(replica)
        on(replica, "rm -rf /var/lib/mysql-before-*; sync")
        began = time.monotonic()
        said = script(replica, "restore_database.sh", BACKUP_KEY=key, RESTORE_TO="newest", RESTORE_CONFIRM="bench",
                      RESTORE_START="false")  # fmt: skip
        seconds = time.monotonic() - began
        assert json.loads(said.rpartition("RESTORED ")[2])["tables_compared"] >= 1, said
        print("\n".join(line for line in said.splitlines() if re.search(r" s(;|$)", line)), flush=True)
        took = f"copied in {copy_seconds:.1f} s, fetched in {fetched_seconds:.1f} s, restored in {seconds:.1f} s"
        print(f"{size / 1e6:.0f} MB {took}", flush=True)
        rates.append(size / 1e6 / seconds)
        copies.append(size / 1e6 / copy_seconds)
        fetches.append(size / 1e6 / fetched_seconds)
        ratios.append((copy_seconds / seconds, fetched_seconds / seconds))
    on(replica, f"{STORE} rclone purge $BACKUP_ROOT/plain")
    return [
        Figure(name="plain copy of the same files", unit="MB/s", values=copies),
        Figure(name="plain fetching of the same files", unit="MB/s", values=fetches),
        Figure(name="restore, whole, with its checks", unit="MB/s", values=rates),
        Figure(
            name="restore's speed / copy's", unit="×", values=[copy for copy, _ in ratios], limit=0.6, at_least=True
        ),
        Figure(name="restore's speed / fetching's", unit="×", values=[fetch for _, fetch in ratios]),
    ]


def plain_copy(server: str) -> tuple[int, float]:
    """Bytes of the data files, and seconds of copying them until they are on disk."""
    on(server, "cd /var/lib/mysql; cat $(find . -type f) >/dev/null; mkdir /var/lib/copied; sync")
    began = time.monotonic()
    on(server, "cp -a /var/lib/mysql/. /var/lib/copied; sync -f /var/lib/copied")
    seconds = time.monotonic() - began
    size = int(on(server, "du -sb /var/lib/copied | cut -f1; rm -rf /var/lib/copied"))
    return size, seconds


def plain_fetch(server: str) -> float:
    """Seconds of fetching them from the store, until they are on disk."""
    began = time.monotonic()
    on(server, f"{STORE} rclone copy $BACKUP_ROOT/plain /var/lib/fetched; sync -f /var/lib/fetched")
    seconds = time.monotonic() - began
    on(server, "rm -rf /var/lib/fetched; sync")
    return seconds


def last_line(text: str) -> str:
    return text.strip().splitlines()[-2]


def shipped_gtid() -> str:
    states = sorted((STATE / "object-store/backups/bench").glob("*/binlogs/*/state.json"))
    try:
        return str(json.loads(states[-1].read_text())["gtid"])
    except (ValueError, IndexError):  # being written just now
        return "0-0-0"


def number(gtid: str) -> int:
    return int(gtid.rpartition("-")[2])


def cpu(server: str) -> float:
    """Seconds of processor the shipper and its children have used."""
    said = on(server, "systemctl show -p CPUUsageNSec --value relaunch-ship-binlogs")
    return int(said) / 1e9


if __name__ == "__main__":
    main()
