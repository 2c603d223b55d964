"""A group on servers of another size, while it serves: each replica is replaced by a fresh one, then the primary's role
moves to one of them, then what was the primary is replaced too. Whoever leads after a failover meanwhile is the last.

A saga: each step may be done twice. One replica at a time, and only while another one is in step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from relaunch.databases.resizing import changes, spec_of
from relaunch.databases.resizing_file import with_memory
from relaunch.databases.store import GroupStore, StoredGroup
from relaunch.errors import Conflict, Failed
from relaunch.servers.exclusion import refuse_beside
from relaunch.servers.launch import launchable
from relaunch.servers.lifecycle import State
from relaunch.servers.orders import Orders
from relaunch.servers.relaunch import succeeded
from relaunch.servers.store import Store, new_id
from relaunch.workflows.durable import Run, workflow
from relaunch.workflows.tasks import Asked

IN_STEP_SECONDS = 3600.0
LOOK_SECONDS = 0.25
LEADS = "it leads"


async def order_resize(orders: Orders, stored: StoredGroup, *, memory_bytes: int, who: str) -> dict[str, Any]:
    """{task, changes}. With the memory that they have already, all are replaced by fresh ones all the same."""
    spec, group = spec_of(orders, stored.deployment)
    _refuse(stored)
    subject = f"database:{stored.deployment}"
    refuse_beside(orders.store, orders.workflows.tasks, stored.deployment, "resize")
    text = with_memory(spec.source, group.members, memory_bytes)
    applied = await orders.apply(text, who=who) if text != spec.source else ""
    args = {
        "deployment": stored.deployment,
        "applied": applied,
        "members": sorted(group.members, key=lambda name: (name == _primary(stored), name in group.never_primary)),
        "fresh": {name: new_id() for name in group.members},
    }
    asked = Asked(kind="resize", title=f"resize the database of {stored.deployment}", subject=subject, who=who)
    task = f"resize-{new_id()}"
    refuse_beside(orders.store, orders.workflows.tasks, stored.deployment, "resize", besides=applied)
    await orders.workflows.start_workflow(asked, task, args)
    return {"task": task, "changes": changes(spec.source, text)}


@workflow("resize")
async def resize(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, applied (the task that changes the file, "" for none), members (names, first one that may lead,
    the primary last), fresh (name → the new instance's id)."""
    if args["applied"]:
        await run.step("change the file", succeeded, run, [args["applied"]], waits=True)
    left, renewed = list(args["members"]), list[str]()
    while len(left) > 1:
        name = left.pop(0)
        (renewed if await _renew(run, args, name) else left).append(name)
    last, moving = left[0], f"{run.task}-switchover"
    if await run.step("move the primary's role", _start_moving, run, args, moving, renewed, last):
        await run.step("wait for that", succeeded, run, [moving], waits=True)
    if not await _renew(run, args, last):
        raise Failed(f"{last} leads again, and is the only one that was not replaced", hint="order it again")
    return {"fresh": args["fresh"]}


async def _renew(run: Run, args: dict[str, Any], name: str) -> bool:
    """False when it leads by now: nothing was done to it."""
    child = f"{run.task}-{name}"
    server = f"{args['deployment']}/{name}"
    # An image may take minutes to be baked: first, so that what is looked at before the end is still so at the end.
    try:
        await launchable(run, {"server": server, "instance": args["fresh"][name], "inputs": {}})
    except Conflict:
        if await run.step(f"see whether {name} leads", _leads, run, args, name):
            return False
        raise
    if await run.step(f"replace {name} once it can be spared", _replace, run, args, name, child, waits=True) == LEADS:
        return False
    await run.step(f"wait until {name} is in step", _is_in_step, run, args, name, child, waits=True)
    return True


