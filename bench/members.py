"""What the benches of database groups share: servers, SQL and scripts on them, real data, a load, a CPU for each.

On one machine all servers share its CPUs and its disk; real ones do not. Where that would decide the figure, `pin`
gives each server a CPU of its own, and the bench says so.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rehearsal import PROJECT, STATE, Client, controller_pid, servers

from relaunch.cli.servers import ssh_command
from relaunch.clouds.local import cgroups

NEVER = "{full: never, incremental: never, primary: never, prove: never, schemas: never}"
CREDENTIALS = "credentials: {DB_PASSWORD: generate, REPLICATION_PASSWORD: generate}"
ROWS_A_MEGABYTE = 900  # of about 1.1 KB
SOCKET = "/run/mysqld/mysqld.sock"
TABLES, ROWS = 4, 25000  # of sysbench: about 25 MB, all in memory


def addresses(client: Client) -> dict[str, str]:
    return {each["name"].rpartition("/")[2]: each["private_address"] for each in servers(client, "bench")}


def on(server: str, command: str, text: bytes = b"") -> str:
    done = subprocess.run(
        ssh_command(server, STATE / "ssh/id_ed25519", [command]),
        input=text, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{command}: {(done.stdout + done.stderr).decode()}")
    return done.stdout.decode().strip()


def sql(server: str, statements: str) -> str:
    return on(server, "mariadb -N -B", statements.encode())


def put_scripts(server: str) -> None:
    packed = ["tar", "-C", str(PROJECT / "templates/scripts"), "-c", "."]
    on(server, "mkdir -p s && tar -C s -x", subprocess.run(packed, capture_output=True, check=True).stdout)


def script(server: str, name: str, **inputs: str) -> str:
    """One of the template's, as the agent would run it."""
    given = {"BACKUP_MAX_LAG": "60", "BACKUP_CHECK_SECONDS": "0", "BACKUP_BANDWIDTH": "", "RESTORE_BACKUP": "latest"}
    values = " ".join(f"{key}='{value}'" for key, value in (given | inputs).items())
    return on(server, f"RS_ATTACH_DIR=/root/s/attachments {values} /root/s/{name}")


def fill(primary: str, megabytes: int) -> None:
    sql(primary, "CREATE DATABASE bench; CREATE TABLE bench.t (id INT PRIMARY KEY AUTO_INCREMENT, a VARCHAR(1200))")
    for _ in range(0, megabytes, 50):
        sql(primary, "INSERT INTO bench.t (a) SELECT CONCAT(SHA2(RAND(), 512), SHA2(RAND(), 512), SHA2(RAND(), 512),"
                     " SHA2(RAND(), 512), SHA2(RAND(), 512), SHA2(RAND(), 512), SHA2(RAND(), 512), SHA2(RAND(), 512))"
                     f" FROM bench.seq_1_to_{50 * ROWS_A_MEGABYTE}")  # fmt: skip


def caught_up(primary: str, replica: str) -> None:
    gtid = sql(primary, "SELECT @@gtid_binlog_pos")
    assert sql(replica, f"SELECT MASTER_GTID_WAIT('{gtid}', 300)") == "0"


# sysbench on the primary itself, over the local socket


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Of one window: transactions a second, and how long they took."""

    rate: float
    p99_ms: float
    average_ms: float


def install_sysbench(primary: str) -> None:
    on(primary, "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq sysbench >/dev/null 2>&1")
    sql(primary, "CREATE DATABASE sysbench")
    on(primary, f"{_sysbench('oltp_read_write')} --threads=2 prepare")


def sysbench(primary: str, test: str, *, threads: int, seconds: float, rate: float = 0.0) -> Load:
    """`rate`: transactions a second that are begun; 0 for as many as it can do."""
    said = on(primary, f"{_sysbench(test)} --threads={threads} --time={seconds:.0f} --rate={rate:.0f}"
                       " --percentile=99 run")  # fmt: skip
    found = re.search(r"transactions:\s+\d+\s+\(([\d.]+) per sec", said)
    p99, average = re.search(r"99th percentile:\s+([\d.]+)", said), re.search(r"avg:\s+([\d.]+)", said)
    assert found and p99 and average, said
    return Load(rate=float(found[1]), p99_ms=float(p99[1]), average_ms=float(average[1]))


def _sysbench(test: str) -> str:
    return (f"sysbench {test} --db-driver=mysql --mysql-socket={SOCKET} --mysql-user=root --mysql-db=sysbench"
            f" --tables={TABLES} --table-size={ROWS} --db-ps-mode=disable --rand-type=uniform")  # fmt: skip


# processor


def cpu_seconds(client: Client, server: str) -> float:
    """Used until now by all that runs on the server."""
    return sum(_used(pid) for pid in _processes(client, server))


def _used(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _processes(client: Client, server: str) -> list[int]:
    """By the host's numbers."""
    cloud_id = str(client.get(f"/servers/bench/{server}")["cloud_id"])
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            group = cgroups.group_of(int(folder.name))
            if group is not None and cloud_id in str(group):
                found.append(int(folder.name))
    return found


# a CPU for each


def pin(client: Client, server: str, cpus: Iterable[int]) -> None:
    """All that runs on the server, and what it starts from now on."""
    for pid in _processes(client, server):
        pin_process(pid, cpus)


def pin_process(pid: int, cpus: Iterable[int]) -> None:
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), set(cpus))


def pin_the_rest(cpus: Iterable[int]) -> None:
    """The controller, the bus, the object store: whatever else works in the benches' folder, and the bench itself."""
    pin_process(os.getpid(), cpus)
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if str(STATE) in (folder / "cmdline").read_text():
                pin_process(int(folder.name), cpus)
    pin_process(controller_pid(), cpus)
