"""What a server that was set aside has in its binary log and nobody else has: read, kept, told; never applied.

A saga: each step may be done twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.engine import Engine

from relaunch.bus.messages import Retire, TakeRole
from relaunch.clouds.cloud import InstanceId, InstanceState
from relaunch.databases.group import Page
from relaunch.databases.member_scripts import answer_of, script_of
from relaunch.databases.store import Aside, GroupStore, StoredGroup
from relaunch.errors import Conflict, Failed, NotFound, RelaunchError
from relaunch.records.schema import audit, tasks
from relaunch.servers.ports import Ports
from relaunch.servers.store import Store, new_id
from relaunch.servers.store import now as now_text
from relaunch.workflows.durable import Run, Workflows, workflow
from relaunch.workflows.tasks import ENDED, Asked

log = logging.getLogger("relaunch.databases")

KIND = "extra-transactions"
SCRIPT = "Extra transactions"
PRIMARY_SECONDS = 120.0
CONNECT_SECONDS = 120.0
LOOK_SECONDS = 0.2


async def order_reading(ports: Ports, workflows: Workflows, stored: StoredGroup, aside: Aside, *, who: str) -> str:
    """The task: read it again, or for the first time when it did not run before; it is started for that. Conflict when
    it was read, though not to its end: its agent went for good with that."""
    running = workflows.tasks.running_on(f"instance:{aside.id}")
    if running is not None:
        raise Conflict(f"task {running['id']} is under way: {running['title']}", hint="wait for it, or cancel it")
    last = last_reading(ports.database, aside.id)
    if last is not None and last["state"] == "succeeded":
        until = f" before {aside.until}, when it goes" if aside.until else ""
        raise Conflict(
            f"what {aside.server} alone had was read already, and its agent is gone for good",
            hint=f"read the rest of its binary log by hand on that server{until}" if last.get("unread") else "",
        )
    task = f"{KIND}-{new_id()}"
    asked = Asked(kind=KIND, title=_title(aside.server), subject=f"instance:{aside.id}", who=who)
    await workflows.start_workflow(asked, task, reading_args(stored.deployment, aside.server, aside.id, start=True))
    return task


def reading_args(deployment: str, server: str, instance: str, *, start: bool = False) -> dict[str, Any]:
    return {"deployment": deployment, "server": server, "instance": instance, "run_id": new_id(), "start": start}


async def start_reading(run: Run, task: str, server: str, instance: str, run_id: str) -> None:
    """As a child of the replacing of that instance, while its agent is still there."""
    args = {
        "deployment": server.partition("/")[0], "server": server, "instance": instance, "run_id": run_id,
        "start": False,
    }  # fmt: skip
    await run.start_child(KIND, task, args, title=_title(server), subject=f"instance:{instance}")


def _title(server: str) -> str:
    return f"read what {server} alone has"


@workflow(KIND)
async def extra_transactions(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, server, instance (the one set aside), run_id, start (it when it does not run), entry (optional:
    the script)."""
    ports: Ports = run.ports
    if args["start"]:
        await run.step("have it run, fenced", _start, ports, args, waits=True)
    known = await run.step("ask the present primary what it has", _known, run, args, waits=True)
    found = await run.step("read what it has besides", _read, run, args, known["positions"], waits=True)
    await run.step("tell", _tell, run, args, found)
    if args["start"]:
        await run.step("its agent is done", _retire, ports, args["instance"])
    return {**found, "server": args["server"], "instance": args["instance"], "run": _run_id(args, args["instance"])}


async def _start(ports: Ports, args: dict[str, Any]) -> str:
    row = Store(ports.database, ports.clock).instance(args["instance"])
    stored = GroupStore(ports.database).group(args["deployment"])
    if row["cloud_id"] is None or stored is None:
        raise NotFound(f"the cloud does not have what was {args['server']}")
    cloud_id = InstanceId(row["cloud_id"])
    if (await ports.cloud.instance(cloud_id)).state is InstanceState.STOPPED:
        await ports.cloud.start(cloud_id)
    await ports.agents.wait_connected(args["instance"], timeout_seconds=CONNECT_SECONDS)
    try:
        await ports.agents.take_role(args["instance"], TakeRole(epoch=stored.group.epoch, role="fenced"))
    except RelaunchError as error:
        return f"its database: {error.message}"  # the log's files can be read all the same
    return "it runs"


