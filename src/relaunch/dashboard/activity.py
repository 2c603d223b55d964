"""What a server is doing now, what it is for and what may be done with it, from its rows; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relaunch.dashboard.words import said
from relaunch.servers.lifecycle import TRANSITIONS, Event, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """`done` of `total` scripts ended, both 0 when it is not scripts; `since` is ISO text."""

    text: str = ""
    done: int = 0
    total: int = 0
    since: str | None = None
    bad: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunScript:
    """One script of a run and what became of it."""

    index: int
    name: str
    state: str  # waiting | running | succeeded | failed | cancelled | timed_out
    exit_status: int | None
    seconds: float
    output_bytes: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """A button; `event` is what the state table must allow, `harmless` when nothing running is lost."""

    name: str
    title: str
    what: str
    event: Event
    of_locked: bool = False
    harmless: bool = False


ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        Action(
            name="retry",
            title="Retry",
            what="Runs the boot scripts on from the one that failed. What succeeded is not run again.",
            event=Event.RETRY,
            of_locked=True,
            harmless=True,
        ),
        Action(
            name="relaunch",
            title="Relaunch",
            what="Replaces the instance by a new one of the same definition. What is only on its disk is lost.",
            event=Event.TERMINATE,
        ),
        Action(
            name="reboot",
            title="Reboot",
            what="Runs its decommission scripts, restarts the instance, then runs its boot scripts. Its disk is kept.",
            event=Event.REBOOTED,
        ),
        Action(
            name="set-aside",
            title="Set aside",
            what="Fences the instance off: it gets no more traffic and no orders, and keeps running for inspection.",
            event=Event.SET_ASIDE,
            of_locked=True,
        ),
        Action(
            name="terminate",
            title="Terminate",
            what="Runs its decommission scripts, shuts the instance down and removes its disk. The definition is kept.",
            event=Event.TERMINATE,
        ),
    )
}


def possible_actions(state: str, *, locked: bool) -> tuple[Action, ...]:
    """What the state table and the lock allow now, in the order of the buttons."""
    return tuple(
        action
        for action in ACTIONS.values()
        if (state, action.event) in TRANSITIONS and (action.of_locked or not locked)
    )


def scripts_of(order: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> tuple[RunScript, ...]:
    """The scripts of a run's order with their results; those without one are waiting."""
    by_index = {result.get("index"): result for result in results}
    return tuple(
        RunScript(
            index=index,
            name=str(script.get("name", f"script {index + 1}")),
            state=str(result.get("state", "waiting")),
            exit_status=result.get("exit_status"),
            seconds=float(result.get("seconds") or 0),
            output_bytes=int(result.get("output_bytes") or 0),
            detail=str(result.get("detail") or ""),
        )
        for index, script in enumerate(order.get("scripts") or ())
        for result in (by_index.get(index, {}),)
    )


def activity(
    state: str,
    *,
    run: Mapping[str, Any] | None,
    step: tuple[str, str] | None,
    stranded_why: str | None,
) -> Activity:
    """What to say of a server: its running script, else why it is stranded, else its task's step (name, started)."""
    if run is not None and run["state"] == "running":
        scripts = scripts_of(run["order"], run["results"])
        now = next((s for s in scripts if s.state == "running"), None)
        if now is None:
            now = next((s for s in scripts if s.state == "waiting"), None)
        if now is not None:
            text = f"{said(run['phase'])} script {now.index + 1}/{len(scripts)}: {now.name}"
            return Activity(text=text, done=now.index, total=len(scripts), since=run["created"])
    if state == State.STRANDED:
        failed = None
        if run is not None:
            scripts = scripts_of(run["order"], run["results"])
            failed = next((s for s in scripts if s.state in ("failed", "timed_out", "cancelled")), None)
        place = (
            f"{said(run['phase'])} script {failed.index + 1}/{len(scripts)}: {failed.name}" if failed and run else ""
        )
        why = stranded_why or (f"exit status {failed.exit_status}" if failed else "a boot script failed")
        return Activity(text=f"{place} — {why}" if place and place not in why else why, bad=True)
    if step is not None:
        return Activity(text=step[0], since=step[1])
    return Activity(text="waiting for the cloud") if state == State.PENDING else Activity()


def roles(
    *, server_id: str, name: str, template: str, tags: Mapping[str, str], spec: Mapping[str, Any], primary: str | None
) -> tuple[str, ...]:
    """What a server is for: its place in the database group, then what its tags and template say."""
    database = spec.get("database") or {}
    found: list[str] = []
    if primary is not None and primary == server_id:
        found.append("primary")
    elif name == database.get("primary") and primary is None:
        found.append("primary to be")
    elif name in (database.get("replicas") or ()) or name == database.get("primary"):
        found.append("replica")
    if "front-end" in template:
        found.append("front end")
    if "app" in tags:
        found.append("app")
    return tuple(found)
