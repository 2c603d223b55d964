"""Comparing the primary with its replicas as a task, what was found last, and replacing the replicas that differ.

A saga: each step may be done twice.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.engine import Engine

from relaunch.databases.group import Page
from relaunch.databases.member_scripts import answer_of, script_of, stop
from relaunch.databases.rolling import until
from relaunch.databases.store import GroupStore, StoredGroup
from relaunch.errors import Conflict, Failed, RelaunchError
from relaunch.records.schema import audit, tasks
from relaunch.servers.exclusion import refuse_beside
from relaunch.servers.lifecycle import State
from relaunch.servers.ports import Ports
from relaunch.servers.relaunch import succeeded
from relaunch.servers.store import Store, new_id
from relaunch.servers.store import now as now_text
from relaunch.workflows.durable import Run, Workflows, workflow
from relaunch.workflows.tasks import Asked

log = logging.getLogger("relaunch.databases")

SCRIPT = "Checksum database"
MARKER = "CHECKSUM"


async def order_checksum(ports: Ports, workflows: Workflows, stored: StoredGroup, *, repair: bool, who: str) -> str:
    """The task. Conflict while there is nothing to compare, or a repair would stop writes."""
    group = stored.group
    primary = stored.members.get(group.primary or "")
    replicas = [
        each for each in stored.members.values() if each.id != group.primary and each.state == State.OPERATIONAL
    ]
    if primary is None or not group.initialised:
        raise Conflict(f"{stored.deployment} has no primary now", hint="relaunch db status")
    if not replicas:
        raise Conflict(f"{stored.deployment} has no replica that the primary could be compared with")
    if repair and group.durability == "strict" and len(stored.in_step) < 2:
        raise Conflict(
            "while the only replica in step is replaced, writes would wait (durability strict)",
            hint=f"add another one first: relaunch db add-replica {stored.deployment}",
        )
    subject = f"database:{stored.deployment}"
    refuse_beside(Store(ports.database, ports.clock), workflows.tasks, stored.deployment, "checksum")
    task = f"checksum-{new_id()}"
    args = {
        "deployment": stored.deployment,
        "server": primary.server,
        "instance": primary.id,
        "run_id": f"run-{new_id()}",
        "entry": script_of(ports, primary.server, SCRIPT),
        "replicas": [
            {"name": each.name, "server": each.server, "instance": each.id, "address": each.address, "fresh": new_id()}
            for each in sorted(replicas, key=lambda one: one.name)
        ],
        "repair": repair,
    }
    title = f"compare {primary.server} with {', '.join(each.name for each in replicas)}"
    await workflows.start_workflow(Asked(kind="checksum", title=title, subject=subject, who=who), task, args)
    return task


@workflow("checksum")
async def checksum(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, server, instance, run_id, entry, replicas, repair."""
    ports: Ports = run.ports
    try:
        found = await run.step("compare", _compare, run, args, waits=True)
    except RelaunchError:
        with run.undoing():
            await run.step("undo: stop it", stop, ports, args["instance"], args["run_id"])
        raise
    await run.step("tell what differs", _tell, run, args["deployment"], found)
    repaired: list[str] = []
    for replica in args["replicas"]:
        if not args["repair"] or replica["name"] not in _differing(found):
            continue
        if repaired:
            await run.step("wait until the fresh one is in step", _in_step, run, args["deployment"], waits=True)
        child = f"{run.task}-{replica['name']}"
        await run.step(f"replace {replica['name']}", _replace, run, args["deployment"], child, replica, waits=True)
        await run.step("wait for that", succeeded, run, [child], waits=True)
        repaired.append(replica["name"])
    instances = {replica["name"]: replica["instance"] for replica in args["replicas"]}
    return {**found, "instances": instances, "repaired": repaired}


