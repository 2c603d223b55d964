"""A controller of the benches' own, apart from everything else on the machine, and what each bench measures with.

State in /var/tmp/relaunch-bench (base image and baked layers stay there between benches, so that the second is quick);
`python bench/rehearsal.py --purge` removes all of it. Two benches at once need different numbers: with
RELAUNCH_BENCH_NUMBER=1 state, network, bridge and ports are others. RELAUNCH_BENCH_STATE names another folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "src"))

from relaunch.cli.client import Client, find_controller  # noqa: E402
from relaunch.clouds.local import cgroups  # noqa: E402

NUMBER = int(os.environ.get("RELAUNCH_BENCH_NUMBER", "0"))  # up to 5
STATE = Path(os.environ.get("RELAUNCH_BENCH_STATE", f"/var/tmp/relaunch-bench{NUMBER or ''}"))
SETTINGS = f"""network = "198.19.{64 + 32 * NUMBER}.0/20"
bridge = "rlbench{NUMBER}"
api_port = {7543 + 100 * NUMBER}
bus_port = {7522 + 100 * NUMBER}
"""
ENVIRONMENT = {**os.environ, "RELAUNCH_STATE": str(STATE)}
T = TypeVar("T")
UNVERIFIED = ssl._create_unverified_context()


@contextmanager
def controller(*, keep_running: bool = False) -> Iterator[Client]:
    """A healthy controller on the benches' state folder; instances of earlier, broken benches are destroyed first."""
    STATE.mkdir(parents=True, exist_ok=True)
    if not (STATE / "controller.toml").exists():  # one with a bridge of its own can run beside
        (STATE / "controller.toml").write_text(SETTINGS)
    relaunch("controller", "start")
    try:
        client = Client(find_controller(ENVIRONMENT))
        for task in client.get("/tasks")["tasks"]:
            if task["finished"] is None:
                client.post(f"/tasks/{task['id']}/cancel", {})
        until(
            lambda: all(task["finished"] for task in client.get("/tasks")["tasks"]),
            "the tasks of a broken bench to end",
            within_seconds=120,
            every_seconds=0.2,
        )
        for left in client.get("/deployments")["deployments"]:
            destroy(client, left["name"])
        yield client
        for left in client.get("/deployments")["deployments"]:
            destroy(client, left["name"])
    finally:
        if not keep_running:
            relaunch("demo", "--stop")


def relaunch(*words: str, given: str = "") -> str:
    """What `command_line` says; CalledProcessError when it fails."""
    done = command_line(*words, given=given)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        done.check_returncode()
    return done.stdout


def command_line(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """By the benches' own controller; what it says and complains of is one text. `given`: to its standard input."""
    return subprocess.run(
        [sys.executable, "-m", "relaunch.cli.main", *words],
        env={**ENVIRONMENT, "PYTHONPATH": str(PROJECT / "src")},
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )


def controller_pid() -> int:
    return int((STATE / "controller.lock").read_text())


def agent_of(client: Client, server: str, *, deployment: str = "shop") -> int:
    """The host's number of that server's agent."""
    cloud_id = str(client.get(f"/servers/{deployment}/{server}")["cloud_id"])
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            group = cgroups.group_of(int(folder.name))
            if group is not None and cloud_id in str(group) and _is_agent(folder):
                return int(folder.name)
    raise RuntimeError(f"no agent of {server} ({cloud_id})")


def _is_agent(process: Path) -> bool:
    """Not what it forked to run a script: that has its command line too, any number, and outlives it."""
    words, complaints = (process / "cmdline").read_text().split("\0"), (process / "fd/2").readlink()
    return any(word.endswith("/relaunch-agent.pyz") for word in words) and not complaints.name.startswith("runner.err")


def apply(client: Client, text: str) -> str:
    """Begin to make it so; the task's id."""
    return str(client.post("/deployments", {"source": text, "yes": True})["task"]["id"])


def destroy(client: Client, name: str) -> None:
    """Once nothing else is under way for it: a replica that is being replaced, say."""
    until(
        lambda: all(task["finished"] for task in client.get("/tasks")["tasks"]),
        f"the tasks of {name} to end",
        within_seconds=300,
        every_seconds=0.2,
    )
    finished(client, str(client.delete(f"/deployments/{name}?yes=true")["task"]["id"]))


def finished(client: Client, task: str, *, within_seconds: float = 900) -> dict[str, Any]:
    """The task once it has succeeded; RuntimeError with its error when it did not."""

    def ended() -> dict[str, Any] | None:
        seen: dict[str, Any] = client.get(f"/tasks/{task}")
        return seen if seen["state"] in ("succeeded", "failed", "cancelled") else None

    seen = until(ended, f"task {task} to end", within_seconds=within_seconds, every_seconds=0.05)
    if seen["state"] != "succeeded":
        raise RuntimeError(f"task {task} {seen['state']}: {seen['error']}")
    return seen


def until(ask: Callable[[], T | None], what: str, *, within_seconds: float, every_seconds: float) -> T:
    """What `ask` answers once it answers something; TimeoutError names what was waited for."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        answer = ask()
        if answer:
            return answer
        time.sleep(every_seconds)
    raise TimeoutError(f"waited {within_seconds} s in vain for {what}")


def servers(client: Client, deployment: str) -> list[dict[str, Any]]:
    return list(client.get("/servers", deployment=deployment)["servers"])


def answers_200(address: str, path: str = "/") -> bool:
    """Whether Apache → HAProxy → app answer on that address with 200."""
    try:
        with urllib.request.urlopen(f"https://{address}{path}", timeout=5, context=UNVERIFIED) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured thing. `limit` in the same unit; None when there is nothing to hold it against."""

    name: str
    unit: str
    values: Sequence[float]
    limit: float | None = None
    at_least: bool = False  # the limit is one from below

    def plain(self) -> dict[str, Any]:
        median = statistics.median(self.values)
        return {
            "name": self.name,
            "unit": self.unit,
            "median": round(median, 3),
            "min": round(min(self.values), 3),
            "max": round(max(self.values), 3),
            "runs": len(self.values),
            "limit": self.limit,
            "met": None if self.limit is None else median >= self.limit if self.at_least else median <= self.limit,
        }


def missed(figures: Sequence[Figure]) -> bool:
    """Whether one of them does not keep its limit."""
    return any(figure.plain()["met"] is False for figure in figures)


def report(title: str, figures: Sequence[Figure], **facts: object) -> None:
    """A table for people, then one line of JSON; exit status 1 when a limit is missed."""
    rows = [figure.plain() for figure in figures]
    print(f"\n{title}")
    print(f"{'':44} {'median':>9} {'min':>9} {'max':>9} {'runs':>5} {'limit':>8}")
    for row, figure in zip(rows, figures, strict=True):
        verdict = "" if row["met"] is None else ("  met" if row["met"] else "  MISSED")
        limit = "" if row["limit"] is None else f"≥ {row['limit']}" if figure.at_least else row["limit"]
        print(
            f"{row['name']:<44} {row['median']:>9} {row['min']:>9} {row['max']:>9} {row['runs']:>5} {limit:>8} "
            f"{row['unit']}{verdict}"
        )
    print(json.dumps({"title": title, "figures": rows, **facts}))
    if missed(figures):
        raise SystemExit(1)


if __name__ == "__main__" and "--purge" in sys.argv:
    relaunch("demo", "--stop", "--purge")
