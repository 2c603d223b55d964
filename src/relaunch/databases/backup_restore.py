"""Restoring a group from its backups or another's: prepared beside the data, then the replicas fenced, then in place.

A saga: each step may be done twice. Until the data is put in place nothing is lost by giving up.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

from relaunch.bus.messages import CancelRun, TakeRole
from relaunch.clouds.cloud import InstanceId
from relaunch.databases.backup_key import PRIVATE
from relaunch.databases.backup_scripts import JOIN, RESTORE, RESTORE_SNAPSHOT, run_entry, run_script
from relaunch.databases.group import Group, Mode
from relaunch.databases.member_scripts import last_word
from relaunch.databases.store import GroupStore, StoredGroup
from relaunch.errors import Conflict, Failed, RelaunchError
from relaunch.servers.boot import is_back
from relaunch.servers.ports import Ports
from relaunch.servers.store import Store
from relaunch.workflows.durable import Run, workflow

FENCED_SECONDS = 60.0
ARMED_SECONDS = 120.0
LOOK_SECONDS = 0.5


@workflow("restore")
async def restore(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, server, instance (the primary's), run_id, source (whose backups), lineage (of which history),
    backup, to, new_lineage; for one of its own snapshots instead of
    source, lineage, backup and to: snapshot. What was there stays beside the restored data."""
    ports: Ports = run.ports
    paused = f"restore {run.task}"
    try:
        await run.step("no failover meanwhile", _pause, ports, args["deployment"], paused)
        restored = dict(await run.step(f"restore beside the data of {args['server']}", _prepare, run, args, waits=True))
        await run.step("fence the replicas", _fence_others, ports, args)
        await run.step("wait until they follow no more", _wait_fenced, ports, args, waits=True)
    except RelaunchError:
        with run.undoing():
            await run.step("undo: remove what was prepared", _discard, run, args)
            await run.step("undo: failover again", _resume, ports, args["deployment"], paused)
        raise
    try:
        await run.step("put it in place", _swap, run, args)
        with run.undoing():  # the data is another: what it needs now is done even when the task is cancelled
            await run.step("fence who copied the old data meanwhile", _fence_others, ports, args)
            await run.step("make accounts, take the role", _join, run, args, waits=True)
    except RelaunchError:
        with run.undoing():
            await run.step("undo: failover again", _resume, ports, args["deployment"], paused)
        raise
    with run.undoing():
        await run.step("failover again", _resume, ports, args["deployment"], paused)
    await run.step("wait for backups of the new history", _wait_armed, ports, args, waits=True)
    await run.step("until a replica is in step, writes are on the primary alone", _nothing_more)
    return restored


def _nothing_more() -> None:
    """A step is how a task tells what is so."""


def _pause(ports: Ports, deployment: str, why: str) -> None:
    stored = _group(ports, deployment)
    if stored.group.change is not None:
        raise Conflict(f"a {stored.group.change.kind} of {deployment} is under way", hint="relaunch db status")
    if not stored.group.paused:
        GroupStore(ports.database).change(deployment, paused=why)


def _resume(ports: Ports, deployment: str, why: str) -> None:
    """Only what we have paused ourselves."""
    if _group(ports, deployment).group.paused == why:
        GroupStore(ports.database).change(deployment, paused="")


