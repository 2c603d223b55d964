"""Backups of a group with real data: size of an incremental, delay of the binary log, restore against plain copying.

python bench/backups.py [--megabytes 1000] [--seconds 60]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from typing import Any

import rehearsal
from rehearsal import PROJECT, STATE, Client, Figure, apply, controller, finished, report, servers, until

NEVER = "{full: never, incremental: never, primary: never, prove: never, schemas: never}"
GROUP = f"""deployment: bench
servers:
  db1: {{template: mysql, zone: a, memory: 2G}}
  db2: {{template: mysql, zone: b, memory: 2G}}
database: {{primary: db1, replicas: [db2], backups: {NEVER}}}
credentials: {{DB_PASSWORD: generate, REPLICATION_PASSWORD: generate}}
"""
ROWS_A_MEGABYTE = 900  # of about 1.1 KB


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--megabytes", type=int, default=1000)
    words.add_argument("--seconds", type=int, default=60)
    asked = words.parse_args()
    with controller() as client:
        finished(client, apply(client, GROUP))
        until(lambda: all(s["tags"].get("database") for s in servers(client, "bench")), "roles", within_seconds=60,
              every_seconds=0.2)  # fmt: skip
        figures = measured(client, asked.megabytes, asked.seconds)
        # The replica whose MariaDB was stopped for the restore is being replaced by now.
        until(
            lambda: all(task["state"] != "running" for task in client.get("/tasks")["tasks"]),
            "tasks to end",
            within_seconds=300,
            every_seconds=1,
        )
    report("backups", figures, megabytes=asked.megabytes)


def measured(client: Client, megabytes: int, seconds: int) -> list[Figure]:
    address = {each["name"].rpartition("/")[2]: each["private_address"] for each in servers(client, "bench")}
    primary, replica = address["db1"], address["db2"]
    for each in (primary, replica):
        on(each, "mkdir -p s && tar -C s -x", packed())
    fill(primary, megabytes)
    caught_up(primary, replica)
    delays, idle, busy = shipping(primary, seconds)
    print(f"binary log: {len(delays)} delays, at most {max(delays):.2f} s; {idle:.1f} %, {busy:.1f} %", flush=True)
    caught_up(primary, replica)
    script(replica, "backup_database.sh", BACKUP_KIND="full")
    sql(primary, "UPDATE bench.t SET a = REVERSE(a) WHERE id % 1500 = 7")  # 15 rows a page: 1 % of the pages
    caught_up(primary, replica)
    alone = float(
        on(replica, "mariadb-backup --backup --stream=mbstream --incremental-lsn=$(awk '/^to_lsn/ {print $3}'"
                    " /var/lib/relaunch-backup/last/checkpoints) 2>/dev/null | zstd -q -T1 -3 | wc -c")
    )  # fmt: skip
    script(replica, "backup_database.sh", BACKUP_KIND="incremental")
    newest = json.loads(max((STATE / "object-store/backups/bench").glob("*/backups/*incr*/manifest.json")).read_text())
    restore_seconds, data, copy_seconds = restored(replica)
    return [
        Figure(name="binary log: commit to store", unit="s", values=delays, limit=5.0),
        Figure(name="binary log: shipper, idle", unit="% of a core", values=[idle]),
        Figure(name="binary log: shipper, under load", unit="% of a core", values=[busy]),
        Figure(name="incremental stored / mariadb-backup alone", unit="×", values=[newest["stored_bytes"] / alone],
               limit=1.5),
        Figure(name="restore, whole", unit="MB/s", values=[data / 1e6 / restore_seconds]),
        Figure(name="plain copy of the same files", unit="MB/s", values=[data / 1e6 / copy_seconds]),
        Figure(name="copy's time / restore's time (wanted: 0.6 at least)", unit="×",
               values=[copy_seconds / restore_seconds]),
    ]  # fmt: skip


def shipping(primary: str, seconds: int) -> tuple[list[float], float, float]:
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
    return delays, idle, (cpu(primary) - began) / (time.monotonic() - began_at) * 100


def restored(replica: str) -> tuple[float, int, float]:
    """Seconds of the restore to the backup itself, bytes of data, seconds of copying as many."""
    key = client_key()
    on(replica, "systemctl stop mariadb")
    data = int(on(replica, "du -sb --exclude='binlog.*' --exclude='relay.*' /var/lib/mysql | cut -f1"))
    on(replica, "sync")
    began = time.monotonic()
    on(replica, "cp -a /var/lib/mysql /var/lib/copied; sync -f /var/lib/copied")
    copy_seconds = time.monotonic() - began
    on(replica, "rm -rf /var/lib/copied")
    said = script(replica, "restore_database.sh", BACKUP_KEY=key, RESTORE_TO="backup", RESTORE_CONFIRM="bench",
                  RESTORE_START="false")  # fmt: skip
    return float(json.loads(said.rpartition("RESTORED ")[2])["prepared_seconds"]), data, copy_seconds


def client_key() -> str:
    answer: dict[str, Any] = rehearsal.Client(rehearsal.find_controller(rehearsal.ENVIRONMENT)).post(
        "/databases/bench/backup-key", {}
    )
    return str(answer["identity"])


def fill(primary: str, megabytes: int) -> None:
    sql(primary, "CREATE DATABASE bench; CREATE TABLE bench.t (id INT PRIMARY KEY AUTO_INCREMENT, a VARCHAR(1200))")
    for _ in range(0, megabytes, 50):
        sql(primary, "INSERT INTO bench.t (a) SELECT CONCAT(SHA2(RAND(), 512), SHA2(RAND(), 512), SHA2(RAND(), 512),"
                     " SHA2(RAND(), 512), SHA2(RAND(), 512), SHA2(RAND(), 512), SHA2(RAND(), 512), SHA2(RAND(), 512))"
                     f" FROM bench.seq_1_to_{50 * ROWS_A_MEGABYTE}")  # fmt: skip


def caught_up(primary: str, replica: str) -> None:
    gtid = sql(primary, "SELECT @@gtid_binlog_pos")
    assert sql(replica, f"SELECT MASTER_GTID_WAIT('{gtid}', 300)") == "0"


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


def packed() -> bytes:
    return subprocess.run(
        ["tar", "-C", PROJECT / "templates/scripts", "-c", "."], capture_output=True, check=True
    ).stdout


def sql(server: str, statements: str) -> str:
    return on(server, "mariadb -N -B", statements.encode())


def script(server: str, name: str, **inputs: str) -> str:
    given = {"BACKUP_MAX_LAG": "60", "BACKUP_CHECK_SECONDS": "0", "BACKUP_BANDWIDTH": "", "RESTORE_BACKUP": "latest"}
    values = " ".join(f"{key}='{value}'" for key, value in (given | inputs).items())
    return on(server, f"RS_ATTACH_DIR=/root/s/attachments {values} /root/s/{name}")


def on(server: str, command: str, text: bytes = b"") -> str:
    done = subprocess.run(
        ["ssh", "-i", str(STATE / "ssh/id_ed25519"), "-o", "StrictHostKeyChecking=no", "-o",
         "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", f"root@{server}", command],
        input=text, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{command}: {(done.stdout + done.stderr).decode()}")
    return done.stdout.decode().strip()


if __name__ == "__main__":
    main()
