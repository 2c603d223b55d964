"""Controller and servers are gone with their disks: does the manual bring the data back from a store elsewhere?

    sudo python drills/controller_lost.py [--dialect mysql]

A real site (front end, primary, two replicas, durability strict) whose backups go to an S3 of the drill's own, in a
network namespace of its own. Four writers go on until the database servers lose their power; then everything but the
store and what the manual says to keep in a safe is removed, a controller is started as on a new machine, and the lines
of docs/do/backups.md ("The controller is gone, with its disk") are given to the command line. Prints what was lost and
one JSON line; exit status 1 when a write is missing that was older than the five seconds in which binary logs are
shipped, or when the site does not write again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
os.environ["RELAUNCH_BENCH_STATE"] = "/var/tmp/relaunch-drill-lost"  # all of it is removed, twice

import rehearsal
from failover import PASSWORD, TEMPLATES, Ack, Group, acks, deployment, writers
from rehearsal import ENVIRONMENT, SETTINGS, STATE, answers_200, command_line, until
from rigs import missing, writes_again

from relaunch.cli.client import Client, find_controller
from relaunch.errors import Conflict
from relaunch.storage.rclone import rclone

STORE_NAMESPACE, STORE_CABLE = "rldrillstore", "rldrillstore0"
STORE_GATEWAY, STORE_ADDRESS, STORE_PORT = "198.19.250.1", "198.19.250.2", 9000
BUCKET = "our-backups"
ACCESS_KEY, SECRET_KEY = "drill", "drill-key-of-no-worth"
SHIPPED_WITHIN_SECONDS = 5.0
WRITE_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Safe:
    """What the manual says to keep."""

    deployment_file: str
    settings: str
    backup_key: str


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dialect", choices=sorted(TEMPLATES), default="mariadb")
    args = parser.parse_args()
    purge()
    with tempfile.TemporaryDirectory(prefix="relaunch-drill-") as folder, store(Path(folder)):
        try:
            report = drilled(args.dialect, Path(folder))
        finally:
            purge()
    print(json.dumps({"dialect": args.dialect, **report}))
    if report["lost_though_older"] or not report["goes_on"] or not report["site_answers"]:
        raise SystemExit(1)


def drilled(dialect: str, outside: Path) -> dict[str, Any]:
    """`outside`: a folder that survives."""
    first_controller()
    safe, given = written(deployment(dialect), outside)
    purge()
    told("controller and servers are gone, with their disks")
    began = time.monotonic()
    history = brought_back(safe)
    seconds = time.monotonic() - began
    client = Client(find_controller(ENVIRONMENT))
    lost = [ack.moment for ack in missing(client, "lost", given)]
    end = given[-1].moment
    with writers(client, "afterwards") as out:
        goes_on = writes_again(out)
    answers = answers_200(str(client.get("/servers/shop/front1")["private_address"]))
    Group(client).wait_redundant()
    told(
        f"{len(given)} writes acknowledged, {len(lost)} of them lost, the oldest "
        f"{end - min(lost, default=end):.1f} s before the end; back in {seconds:.0f} s"
    )
    return {
        "acknowledged": len(given),
        "lost": len(lost),
        "lost_seconds": round(end - min(lost, default=end), 2),
        "lost_though_older": sum(moment < end - SHIPPED_WITHIN_SECONDS for moment in lost),
        "restored_history": history,
        "seconds": round(seconds),
        "goes_on": goes_on,
        "site_answers": answers,
    }


def first_controller() -> None:
    """As the manual has it under "Where they go"."""
    STATE.mkdir(parents=True)
    (STATE / "controller.toml").write_text(SETTINGS)
    say("controller", "start")
    keys()
    with (STATE / "controller.toml").open("a") as settings:
        settings.write(f'store_endpoint = "http://{STORE_ADDRESS}:{STORE_PORT}"\nstore_bucket = "{BUCKET}"\n')
    again()


def written(text: str, outside: Path) -> tuple[Safe, list[Ack]]:
    """A backup that was proven, and writes until the power goes: what is kept, and what was acknowledged."""
    say("credential", "set", "DB_PASSWORD", given=PASSWORD)
    file = outside / "shop.yml"
    file.write_text(text)
    say("apply", str(file), "--yes")
    client = Client(find_controller(ENVIRONMENT))
    group = Group(client)
    group.wait_redundant()
    until(
        lambda: client.get("/databases/shop/backups")["newest_proven"],
        "a backup that is proven",
        within_seconds=600,
        every_seconds=1,
    )
    with writers(client, "lost") as out:
        time.sleep(WRITE_SECONDS)
        members = group.shown()["members"]
        safe = Safe(
            deployment_file=text,
            settings=(STATE / "controller.toml").read_text(),
            backup_key=say("db", "backup-key", "shop"),
        )
        tasks = [group.act(member, "power-off") for member in members]
        for task in tasks:
            rehearsal.finished(client, task)
    return safe, acks(out)


def brought_back(safe: Safe) -> str:
    """The manual's lines; the id of the history that was restored."""
    STATE.mkdir(parents=True)
    (STATE / "controller.toml").write_text(SETTINGS)
    say("controller", "start")
    say("credential", "set", "BACKUP_KEY", given=safe.backup_key)
    say("credential", "set", "DB_PASSWORD", given=PASSWORD)
    keys()
    (STATE / "controller.toml").write_text(safe.settings)
    again()
    file = STATE / "shop.yml"
    file.write_text(safe.deployment_file)
    say("apply", str(file), "--yes")
    told("relaunch db backups shop")
    listed = command_line("db", "backups", "shop").stdout  # red, as nothing of the new group is proven yet
    found = re.search(r"^older history (\S+) of data", listed, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"the older history is not listed:\n{listed}")
    until(lambda: restored(found[1]), "the new group's first backup", within_seconds=600, every_seconds=5)
    return found[1]