async def _prepare(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    script, inputs = (RESTORE_SNAPSHOT, _of_snapshot(args)) if "snapshot" in args else (RESTORE, _of_backup(args))
    return dict(json.loads(last_word(await run_script(run, args, script, inputs), "RESTORED")))


def _of_snapshot(args: dict[str, Any]) -> dict[str, str]:
    return {
        "RESTORE_SNAPSHOT": f"text:{args['snapshot']}",
        "RESTORE_NEW_LINEAGE": f"text:{args['new_lineage']}",
        "RESTORE_CONFIRM": f"text:{args['deployment']}",
    }


def _of_backup(args: dict[str, Any]) -> dict[str, str]:
    return {
        "BACKUP_KEY": f"cred:{PRIVATE}",
        "RESTORE_GROUP": f"text:{args['source']}",
        "RESTORE_LINEAGE": f"text:{args['lineage']}",
        "RESTORE_BACKUP": f"text:{args['backup']}",
        "RESTORE_TO": f"text:{args['to']}",
        "RESTORE_NEW_LINEAGE": f"text:{args['new_lineage']}",
        "RESTORE_CONFIRM": f"text:{args['deployment']}",
        "RESTORE_PHASE": "text:prepare",
    }


async def _discard(run: Run, args: dict[str, Any]) -> str:
    again = {**args, "run_id": f"{args['run_id']}-discard"}
    await is_back(run.ports, args["instance"])
    try:
        await run.ports.agents.order(args["instance"], CancelRun(run_id=args["run_id"]))
        await run_script(run, again, RESTORE, {"RESTORE_PHASE": "text:discard"})
    except RelaunchError as error:
        return error.message  # the next restore removes it
    return "removed"


def _fence_others(ports: Ports, args: dict[str, Any]) -> None:
    """From now on the group is its primary alone, and whoever else is in it has another history: to be replaced."""
    store = GroupStore(ports.database)
    for _ in range(20):
        stored = _group(ports, args["deployment"])
        group, others = stored.group, stored.members.keys() - {args["instance"]}
        if group.primary != args["instance"]:
            raise Conflict(f"{args['server']} is not the primary of {args['deployment']} any more")
        if group.change is not None:
            raise Conflict(f"a {group.change.kind} of {args['deployment']} is under way")
        if others <= group.fenced and group.mode is Mode.FORMING:
            return
        try:
            alone = _alone(group, frozenset(others), ports.steady.now().timestamp())
            store.put(stored, alone)
        except Conflict:
            continue
        return
    raise Conflict(f"the group of {args['deployment']} keeps changing")


def _alone(group: Group, others: frozenset[str], now: float) -> Group:
    """As one that is first made: nobody but this primary can be the primary until a replica has copied it."""
    return replace(
        group,
        epoch=group.epoch + 1,
        mode=Mode.FORMING,
        reason="its data was restored from a backup",
        since=now,
        required=False,
        sync_set=frozenset(),
        starts={},
        forgot=frozenset(),
        leaving=frozenset(),
        left=frozenset(),
        fenced=group.fenced | others,
    )


async def _wait_fenced(ports: Ports, args: dict[str, Any]) -> None:
    """Each replica says so itself, or the cloud that nothing it sends arrives anywhere."""
    try:
        async with asyncio.timeout(FENCED_SECONDS):
            for id in sorted(_group(ports, args["deployment"]).members.keys() - {args["instance"]}):
                while not await _is_fenced(ports, args["deployment"], id):  # noqa: ASYNC110  an agent far away
                    await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        raise Failed(
            f"a replica of {args['deployment']} could be neither fenced nor cut off within {FENCED_SECONDS:.0f} s",
            hint="terminate it, then restore again; nothing was replaced",
        ) from None


async def _is_fenced(ports: Ports, deployment: str, id: str) -> bool:
    stored = _group(ports, deployment)
    if id not in stored.members:
        return True
    try:
        report = await ports.agents.take_role(id, TakeRole(epoch=stored.group.epoch, role="fenced"))
        if report.role == "fenced" and report.read_only and not report.receiving:
            return True
    except RelaunchError:
        pass  # the cloud is asked instead
    cloud_id = stored.members[id].cloud_id
    if cloud_id is None:
        return False
    try:
        await ports.cloud.cut_off(InstanceId(cloud_id), True)
    except RelaunchError:
        return False
    return True


async def _swap(run: Run, args: dict[str, Any]) -> None:
    inputs = {
        "RESTORE_PHASE": "text:swap",
        "RESTORE_CONFIRM": f"text:{args['deployment']}",
        "RESTORE_NEW_LINEAGE": f"text:{args['new_lineage']}",  # what somebody else has prepared meanwhile is not ours
    }
    await run_script(run, {**args, "run_id": f"{args['run_id']}-swap"}, RESTORE, inputs)


async def _join(run: Run, args: dict[str, Any]) -> None:
    """The boot script once more: the restored data may know other passwords, sites and certificates. No replica is
    launched before."""
    await run_entry(run, {**args, "run_id": f"{args['run_id']}-join"}, "boot", JOIN, {})


async def _wait_armed(ports: Ports, args: dict[str, Any]) -> None:
    store = Store(ports.database, ports.clock)
    try:
        async with asyncio.timeout(ARMED_SECONDS):
            while True:
                tags = store.instance(args["instance"])["tags"]
                if tags.get("lineage") == args["new_lineage"] and tags.get("binlogs") == "ok":
                    return
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        raise Failed(
            f"{args['server']} is restored, but ships no binary log of its new history after {ARMED_SECONDS:.0f} s",
            hint="see: journalctl -u relaunch-ship-binlogs on the server",
        ) from None


def _group(ports: Ports, deployment: str) -> StoredGroup:
    stored = GroupStore(ports.database).group(deployment)
    if stored is None:
        raise Conflict(f"{deployment} has no database group")
    return stored