async def _replace(run: Run, args: dict[str, Any], name: str, child: str) -> str:
    server = f"{args['deployment']}/{name}"
    store, tasks = Store(run.ports.database, run.ports.clock), run.workflows.tasks

    def goes(stored: StoredGroup) -> bool:
        """One that failed is set aside with its data, not ended: it is left until a fresh one has taken its place."""
        instance = _instance(stored, name)
        if _primary(stored) == name:
            return True
        busy = tasks.running_on(f"server:{server}", besides=("run",)) is not None
        return bool(instance) and instance not in stored.group.fenced and not busy and stored.can_spare(instance)

    said = "begun before"
    if child not in tasks.children(run.task):
        why = f"no replica but {name} is in step, or {name} has failed and was not replaced,"
        said = await until(run, args["deployment"], goes, why)
        if _leads(run, args, name):
            return LEADS
    old = store.server(server).instance_id
    given = {"server": server, "old": old, "instance": args["fresh"][name], "inputs": {}, "spare_last": True}
    await run.start_child("relaunch", child, given, title=f"relaunch {server}", subject=f"server:{server}")
    return said


def _leads(run: Run, args: dict[str, Any], name: str) -> bool:
    return _primary(_group(GroupStore(run.ports.database), args["deployment"])) == name


async def _is_in_step(run: Run, args: dict[str, Any], name: str, child: str) -> str:
    await succeeded(run, [child])

    def in_step(stored: StoredGroup) -> bool:
        instance = _instance(stored, name)
        return stored.group.change is None and (stored.group.primary == instance or _follows(stored, instance))

    return await until(run, args["deployment"], in_step, f"{name} is not in step")


def _follows(stored: StoredGroup, instance: str) -> bool:
    """In step; one that is never to lead cannot be: its boot scripts, which are through, waited until it follows."""
    group, member = stored.group, stored.members.get(instance)
    if member is not None and member.never_leads:
        return member.state is State.OPERATIONAL and instance not in group.fenced
    return instance in group.sync_set - group.leaving


async def until(run: Run, deployment: str, is_so: Callable[[StoredGroup], bool], why: str) -> str:
    """Looks again and again, within a step that waits. Failed says why it is not so after an hour."""
    store = GroupStore(run.ports.database)
    end = asyncio.get_running_loop().time() + IN_STEP_SECONDS
    while asyncio.get_running_loop().time() < end:
        stored = _group(store, deployment)
        if is_so(stored):
            return f"epoch {stored.group.epoch}"
        await asyncio.sleep(LOOK_SECONDS)
    raise Failed(
        f"{why} after {IN_STEP_SECONDS / 60:g} minutes", hint="relaunch db status tells more; then order it again"
    )


async def _start_moving(run: Run, args: dict[str, Any], child: str, renewed: list[str], primary: str) -> bool:
    """Whether there is anything to wait for: somebody else may have moved it meanwhile."""
    stored = _group(GroupStore(run.ports.database), args["deployment"])
    leads = _primary(stored)
    if leads != primary and leads in args["members"]:
        return False
    may_lead = {each.name: each.id for each in stored.members.values() if not each.never_leads}
    name = next((each for each in renewed if each in may_lead), "")
    if not name:
        why = f"none of {', '.join(renewed)} is there and may lead"
        raise Failed(why, hint="relaunch db status tells more; then order it again")
    given = {"deployment": args["deployment"], "to": may_lead[name], "server": f"{args['deployment']}/{name}"}
    title = f"make {name} the primary of {args['deployment']}"
    await run.start_child("switchover", child, given, title=title, subject=f"switchover:{args['deployment']}")
    return True


def _refuse(stored: StoredGroup) -> None:
    group, name = stored.group, stored.deployment
    if group.primary is None or group.change is not None:
        raise Conflict(f"{name} has no primary that takes writes now", hint="relaunch db status")
    if group.paused:
        raise Conflict(f"{name} is paused: {group.paused}", hint=f"relaunch db resume {name}")
    if len(stored.in_step) < 2:
        raise Conflict(
            f"fewer than two replicas of {name} are in step: replacing one would leave the primary alone",
            hint=f"first: relaunch db add-replica {name}; afterwards it can be removed again",
        )


def _primary(stored: StoredGroup) -> str:
    member = stored.members.get(stored.group.primary or "")
    return member.name if member else ""


def _instance(stored: StoredGroup, name: str) -> str:
    return next((each.id for each in stored.members.values() if each.name == name), "")


def _group(store: GroupStore, deployment: str) -> StoredGroup:
    found = store.group(deployment)
    if found is None:
        raise Conflict(f"deployment {deployment} has no database group")
    return found