def restored(history: str) -> bool:
    """False while the restore is refused as something else is under way."""
    words = ("db", "restore", "shop", "--lineage", history, "--confirm", "shop")
    told("relaunch " + " ".join(words))
    done = command_line(*words)
    if done.returncode == Conflict.exit_status and "is under way" in done.stdout:
        return False
    if done.returncode:
        raise RuntimeError(f"the restore ended with status {done.returncode}:\n{done.stdout}")
    return True


def keys() -> None:
    say("credential", "set", "BACKUP_STORE_ACCESS_KEY", given=ACCESS_KEY)
    say("credential", "set", "BACKUP_STORE_SECRET_KEY", given=SECRET_KEY)


def again() -> None:
    say("controller", "stop")
    say("controller", "start")


def say(*words: str, given: str = "") -> str:
    told("relaunch " + " ".join(words))
    return rehearsal.relaunch(*words, given=given)


def told(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def purge() -> None:
    """Controller, servers and every file of theirs."""
    if STATE.exists():
        rehearsal.relaunch("demo", "--stop", "--purge")
        shutil.rmtree(STATE, ignore_errors=True)


@contextlib.contextmanager
def store(folder: Path) -> Iterator[None]:
    """An S3 in a network namespace of its own: instances reach it as they would one on the internet."""
    (folder / "store" / BUCKET).mkdir(parents=True)
    process = None
    take_down()  # of a drill that was killed
    try:
        for words in (
            f"ip netns add {STORE_NAMESPACE}",
            f"ip link add {STORE_CABLE} type veth peer name eth0 netns {STORE_NAMESPACE}",
            f"ip address add {STORE_GATEWAY}/30 dev {STORE_CABLE}",
            f"ip link set {STORE_CABLE} up",
            f"ip -n {STORE_NAMESPACE} address add {STORE_ADDRESS}/30 dev eth0",
            f"ip -n {STORE_NAMESPACE} link set eth0 up",
            f"ip -n {STORE_NAMESPACE} link set lo up",
            f"sysctl --quiet net.ipv4.conf.{STORE_CABLE}.forwarding=1",  # else the answers reach no instance
        ):
            subprocess.run(words.split(), check=True)
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "TERM"),
                *("ip", "netns", "exec", STORE_NAMESPACE, rclone(), "serve", "s3", str(folder / "store")),
                *("--addr", f"{STORE_ADDRESS}:{STORE_PORT}", "--dir-cache-time", "2s", "--etag-hash", ""),
                *("--no-checksum", "--config", "/nonexistent/rclone.conf"),
            ],
            env={**os.environ, "RCLONE_AUTH_KEY": f'"{ACCESS_KEY},{SECRET_KEY}"', "GOMEMLIMIT": "128MiB"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        yield
    finally:
        if process is not None:
            process.terminate()
            process.wait(30)
        take_down()


def take_down() -> None:
    for words in (f"ip link delete {STORE_CABLE}", f"ip netns delete {STORE_NAMESPACE}"):
        subprocess.run(words.split(), check=False, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
