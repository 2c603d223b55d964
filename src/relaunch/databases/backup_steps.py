"""Making a backup, proving one on a throw-away instance, forgetting those of an older history: the workflows.

Sagas: each step may be done twice.
"""

from __future__ import annotations

import json
from typing import Any

from relaunch.bus.messages import CancelRun
from relaunch.clouds.cloud import ImageId, LaunchRequest
from relaunch.databases.backup_catalogue import Catalogue
from relaunch.databases.backup_key import PRIVATE
from relaunch.databases.backup_scripts import (
    BACK_UP,
    BACK_UP_BY_SNAPSHOT,
    BACK_UP_SCHEMA,
    CONFIGURE,
    RESTORE,
    run_script,
)
from relaunch.databases.backups import SNAPSHOT, Proof
from relaunch.databases.member_scripts import last_word
from relaunch.errors import Conflict, RelaunchError
from relaunch.servers import run_list
from relaunch.servers.boot import is_back, wait_connected
from relaunch.servers.groups import BAKE, host_only, set_groups
from relaunch.servers.ports import Ports
from relaunch.servers.store import Store
from relaunch.servers.terminate import end_unused
from relaunch.workflows.durable import Run, workflow


@workflow("back-up")
async def back_up(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, lineage, server (deployment/name), instance, run_id, kind (full | incremental | schema |
    local: a snapshot that stays on the server), schema (which, for that kind), method (server | snapshot)."""
    try:
        made = await run.step(f"{args['kind']} of {args['server']}", _back_up, run, args, waits=True)
    except RelaunchError:
        with run.undoing():
            await run.step("undo: stop it", _stop, run.ports, args["instance"], args["run_id"])
        raise
    await run.step("look at the store", _refresh, run.ports, args["deployment"], args["lineage"])
    return {"backup": made}


@workflow("prove")
async def prove(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, lineage, model (a member's instance: its image and scripts are used), instance (the throw-away
    one's id), backup (its id, or latest)."""
    ports: Ports = run.ports
    instance = args["instance"]
    proven: dict[str, Any] = {}
    error: RelaunchError | None = None
    try:
        await run.step("launch a throw-away instance", launch_throw_away, ports, args, RESTORE)
        await run.step("wait for its agent", wait_connected, ports, instance, waits=True)
        await run.step("give it the store", configure, run, args, waits=True)
        proven = await run.step("restore, check and compare", _restore_there, run, args, waits=True)
    except RelaunchError as caught:
        error = caught
    with run.undoing():
        await run.step("terminate the throw-away instance", end_unused, ports, instance, "asked")
        await run.step("record it", _record, ports, run.task, args, proven, "" if error is None else error.message)
    if error is not None:
        raise error
    return proven


@workflow("forget-backups")
async def forget_backups(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, lineage (an older history). What went before it was broken off does not matter."""
    removed = await run.step(f"remove every backup of {args['lineage']}", _forget, run, args, waits=True)
    return {"removed": removed}


async def _forget(run: Run, args: dict[str, Any]) -> int:
    """How many objects went."""
    catalogue = Catalogue(run.ports.database, run.ports.objects, args["deployment"])
    return len(await catalogue.forget(args["lineage"], run.note))


async def _back_up(run: Run, args: dict[str, Any]) -> str:
    if args["kind"] == "schema":
        output = await run_script(run, args, BACK_UP_SCHEMA, {"BACKUP_SCHEMA": f"text:{args['schema']}"})
    else:
        script = BACK_UP_BY_SNAPSHOT if args.get("method") == SNAPSHOT else BACK_UP
        output = await run_script(run, args, script, {"BACKUP_KIND": f"text:{args['kind']}"})
    return last_word(output, "BACKED-UP")


async def _stop(ports: Ports, instance: str, run_id: str) -> str:
    await is_back(ports, instance)
    try:
        await ports.agents.order(instance, CancelRun(run_id=run_id))
    except RelaunchError as error:
        return error.message  # not connected, or it knows no such run
    return "stopped"


async def _refresh(ports: Ports, deployment: str, lineage: str) -> None:
    await Catalogue(ports.database, ports.objects, deployment).refresh((lineage,))


async def launch_throw_away(ports: Ports, args: dict[str, Any], script: str) -> None:
    """With this operational script of the model's, and what configures the store."""
    store = Store(ports.database, ports.clock)
    model = store.instance(args["model"])
    frozen = model["run_list"]
    scripts = [run_list.operational_entry(frozen, script, args["model"])]
    scripts += [entry for entry in frozen["boot"] if entry["name"] == CONFIGURE]
    if len(scripts) != 2:
        raise Conflict(
            f"the database servers of {args['deployment']} were launched without backups", hint="relaunch them"
        )
    store.add_instance(
        args["instance"],
        server_id=None,
        purpose="prove",
        zone=model["zone"],
        image_id=model["image_id"],
        run_list={"boot": [], "operational": scripts, "decommission": [], "inputs": frozen["inputs"], "packages": []},
        sealed_inputs=model["sealed_inputs"],
    )
    await set_groups(ports, {BAKE: host_only(ports.host_source)})
    launched = await ports.cloud.launch(
        LaunchRequest(
            client_token=args["instance"],
            name=f"prove-{args['deployment']}"[:40],
            image=ImageId(model["image_id"]),
            zone=model["zone"],
            security_groups=(BAKE,),
            user_data=ports.enrolments.user_data(args["instance"]),
            public_key=ports.enrolments.public_key(),
            tags={"relaunch-instance": args["instance"], "relaunch-purpose": "prove"},
        )
    )
    store.set_cloud_instance(args["instance"], launched)


async def configure(run: Run, args: dict[str, Any]) -> None:
    given = {**args, "run_id": f"{args['instance']}-configure"}
    await run_script(run, given, CONFIGURE, {"BACKUP_GROUP": f"text:{args['deployment']}"})


async def _restore_there(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    inputs = {
        "BACKUP_KEY": f"cred:{PRIVATE}",
        "RESTORE_LINEAGE": f"text:{args['lineage']}",
        "RESTORE_BACKUP": f"text:{args['backup']}",
        "RESTORE_START": "text:false",
    }
    output = await run_script(run, {**args, "run_id": f"{args['instance']}-restore"}, RESTORE, inputs)
    return dict(json.loads(last_word(output, "RESTORED")))


def _record(ports: Ports, task: str, args: dict[str, Any], proven: dict[str, Any], why: str) -> None:
    catalogue = Catalogue(ports.database, ports.objects, args["deployment"])
    backup = proven.get("id") or args["backup"]
    if backup == "latest":  # it failed before it said which that is
        backup = next((each.id for each in catalogue.backups()[::-1] if each.lineage == args["lineage"]), backup)
    catalogue.record_proof(
        task,
        Proof(
            backup=backup,
            at=ports.clock.now(),
            proven=not why,
            why=why,
            gtid=proven.get("gtid", ""),
            seconds=proven.get("seconds", 0.0),
            tables_compared=proven.get("tables_compared", 0),
            lineage=args["lineage"],
            chosen=args["backup"] != "latest",
        ),
    )
