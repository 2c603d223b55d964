"""Replacing a database server that failed: it is set aside with its data, and a fresh one takes its place.

A saga: each step may be done twice.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from relaunch.bus.messages import Retire, TakeRole
from relaunch.clouds.cloud import InstanceId, InstanceState
from relaunch.databases.extra_transactions import start_reading
from relaunch.databases.group import Page
from relaunch.databases.store import GroupStore, StoredGroup, StoredMember
from relaunch.errors import RelaunchError
from relaunch.servers.lifecycle import State
from relaunch.servers.ports import Ports
from relaunch.servers.relaunch import start_launch, succeeded
from relaunch.servers.server_orders import retry_args
from relaunch.servers.store import Store, new_id
from relaunch.servers.terminate import refuse_leader
from relaunch.workflows.durable import Run, Workflows, workflow
from relaunch.workflows.tasks import WHO, Asked

log = logging.getLogger("relaunch.databases")

KEPT_ASIDE = timedelta(days=1)
AGAIN_AFTER = timedelta(minutes=15)  # what has failed and costs a server, or ends one
RECONNECT_SECONDS = 10.0
TRIES = 3  # of a fresh server's launch, at once


async def replace_member(workflows: Workflows, server: str, instance: str, now: datetime) -> None:
    """Start the replacing of that instance, unless something is being done to its server, or it has just failed."""
    task = _next_try(workflows, f"replace-{instance}", now)
    if task is None or workflows.tasks.running_on(f"server:{server}") is not None:
        return
    asked = Asked(kind="replace", title=f"replace {server}", subject=f"server:{server}", who=WHO)
    await workflows.start_workflow(asked, task, {"server": server, "old": instance, "instance": new_id()})


async def launch_missing(workflows: Workflows, stored: StoredGroup, now: datetime) -> None:
    """A member without an instance, whose replacing gave up: try again, a few times at once, then now and then."""
    for server in stored.empty:
        if not stored.group.initialised or workflows.tasks.running_on(f"server:{server}") is not None:
            continue
        if workflows.tasks.running_on(f"deployment:{stored.deployment}") is not None:
            continue
        task = _next_try(workflows, _refill(stored, server), now)
        if task is not None:
            asked = Asked(kind="refill", title=f"launch {server} again", subject=f"server:{server}", who=WHO)
            await workflows.start_workflow(asked, task, {"server": server, "instance": new_id()})


async def retry_unjoined(
    workflows: Workflows, ports: Ports, stored: StoredGroup, heard: Collection[str], now: datetime
) -> None:
    """A member that stranded before it had the group's data: its boot scripts again, as often as launch_missing."""
    for member in _unjoined(stored, heard):
        if not ports.agents.connected(member.id):  # it would be waited for
            continue
        if not stored.group.initialised or workflows.tasks.running_on(f"server:{member.server}") is not None:
            continue
        if workflows.tasks.running_on(f"deployment:{stored.deployment}") is not None:
            continue
        task = _next_try(workflows, _rejoin(member), now)
        if task is not None:
            subject = f"server:{member.server}"
            asked = Asked(kind="retry", title=f"let {member.server} join again", subject=subject, who=WHO)
            args = retry_args(Store(ports.database, ports.clock), member.server, member.id)
            await workflows.start_workflow(asked, task, args)


def _unjoined(stored: StoredGroup, heard: Collection[str]) -> list[StoredMember]:
    """Stranded, and never one of the group: the agent of one that is reports its database. `heard`: ids of those."""
    group = stored.group
    joined = {*heard, *group.sync_set, *group.leaving, *group.left, *group.fenced, group.primary}
    return [each for each in stored.members.values() if each.state is State.STRANDED and each.id not in joined]


def unlaunched(workflows: Workflows, stored: StoredGroup, heard: Collection[str]) -> tuple[Page, ...]:
    """A page for each server that has none, or has no data, because that failed too often to be tried again at once."""
    missing = [("not launched", "be launched", server, _refill(stored, server)) for server in stored.empty]
    fenced = [each for each in stored.members.values() if each.id in stored.group.fenced]
    missing += [("not replaced", "be replaced", each.server, f"replace-{each.id}") for each in fenced]
    missing += [("not joined", "join", each.server, _rejoin(each)) for each in _unjoined(stored, heard)]
    found = []
    for rule, what, server, tried in missing:
        tries = workflows.tasks.tries(tried)
        if _failed_last(tries) < TRIES or tries[-1]["finished"] is None:
            continue
        every, task = int(AGAIN_AFTER.total_seconds() / 60), tries[-1]["id"]
        text = f"{server} could not {what}: {tries[-1]['error']}. It is tried again every {every} minutes; {task}"
        found.append(Page(rule=rule, text=f"{text} tells more (relaunch task show)."))
    return tuple(found)


def _rejoin(member: StoredMember) -> str:
    return f"rejoin-{member.id}"


def _refill(stored: StoredGroup, server: str) -> str:
    return f"refill-{stored.deployment_id}-{server}"


def _next_try(workflows: Workflows, what: str, now: datetime) -> str | None:
    """The id of the next task; None while one is under way, or when it has failed too often and just again."""
    tries = workflows.tasks.tries(what)
    if not tries:
        return f"{what}-1"
    finished = tries[-1]["finished"]
    if finished is None:
        return None
    if _failed_last(tries) >= TRIES and abs(now.astimezone(UTC) - datetime.fromisoformat(finished)) < AGAIN_AFTER:
        return None
    return f"{what}-{int(tries[-1]['id'].rpartition('-')[2]) + 1}"


