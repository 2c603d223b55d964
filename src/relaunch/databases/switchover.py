"""A planned switchover as a task: asked here, carried out by the watch, waited for.

A saga of steps that may be done twice.
"""

from __future__ import annotations

import asyncio
from typing import Any

from relaunch.databases.backup_catalogue import subject
from relaunch.databases.change import begin_promotion
from relaunch.databases.group import Change
from relaunch.databases.store import GroupStore, StoredGroup
from relaunch.errors import Conflict, Failed
from relaunch.servers.ports import Ports, Switchover
from relaunch.workflows.durable import Cancelled, Run, workflow

BEGIN_SECONDS = 10.0
DONE_SECONDS = 60.0
BACKUP_SECONDS = 120.0
FORCED_SECONDS = 600.0
LOOK_SECONDS, BACKUP_LOOK_SECONDS = 0.02, 0.2


@workflow("switchover")
async def switchover(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, to (an instance), server (its name), force (why whatever it lacks may be lost; "" for nothing
    to be lost)."""
    try:
        if args.get("force"):
            await run.step("fence the others", _force, run, args)
            await run.step(f"{args['server']} leads", _wait_until_it_leads, run.ports, args, waits=True)
        else:
            await run.step("let a backup end first", _wait_for_backup, run, args, waits=True)
            await run.step("switch over", _switch_over, run, args, waits=True)
    except Cancelled as error:
        with run.undoing():
            error.hint = await run.step("undo: see whether it has begun", _what_has_begun, run.ports, args)
        raise
    return {"primary": args["server"]}


async def _what_has_begun(ports: Ports, args: dict[str, Any]) -> str:
    """Of what is cancelled; it ends as it would have, within moments when nothing holds it up."""
    store, end = GroupStore(ports.database), asyncio.get_running_loop().time() + BEGIN_SECONDS
    while True:
        group = _group(store, args["deployment"]).group
        if group.change is None or not _leads_to(group.change, args["to"]):
            return f"it had begun: {args['server']} is the primary" if group.primary == args["to"] else ""
        if asyncio.get_running_loop().time() > end:
            return f"it has begun, and goes on: relaunch db status {args['deployment']} says what it waits for"
        await asyncio.sleep(LOOK_SECONDS)


def _leads_to(change: Change, to: str) -> bool:
    """Whether it was begun for this one to lead; by now another one may be to."""
    return change.forced == to or (change.kind == "switchover" and to in (change.candidate, change.old))


async def _wait_for_backup(run: Run, args: dict[str, Any]) -> str:
    """At its end a backup holds commits up, also those that the next primary has still to apply. One that takes longer
    than this is not waited for."""
    tasks, about = run.workflows.tasks, subject(args["deployment"])
    try:
        async with asyncio.timeout(BACKUP_SECONDS):
            waited = False
            while (busy := tasks.running_on(about)) is not None and busy["kind"] == "back-up":
                waited = True
                await asyncio.sleep(BACKUP_LOOK_SECONDS)
            return "waited for a backup" if waited else "none is being made"
    except TimeoutError:
        return f"one is being made still after {BACKUP_SECONDS:.0f} s: not waited for"


async def _switch_over(run: Run, args: dict[str, Any]) -> str:
    ports: Ports = run.ports
    store = GroupStore(ports.database)
    began = asyncio.get_running_loop().time()
    stored = _group(store, args["deployment"])
    if stored.group.primary == args["to"] and stored.group.change is None:
        return f"{args['server']} is the primary"
    change = stored.group.change  # of before the controller was killed
    begun = change is not None and _leads_to(change, args["to"])
    old = change.old if change is not None and begun else stored.group.primary
    asked = ports.switchovers[args["deployment"]] = Switchover(to=args["to"], who=run.who, begun=begun)
    try:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            group = _group(store, args["deployment"]).group
            if group.primary == args["to"] and group.change is None:
                return f"{args['server']} is the primary, epoch {group.epoch}"
            waited = asyncio.get_running_loop().time() - began
            if asked.begun and group.change is None:
                leads = "the old primary takes writes again" if group.primary == old else "another server leads"
                raise Failed(
                    f"the switchover was given up and {leads}",
                    hint=f"relaunch audit --subject database:{args['deployment']} tells why",
                )
            if asked.begun and waited > DONE_SECONDS:
                raise Failed(
                    f"{args['server']} takes no writes after {waited:.0f} s, and is still to",
                    hint=f"relaunch db status {args['deployment']} says what it waits for",
                )
            if not asked.begun and waited > BEGIN_SECONDS:
                raise Failed(
                    f"no switchover to {args['server']} has begun within {waited:.0f} s, and none will",
                    hint=f"relaunch audit --subject database:{args['deployment']} tells why",
                )
    finally:
        if ports.switchovers.get(args["deployment"]) is asked:
            del ports.switchovers[args["deployment"]]


def _force(run: Run, args: dict[str, Any]) -> None:
    store, now = GroupStore(run.ports.database), run.ports.steady.now().timestamp()
    for _ in range(20):
        stored = _group(store, args["deployment"])
        change = stored.group.change
        if stored.group.primary == args["to"] or (change is not None and change.forced == args["to"]):
            return
        if change is not None:
            raise Conflict(f"a {change.kind} of {args['deployment']} is under way")
        who = f"{run.who}: {args['force']}"
        try:
            store.put(stored, begin_promotion(stored.group, args["to"], now, who, FORCED_SECONDS))
        except Conflict:
            continue
        return
    raise Conflict(f"the group of {args['deployment']} keeps changing")


async def _wait_until_it_leads(ports: Ports, args: dict[str, Any]) -> str:
    store = GroupStore(ports.database)
    try:
        async with asyncio.timeout(FORCED_SECONDS):
            while True:
                group = _group(store, args["deployment"]).group
                if group.change is None:
                    if group.primary == args["to"]:
                        return f"{args['server']} is the primary, epoch {group.epoch}"
                    raise Failed(
                        "it was given up, and the old primary takes writes again",
                        hint=f"relaunch audit --subject database:{args['deployment']} tells why",
                    )
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        raise Failed(
            f"{args['server']} takes no writes after {FORCED_SECONDS:.0f} s, and is still to",
            hint=f"relaunch db status {args['deployment']} says what it waits for",
        ) from None


def _group(store: GroupStore, deployment: str) -> StoredGroup:
    found = store.group(deployment)
    if found is None:
        raise Conflict(f"deployment {deployment} has no database group")
    return found