async def _known(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    store = GroupStore(run.ports.database)
    end = asyncio.get_running_loop().time() + PRIMARY_SECONDS
    while True:
        stored = store.group(args["deployment"])
        primary = stored.members.get(stored.group.primary or "") if stored else None
        if stored and primary and stored.group.change is None and primary.id != args["instance"]:
            target = {
                "server": primary.server, "instance": primary.id, "run_id": _run_id(args, primary.id)
            }  # fmt: skip
            return await answer_of(run, target, _entry(run.ports, args), {}, "POSITIONS")
        if asyncio.get_running_loop().time() > end:
            raise Failed(f"{args['deployment']} has no primary whose transactions could be compared")
        await asyncio.sleep(LOOK_SECONDS)


async def _read(run: Run, args: dict[str, Any], positions: str) -> dict[str, Any]:
    target = {
        "server": args["server"], "instance": args["instance"], "run_id": _run_id(args, args["instance"])
    }  # fmt: skip
    inputs = {"KNOWN_POSITIONS": f"text:{positions}"}
    return await answer_of(run, target, _entry(run.ports, args), inputs, "EXTRA")


def _run_id(args: Mapping[str, Any], instance: str) -> str:
    return f"{args['run_id']}-extra-{instance}"


def _entry(ports: Ports, args: Mapping[str, Any]) -> dict[str, Any]:
    return args.get("entry") or script_of(ports, args["server"], SCRIPT)


def _tell(run: Run, args: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """In the log and, once for this task, in the audit trail."""
    unread = found.get("unread")
    if not found["count"] and not unread:
        return "nothing that others do not have"
    ports: Ports = run.ports
    what = f"{found['count']} transactions" + (f", and cannot be read to its end: {unread}" if unread else "")
    log.error("what was %s alone has %s", args["server"], what)
    action, subject = "extra transactions", f"database:{args['deployment']}"
    detail = {"task": run.task, "server": args["server"], "instance": args["instance"], **found}
    with ports.database.begin() as connection:
        told = connection.execute(
            select(audit.c.detail).where(audit.c.action == action, audit.c.subject == subject)
        ).scalars()
        if all(each.get("task") != run.task for each in told):
            connection.execute(
                insert(audit).values(
                    at=now_text(ports.clock), who=run.who, action=action, subject=subject, result="failed",
                    detail=detail,
                )
            )  # fmt: skip
    return what


async def _retire(ports: Ports, instance: str) -> str:
    try:
        await ports.agents.order(instance, Retire(reason="set aside"))
    except RelaunchError as error:
        return error.message
    return "told"


def last_reading(database: Engine, instance: str) -> dict[str, Any] | None:
    """How the last reading of that instance ended: state, error, at, and of one that succeeded what was found. What was
    found stays though another try fails."""
    query = (
        select(tasks.c.id, tasks.c.state, tasks.c.error, tasks.c.finished, tasks.c.result)
        .where(tasks.c.kind == KIND, tasks.c.subject == f"instance:{instance}", tasks.c.state.in_(ENDED))
        .order_by((tasks.c.state == "succeeded").desc(), tasks.c.finished.desc())
        .limit(1)
    )
    with database.connect() as connection:
        row = connection.execute(query).mappings().first()
    if row is None:
        return None
    found = row["result"] if row["state"] == "succeeded" else {}
    return {"task": row["id"], "state": row["state"], "error": row["error"], "at": row["finished"], **found}


def readings(database: Engine, stored: StoredGroup) -> list[dict[str, Any]]:
    """Of each server set aside; `state` is "not read" where nothing was."""
    return [
        {"server": aside.server, "instance": aside.id, "until": aside.until, "state": "not read", "error": ""}
        | (last_reading(database, aside.id) or {})
        for aside in stored.asides
    ]


def extra_pages(database: Engine, stored: StoredGroup) -> tuple[Page, ...]:
    """What a person should look at, as long as the server set aside is kept."""
    pages = []
    how = f"relaunch db extra-transactions {stored.deployment}"
    for each in readings(database, stored):
        if each.get("count"):
            text = f"what was {each['server']} has {each['count']} transactions that nobody else has; read them: {how}"
            pages.append(Page(rule="extra transactions", text=text))
        if each.get("unread"):
            text = (
                f"what was {each['server']} may have more transactions that nobody else has: its binary log cannot be"
                f" read to its end ({each['unread']}); look into it there, by hand (relaunch db status has the way)"
            )
            pages.append(Page(rule="extra transactions unknown", text=text))
        elif each["state"] == "failed":
            text = f"what {each['server']} alone has is not known: {each['error']}; try again: {how} --again"
            pages.append(Page(rule="extra transactions unknown", text=text))
    return tuple(pages)
