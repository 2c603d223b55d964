"""One schema restored by itself, on the primary, beside everything else the group holds; such backups proven on a
throw-away instance: the workflows.

Sagas: each step may be done twice.
"""

from __future__ import annotations

import json
from typing import Any

from relaunch.bus.messages import CancelRun
from relaunch.databases.backup_catalogue import Catalogue
from relaunch.databases.backup_key import PRIVATE
from relaunch.databases.backup_scripts import RESTORE_SCHEMA, run_script
from relaunch.databases.backup_steps import configure, launch_throw_away
from relaunch.databases.backups import Proof
from relaunch.databases.member_scripts import last_word
from relaunch.errors import Failed, RelaunchError
from relaunch.servers.boot import is_back, wait_connected
from relaunch.servers.ports import Ports
from relaunch.servers.terminate import end_unused
from relaunch.workflows.durable import Run, workflow


@workflow("restore-schema")
async def restore_schema(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, server, instance (the primary's), run_id, source, lineage, schema, name (what it is to be
    called), backup, confirm (the name again, when one that is there may be replaced)."""
    try:
        return dict(await run.step(f"restore {args['schema']} as {args['name']}", _restore, run, args, waits=True))
    except RelaunchError:
        with run.undoing():
            await run.step("undo: stop it", _stop, run, args)
        raise


async def _restore(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    inputs = {
        "BACKUP_KEY": f"cred:{PRIVATE}",
        "RESTORE_SCHEMA": f"text:{args['schema']}",
        "RESTORE_AS": f"text:{args['name']}",
        "RESTORE_BACKUP": f"text:{args['backup']}",
        "RESTORE_GROUP": f"text:{args['source']}",
        "RESTORE_LINEAGE": f"text:{args['lineage']}",
        "RESTORE_CONFIRM": f"text:{args['confirm']}" if args["confirm"] else "blank",
    }
    return dict(json.loads(last_word(await run_script(run, args, RESTORE_SCHEMA, inputs), "RESTORED")))


async def _stop(run: Run, args: dict[str, Any]) -> str:
    await is_back(run.ports, args["instance"])
    try:
        await run.ports.agents.order(args["instance"], CancelRun(run_id=args["run_id"]))
    except RelaunchError as error:
        return error.message
    return "stopped"


@workflow("prove-schemas")
async def prove_schemas(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, model (a member's instance: its image and scripts are used), instance (the throw-away one's
    id), schemas (each: schema, backup, lineage). One that fails does not keep the others from being proven."""
    ports: Ports = run.ports
    instance, failed = args["instance"], []
    try:
        await run.step("launch a throw-away instance", launch_throw_away, ports, args, RESTORE_SCHEMA)
        await run.step("wait for its agent", wait_connected, ports, instance, waits=True)
        await run.step("give it the store", configure, run, args, waits=True)
        for each in args["schemas"]:
            failed += await _prove_one(run, args, each)
    except RelaunchError as error:
        failed.append(error.message)
    with run.undoing():
        await run.step("terminate the throw-away instance", end_unused, ports, instance, "asked")
    if failed:
        raise Failed("; ".join(failed))
    return {"proven": [each["schema"] for each in args["schemas"]]}


async def _prove_one(run: Run, args: dict[str, Any], each: dict[str, str]) -> list[str]:
    """What went wrong, if anything."""
    proven: dict[str, Any] = {}
    why = ""
    try:
        proven = await run.step(f"load and compare {each['schema']}", _load, run, args, each, waits=True)
    except RelaunchError as error:
        why = error.message
    await run.step(
        f"record {each['schema']}", _record, run.ports, run.task, args["deployment"], each, proven, why
    )  # fmt: skip
    return [f"{each['schema']}: {why}"] if why else []


async def _load(run: Run, args: dict[str, Any], each: dict[str, str]) -> dict[str, Any]:
    given = {**args, "run_id": f"{args['instance']}-{each['schema']}"}
    inputs = {
        "BACKUP_KEY": f"cred:{PRIVATE}",
        "RESTORE_SCHEMA": f"text:{each['schema']}",
        "RESTORE_BACKUP": f"text:{each['backup']}",
        "RESTORE_LINEAGE": f"text:{each['lineage']}",
        "RESTORE_PHASE": "text:prove",
    }
    return dict(json.loads(last_word(await run_script(run, given, RESTORE_SCHEMA, inputs), "RESTORED")))


def _record(ports: Ports, task: str, deployment: str, each: dict[str, str], proven: dict[str, Any], why: str) -> None:
    Catalogue(ports.database, ports.objects, deployment).record_proof(
        f"{task}-{each['schema']}",
        Proof(
            backup=each["backup"],
            schema=each["schema"],
            at=ports.clock.now(),
            proven=not why,
            why=why,
            gtid=proven.get("gtid", ""),
            seconds=proven.get("seconds", 0.0),
            tables_compared=proven.get("tables_compared", 0),
        ),
    )
