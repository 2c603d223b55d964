"""A planned switchover as a task: asked here, carried out by the watch, waited for.

A saga of one step that may be done twice.
"""

from __future__ import annotations

import asyncio
from typing import Any

from relaunch.databases.store import GroupStore, StoredGroup
from relaunch.errors import Conflict, Failed
from relaunch.servers.ports import Ports, Switchover
from relaunch.workflows.durable import Run, workflow

BEGIN_SECONDS = 10.0
DONE_SECONDS = 60.0
LOOK_SECONDS = 0.02


@workflow("switchover")
async def switchover(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, to (an instance), server (its name)."""
    await run.step("switch over", _switch_over, run, args, waits=True)
    return {"primary": args["server"]}


async def _switch_over(run: Run, args: dict[str, Any]) -> str:
    ports: Ports = run.ports
    store = GroupStore(ports.database)
    began = asyncio.get_running_loop().time()
    stored = _group(store, args["deployment"])
    if stored.group.primary == args["to"] and stored.group.change is None:
        return f"{args['server']} is the primary"
    old = stored.group.primary
    asked = ports.switchovers[args["deployment"]] = Switchover(to=args["to"], who=run.who)
    try:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            group = _group(store, args["deployment"]).group
            if group.primary == args["to"] and group.change is None:
                return f"{args['server']} is the primary, epoch {group.epoch}"
            waited = asyncio.get_running_loop().time() - began
            if asked.begun and group.change is None and group.primary == old:
                raise Failed(
                    "the switchover was given up and the old primary takes writes again",
                    hint=f"relaunch audit --subject database:{args['deployment']} tells why",
                )
            if waited > (DONE_SECONDS if asked.begun else BEGIN_SECONDS):
                raise Failed(f"no switchover to {args['server']} after {waited:.0f} s")
    finally:
        if ports.switchovers.get(args["deployment"]) is asked:
            del ports.switchovers[args["deployment"]]


def _group(store: GroupStore, deployment: str) -> StoredGroup:
    found = store.group(deployment)
    if found is None:
        raise Conflict(f"deployment {deployment} has no database group")
    return found
