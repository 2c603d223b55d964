"""Seeding of a new replica with real data: beside plain copying of the same files, and how long until redundant again.

python bench/seeding.py [--megabytes 1000] [--runs 3]
"""

from __future__ import annotations

import argparse
import re
import time
from typing import Any

from members import CREDENTIALS, NEVER, addresses, caught_up, fill, on, sql
from rehearsal import Figure, apply, controller, finished, relaunch, report, until

from relaunch.cli.client import Client

GROUP = f"""deployment: bench
servers:
  db1: {{template: mysql, zone: a, memory: 2G}}
  db2: {{template: mysql, zone: b, memory: 2G}}
database: {{primary: db1, replicas: [db2], durability: strict, backups: {NEVER}}}
{CREDENTIALS}
"""
COPIED = re.compile(r"(\d+) MB copied from (\S+) in ([\d.]+) s")
IN_PLACE = re.compile(r"Prepared and in place after ([\d.]+) s")
LEFT_OUT = "--exclude='binlog.*' --exclude='relay.*' --exclude='ibtmp*' --exclude='*.pid' --exclude='*.sock'"


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--megabytes", type=int, default=1000)
    words.add_argument("--runs", type=int, default=3)
    asked = words.parse_args()
    with controller() as client:
        finished(client, apply(client, GROUP))
        in_step(client, set())
        figures = measured(client, asked.megabytes, asked.runs)
    report("seeding", figures, megabytes=asked.megabytes)


def measured(client: Client, megabytes: int, runs: int) -> list[Figure]:
    primary, replica = both(client)
    fill(primary, megabytes)
    caught_up(primary, replica)
    plain, copies, whole, ratios, again, after = [], [], [], [], [], []
    for _ in range(runs):
        primary, replica = both(client)
        size, seconds = plain_copy(primary, replica)
        plain.append(size / 1e6 / seconds)
        finished(client, str(client.post("/servers/bench/db2/relaunch", {})["task"]["id"]))
        copied, in_place = seeding_of("db2")
        copies.append(size / 1e6 / copied)
        whole.append(size / 1e6 / (copied + in_place))
        ratios.append(whole[-1] / plain[-1])
        in_step(client, set())
        print(f"plain {plain[-1]:.0f} MB/s, seeded {copied:.1f} + {in_place:.1f} s, {ratios[-1]:.2f} ×", flush=True)
    again.append(redundant_again(client, "db2"))
    print(f"replica powered off: redundant again after {again[-1]:.1f} s", flush=True)
    after.append(redundant_again(client, "db1"))
    print(f"primary powered off: redundant again after {after[-1]:.1f} s", flush=True)
    return [
        Figure(name="plain copy, host to host, no TLS", unit="MB/s", values=plain),
        Figure(name="seeding: files over TLS", unit="MB/s", values=copies),
        Figure(name="seeding: files, prepared, on disk, in place", unit="MB/s", values=whole),
        Figure(name="plain copy's time / seeding's (0.6 at least)", unit="×", values=ratios),
        Figure(name="replica powered off: redundant again", unit="s", values=again, limit=60.0),
        Figure(name="primary powered off: redundant again", unit="s", values=after, limit=60.0),
    ]


def both(client: Client) -> tuple[str, str]:
    """Addresses of db1 and db2, as they are now."""
    found = addresses(client)
    return found["db1"], found["db2"]


def plain_copy(giver: str, taker: str) -> tuple[int, float]:
    """The same files by tar over plain TCP, to the same port and onto the same disk; bytes, seconds until synced."""
    size = int(on(giver, f"du -sb {LEFT_OUT} /var/lib/mysql | cut -f1"))
    on(taker, "rm -rf /var/lib/plain; mkdir /var/lib/plain; sync -f /var/lib")
    send = f"tar -c --ignore-failed-read {LEFT_OUT} . | socat -u -b 1048576 - TCP-LISTEN:4444,bind={giver},reuseaddr"
    on(giver, "systemctl stop relaunch-give-seed.socket; cd /var/lib/mysql;"
              f" setsid sh -c \"{send}\" >/dev/null 2>&1 </dev/null &")  # fmt: skip
    try:
        time.sleep(0.5)
        began = time.monotonic()
        on(taker, f"socat -u -b 1048576 TCP:{giver}:4444 - | tar -x -C /var/lib/plain && sync -f /var/lib/plain")
        seconds = time.monotonic() - began
    finally:
        on(giver, "systemctl start relaunch-give-seed.socket")
        on(taker, "rm -rf /var/lib/plain")
    return size, seconds


def seeding_of(server: str) -> tuple[float, float]:
    """Seconds of copying, and of preparing and putting in place, as its join script said."""
    said = relaunch("server", "log", f"bench/{server}")
    copied, in_place = COPIED.findall(said), IN_PLACE.findall(said)
    assert copied and in_place, said[-3000:]
    return float(copied[-1][2]), float(in_place[-1])


def redundant_again(client: Client, server: str) -> float:
    """Seconds from the powering off of a server until another instance of it is in step."""
    before = {each["instance"] for each in database(client)["members"]}
    began = time.monotonic()
    client.post(f"/servers/bench/{server}/power-off", {})
    in_step(client, before)
    seconds = time.monotonic() - began
    until(
        lambda: all(task["finished"] for task in client.get("/tasks")["tasks"]),
        "tasks to end",
        within_seconds=300,
        every_seconds=0.5,
    )
    primary, replica = both(client)
    wanted = sql(primary, "SELECT COUNT(*), MAX(id) FROM bench.t")
    assert sql(replica, "SELECT COUNT(*), MAX(id) FROM bench.t") == wanted
    return seconds


def in_step(client: Client, before: set[str]) -> None:
    """Until the mode is sync by a member that is not one of those."""

    def so() -> bool:
        seen = database(client)
        members = {each["instance"] for each in seen["members"]}
        return seen["mode"] == "sync" and len(members) == 2 and (not before or bool(members - before))

    until(so, "two members in step", within_seconds=300, every_seconds=0.1)


def database(client: Client) -> dict[str, Any]:
    return dict(client.get("/databases/bench"))


if __name__ == "__main__":
    main()
