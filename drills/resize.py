"""A group brought to servers of another size while four writers go on: what do they notice, and is anything lost?

    sudo python drills/resize.py [--dialect mysql] [--memory 640M]

A real site (front end, primary, two replicas, durability strict) as bench/failover.py makes it. Prints the longest time
without an acknowledged write and one JSON line; exit status 1 when a write was lost, when a server was not replaced or
is not of that size, or when nothing is written any more.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import rehearsal
from failover import PASSWORD, TEMPLATES, Gets, Group, acks, deployment, writers
from rehearsal import STATE
from rigs import missing, writes_again

from relaunch.servers.sizes import parse_size


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", default="640M")
    parser.add_argument("--dialect", choices=sorted(TEMPLATES), default="mariadb")
    args = parser.parse_args()
    with rehearsal.controller() as client:
        client.put("/credentials/DB_PASSWORD", {"value": PASSWORD})
        rehearsal.finished(client, rehearsal.apply(client, deployment(args.dialect)))
        group = Group(client)
        group.wait_redundant()
        before = {each["name"]: each["instance"] for each in group.shown()["members"]}
        front_end = str(client.get("/servers/shop/front1")["private_address"])
        with writers(client, "resize") as out, Gets(front_end) as gets:
            print(rehearsal.relaunch("db", "resize", "shop", "--memory", args.memory, "--yes"), file=sys.stderr)
            goes_on = writes_again(out)
        group.wait_redundant()
        members = group.shown()["members"]
        after = {each["name"]: each["instance"] for each in members}
        other = [each["name"] for each in members if memory_of(group.cloud_id(each)) != parse_size(args.memory)]
        given = acks(out)
        lost = len(missing(client, "resize", given))
    kept = sorted(name for name in before if after.get(name) == before[name])
    moments = [ack.moment for ack in given]
    longest = max(later - earlier for earlier, later in itertools.pairwise(moments))
    print(f"{len(given)} writes acknowledged in {moments[-1] - moments[0]:.0f} s, none for {longest:.2f} s at most")
    report = {
        "acknowledged": len(given),
        "lost": lost,
        "longest_seconds": round(longest, 3),
        "not_replaced": kept,
        "of_another_size": other,
        "goes_on": goes_on,
    }
    print(json.dumps({**report, "gets": gets.asked, "failed_gets": gets.failed}))
    if lost or kept or other or not goes_on:
        raise SystemExit(1)


def memory_of(cloud_id: str) -> int | None:
    """The bytes it was launched with, by the local cloud's own record."""
    record = STATE / "local-cloud" / "instances" / cloud_id / "instance.json"
    found: int | None = json.loads(record.read_text())["memory_bytes"]
    return found


if __name__ == "__main__":
    main()