async def _compare(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    inputs = {
        "CHECKSUM_ID": f"text:{run.task}",
        "CHECKSUM_REPLICAS": "text:" + " ".join(f"{each['name']}={each['address']}" for each in args["replicas"]),
    }
    target = {"server": args["server"], "instance": args["instance"], "run_id": args["run_id"]}
    found = await answer_of(run, target, args["entry"], inputs, MARKER)
    stored = GroupStore(run.ports.database).group(args["deployment"])
    if stored is None or stored.group.primary != args["instance"]:
        raise Failed("the primary changed meanwhile, so replicas answered for others: compare again")
    return found


def _tell(run: Run, deployment: str, found: Mapping[str, Any]) -> str:
    """In the log and, once for this task, in the audit trail."""
    differing = _differing(found)
    if not differing:
        return "nothing differs"
    log.error("database of %s: %s differ from the primary", deployment, ", ".join(differing))
    ports: Ports = run.ports
    action, subject = "replicas differ", f"database:{deployment}"
    with ports.database.begin() as connection:
        told = connection.execute(
            select(audit.c.detail).where(audit.c.action == action, audit.c.subject == subject)
        ).scalars()
        if all(detail.get("task") != run.task for detail in told):
            detail = {"task": run.task, "differences": found["differences"][:50]}
            connection.execute(
                insert(audit).values(
                    at=now_text(ports.clock), who=run.who, action=action, subject=subject, result="failed",
                    detail=detail,
                )
            )  # fmt: skip
    return f"{', '.join(differing)} differ"


def _differing(found: Mapping[str, Any]) -> list[str]:
    return sorted({each["replica"] for each in found["differences"]})


async def _replace(run: Run, deployment: str, child: str, replica: dict[str, str]) -> None:
    """Once it can be spared: hours may have passed since the order."""
    name, instance = replica["name"], replica["instance"]
    if Store(run.ports.database, run.ports.clock).server(replica["server"]).instance_id == instance:
        why = f"no replica but {name}, which differs, is in step"
        await until(run, deployment, lambda stored: _may_go(stored, instance), why)
    args = {"server": replica["server"], "old": replica["instance"], "instance": replica["fresh"]}
    await run.start_child(
        "replace", child, args, title=f"replace {replica['server']}", subject=f"server:{replica['server']}"
    )


def _may_go(stored: StoredGroup, instance: str) -> bool:
    """Where writes go on without any replica, the only one may be replaced, too."""
    group = stored.group
    if group.durability == "available" and not _acknowledging(stored) - {instance}:
        return group.change is None
    return stored.can_spare(instance)


def _acknowledging(stored: StoredGroup) -> set[str]:
    """Who could, once in step."""
    members = {each.id for each in stored.members.values() if not each.never_leads}
    return members - stored.group.fenced - {stored.group.primary or ""}


async def _in_step(run: Run, deployment: str) -> None:
    """Until as many servers are in step as the file names."""

    def all_are(stored: StoredGroup) -> bool:
        return not stored.empty and _acknowledging(stored) <= stored.group.sync_set - stored.group.leaving

    await until(run, deployment, all_are, "the replicas are not in step")


def last_checksum(database: Engine, deployment: str) -> dict[str, Any] | None:
    """The last comparison that came to its end, with the task and when; None when there was none."""
    query = (
        select(tasks.c.id, tasks.c.finished, tasks.c.result)
        .where(tasks.c.kind == "checksum", tasks.c.subject == f"database:{deployment}", tasks.c.state == "succeeded")
        .order_by(tasks.c.finished.desc())
        .limit(1)
    )
    with database.connect() as connection:
        row = connection.execute(query).mappings().first()
    return None if row is None else {**row["result"], "task": row["id"], "at": row["finished"]}


def standing(found: Mapping[str, Any] | None, stored: StoredGroup) -> tuple[Page, ...]:
    """What of it still holds: a replica that was replaced since differs no more."""
    if found is None:
        return ()
    pages = []
    for name in _differing(found):
        if found["instances"].get(name) not in stored.members:
            continue
        mine = [each for each in found["differences"] if each["replica"] == name]
        tables = ", ".join(dict.fromkeys(each["table"] for each in mine))
        text = (
            f"{name} differs from the primary in {tables} (found at {found['at'][:19]}Z). To replace it by a fresh one:"
            f" relaunch db checksum {stored.deployment} --repair"
        )
        pages.append(Page(rule="replica differs", text=text))
    return tuple(pages)
