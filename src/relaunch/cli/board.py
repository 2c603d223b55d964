"""The live board of a launch: one line per server and per image, what it does now, since when."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relaunch.cli.client import Client, part
from relaunch.cli.follow import ENDED
from relaunch.cli.servers import flat
from relaunch.cli.show import coloured, rows_of, since
from relaunch.errors import Failed, Unavailable

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

LOOK_SECONDS = 0.5
LOST_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Of the board. `seconds` is how long the task behind it has been going on, None when there is none."""

    name: str
    state: str
    doing: str
    seconds: float | None = None


def lines_of(
    servers: Sequence[Mapping[str, Any]], tasks: Sequence[Mapping[str, Any]], deployment: str
) -> tuple[Line, ...]:
    """What each server and everything else of the task is at, out of one look at the API. `tasks` have their steps."""
    by_subject: dict[str, Mapping[str, Any]] = {}
    for task in tasks:
        if task.get("state") not in ENDED or str(task.get("subject")) not in by_subject:
            by_subject[str(task.get("subject"))] = task
    lines = []
    for server in servers:
        subject = f"server:{deployment}/{server.get('name')}"
        lines.append(_line(str(server.get("name")), str(server.get("state")), by_subject.pop(subject, None)))
    others = [
        _line(_called(subject, task), str(task.get("state")), task)
        for subject, task in sorted(by_subject.items())
        if not subject.startswith(("deployment:", "server:"))
    ]
    return (*sorted(lines, key=lambda line: line.name), *others)


def watch(client: Client, task: str, deployment: str) -> dict[str, Any]:
    """Show the board until the task has ended, and return it; Failed when it did not succeed."""
    shown = _Shown()
    lost: float | None = None
    try:
        while True:
            try:
                found: dict[str, Any] = client.get(f"/tasks/{part(task)}")
                servers = [flat(row) for row in rows_of(client.get("/servers", deployment=deployment))]
                tasks = [found, *(client.get(f"/tasks/{part(str(child))}") for child in _unended(client, found))]
                shown.show(lines_of(servers, tasks, deployment))
                lost = None
            except Unavailable:
                lost = lost or time.monotonic()
                if time.monotonic() - lost > LOST_SECONDS:
                    raise
                found = {}
            if found.get("state") in ENDED:
                break
            time.sleep(LOOK_SECONDS)
    finally:
        shown.end()
    if found.get("state") != "succeeded":
        raise Failed(
            f"{found.get('title')} {found.get('state')}: {found.get('error') or 'no reason was given'}",
            hint=f"./relaunch task show {task}; ./relaunch server list; ./relaunch server log SERVER",
        )
    return found


def _unended(client: Client, task: Mapping[str, Any]) -> list[str]:
    """The ids of all tasks below this one that go on, and of those that go on beside it (an image being made)."""
    below = [str(child["id"]) for child in task.get("children") or [] if child.get("state") not in ENDED]
    running = [str(row["id"]) for row in rows_of(client.get("/tasks", state="running")) if row["id"] != task["id"]]
    return list(dict.fromkeys([*below, *running]))


def _called(subject: str, task: Mapping[str, Any]) -> str:
    """Images are named by a hash; their title ends in `TEMPLATE-HASH`, which says more."""
    kind, _, name = subject.partition(":")
    return f"image {str(task.get('title')).split()[-1].rpartition('-')[0] or name[:8]}" if kind == "image" else name


def _line(name: str, state: str, task: Mapping[str, Any] | None) -> Line:
    if task is None or task.get("state") in ENDED:
        return Line(name=name, state=state, doing=str((task or {}).get("error") or "").partition("\n")[0])
    steps = [step for step in task.get("steps") or [] if step.get("state") == "running"]
    step = steps[-1] if steps else {}
    doing = ": ".join(str(part) for part in (step.get("name"), step.get("detail")) if part) or str(task.get("title"))
    return Line(name=name, state=state, doing=doing, seconds=since(str(task.get("created"))))


class _Shown:
    """At a terminal a table that changes in place; elsewhere a line whenever something is at something else."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[str, str]] = {}
        self._began = time.monotonic()
        self._live: Live | None = None
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(auto_refresh=False, transient=False)
            self._live.start()

    def show(self, lines: Sequence[Line]) -> None:
        if self._live:
            self._live.update(_table(lines), refresh=True)
            return
        for line in lines:
            if self._before.get(line.name) != (line.state, line.doing):
                self._before[line.name] = (line.state, line.doing)
                state = line.state.replace("_", " ")
                print(f"{time.monotonic() - self._began:6.1f} s  {line.name:<16} {state:<12} {line.doing}", flush=True)

    def end(self) -> None:
        if self._live:
            self._live.stop()


def _table(lines: Sequence[Line]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for line in lines:
        seconds = "" if line.seconds is None else f"{line.seconds:.0f} s"
        table.add_row(f"[bold]{escape(line.name)}[/]", coloured(line.state), escape(line.doing[:100]), seconds)
    return table