def _failed_last(tries: Sequence[Mapping[str, Any]]) -> int:
    """How many of the last ones in a row."""
    return len(list(itertools.takewhile(lambda row: row["state"] != "succeeded", reversed(tries))))


@workflow("replace")
async def replace(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: server (deployment/name), old (the instance that failed), instance (the fresh one's id)."""
    ports: Ports = run.ports
    aside = f"{run.task}-aside"
    fresh = f"{run.task}-launch"
    await run.step("say until when the old one is kept", _keep, ports, args["old"])
    await run.step("set it aside", _set_aside, run, args, aside)
    await run.step("wait for that", succeeded, run, [aside], waits=True)
    await run.step("part with it", _release, ports, args["server"])
    await run.step("launch a fresh one", start_launch, run, fresh, args["server"], args["instance"], {})
    if await run.step("let the old one be inspected", _let_be_inspected, ports, args):
        reading = f"{run.task}-extra"
        await run.step("read what it alone has", start_reading, run, reading, args["server"], args["old"], run.task)
        await run.step("wait for that", run.wait_for, [reading], waits=True)
    await run.step("end its agent", _retire, ports, args["old"])
    await run.step("wait for the fresh one to boot", succeeded, run, [fresh], waits=True)
    return {"server": args["server"], "instance": args["instance"]}


@workflow("refill")
async def refill(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: server, instance."""
    fresh = f"{run.task}-launch"
    await run.step("part with an incarnation set aside", _release, run.ports, args["server"])
    await run.step("launch a fresh one", start_launch, run, fresh, args["server"], args["instance"], {})
    await run.step("wait for it to boot", succeeded, run, [fresh], waits=True)
    return {"server": args["server"], "instance": args["instance"]}


async def _set_aside(run: Run, args: dict[str, Any], child: str) -> None:
    await run.start_child(
        "set-aside",
        child,
        {"instance": args["old"], "keep_agent": True},
        title=f"set aside {args['server']}",
        subject=f"server:{args['server']}",
    )


async def _let_be_inspected(ports: Ports, args: dict[str, Any]) -> bool:
    """Cut off until now; from now on reachable from the host alone, and fenced. Whether its agent is there."""
    store = Store(ports.database, ports.clock)
    cloud_id = store.instance(args["old"])["cloud_id"]
    stored = GroupStore(ports.database).group(args["server"].partition("/")[0])
    if cloud_id is None or stored is None:
        return False
    try:
        await ports.cloud.cut_off(InstanceId(cloud_id), False)
        if (await ports.cloud.instance(InstanceId(cloud_id))).state is not InstanceState.RUNNING:
            return False
        await ports.agents.wait_connected(args["old"], timeout_seconds=RECONNECT_SECONDS)
    except RelaunchError as error:
        log.warning("what was %s cannot be reached: %s", args["server"], error.message)
        return False
    try:
        await ports.agents.take_role(args["old"], TakeRole(epoch=stored.group.epoch, role="fenced"))
    except RelaunchError as error:
        log.warning("what was %s is not fenced by its agent: %s", args["server"], error.message)
    return True


async def _retire(ports: Ports, instance: str) -> str:
    """Its agent is gone for good: no order of later reaches what it was. The time that it is kept begins now, as it may
    have been read for long, or the controller been away."""
    GroupStore(ports.database).set_aside_until(instance, ports.clock.now() + KEPT_ASIDE)
    try:
        await ports.agents.order(instance, Retire(reason="set aside"))
    except RelaunchError as error:
        return f"its agent was not told: {error.message}"
    return "told"


def _release(ports: Ports, server: str) -> None:
    """Its incarnation that is set aside is not the server's any more."""
    store = Store(ports.database, ports.clock)
    instance = store.server(server).instance_id
    if instance is not None and store.instance(instance)["state"] == State.SET_ASIDE:
        store.release_server(instance)


def _keep(ports: Ports, instance: str) -> None:
    refuse_leader(Store(ports.database, ports.clock), instance)
    GroupStore(ports.database).set_aside_until(instance, ports.clock.now() + KEPT_ASIDE)


def next_ending(workflows: Workflows, instance: str, now: datetime) -> str | None:
    """The id of the next try to end it; None while one is under way or has just failed."""
    first = f"end-aside-{instance}"
    if workflows.tasks.running_on(f"instance:{instance}") is not None:
        return None  # as the reading of what it alone has
    tried = workflows.tasks.count(first)
    if not tried:
        return first
    last = workflows.tasks.get(first if tried == 1 else f"{first}-{tried}")
    finished = last["finished"]
    if finished is None or now.astimezone(UTC) - datetime.fromisoformat(finished) < AGAIN_AFTER:
        return None
    return f"{first}-{tried + 1}"


async def end_those_kept_long_enough(workflows: Workflows, stored: StoredGroup, now: datetime) -> None:
    """Terminate what was set aside once its time is over."""
    for aside in stored.asides:
        if aside.until is None or datetime.fromisoformat(aside.until) > now.astimezone(UTC):
            continue
        task = next_ending(workflows, aside.id, now)
        on_its_server = workflows.tasks.running_on(f"server:{aside.server}")
        if task is None or (on_its_server is not None and on_its_server["kind"] == "replace"):
            continue
        title = f"terminate what was {aside.server}"
        asked = Asked(kind="terminate", title=title, subject=f"instance:{aside.id}", who=WHO)
        args = {"instance": aside.id, "why": "replaced", "run_id": f"{aside.id}-down"}
        await workflows.start_workflow(asked, task, args)
