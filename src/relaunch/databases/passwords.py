"""Changing the passwords of the app, of replication and of seeding while everybody goes on working, as a task.

The new ones are accepted beside the old, then the credentials change, then whoever uses them is brought to the new
ones, one after the other, and only then the old ones are dropped. A saga: each step may be done twice, and a rotation
that was broken off is gone on with by ordering it again: its new passwords wait in credentials named `….next`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from relaunch.databases.member_scripts import answer_of, output_of, script_of
from relaunch.databases.store import GroupStore, StoredGroup, StoredMember
from relaunch.errors import BadInput, Conflict, Failed, NotFound, RelaunchError
from relaunch.servers.exclusion import refuse_beside
from relaunch.servers.lifecycle import State
from relaunch.servers.ports import Ports
from relaunch.servers.store import Row, Store, new_id
from relaunch.servers.values import parse_value, secrets_in
from relaunch.workflows.durable import Run, Workflows, workflow
from relaunch.workflows.tasks import Asked

SCRIPT = "Change passwords"
MARKER = "PASSWORDS"
NEXT = ".next"
INPUTS = ("DB_PASSWORD", "REPLICATION_PASSWORD")
NEW = {"DB_PASSWORD": "NEXT_APP_LOGIN", "REPLICATION_PASSWORD": "NEXT_REPLICATION_LOGIN"}  # of the script
BOOTING_SECONDS = 600.0
LOOK_SECONDS = 0.5


async def order_rotation(ports: Ports, workflows: Workflows, stored: StoredGroup, *, who: str) -> str:
    """The task. Refused with the reason while somebody who uses the passwords could not be told."""
    deployment, store = stored.deployment, Store(ports.database, ports.clock)
    primary = stored.members.get(stored.group.primary or "")
    if primary is None or not stored.group.initialised or stored.group.change is not None:
        raise Conflict(f"{deployment} has no primary that takes writes now", hint="relaunch db status")
    names = _credential_names(store.instance(primary.id))
    refuse_shared(store, deployment, names.values())
    servers = store.servers(deployment)
    rows = store.instances([each.instance_id for each in servers if each.instance_id])
    for row in rows.values():
        if row["state"] != State.OPERATIONAL or not ports.agents.connected(row["id"]):
            name = next(each.full_name for each in servers if each.instance_id == row["id"])
            raise Conflict(f"{name} is {row['state']} or not connected: it could not be told the new passwords")
    refuse_beside(store, workflows.tasks, deployment, "rotate-passwords")
    args = {
        "deployment": deployment,
        "credentials": names,
        "entry": script_of(ports, primary.server, SCRIPT),
        "apps": apps_using(names["DB_PASSWORD"], {each.full_name: rows[each.instance_id] for each in servers
                                                   if each.instance_id in rows}),
        "run_id": f"run-{new_id()}",
    }  # fmt: skip
    task = f"rotate-passwords-{new_id()}"
    asked = Asked(
        kind="rotate-passwords", title=f"new passwords for {deployment}", subject=f"database:{deployment}", who=who
    )
    await workflows.start_workflow(asked, task, args)
    return task


@workflow("rotate-passwords")
async def rotate_passwords(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, credentials (input → its credential), entry (the script), apps, run_id."""
    try:
        return await _rotate(run, args)
    except RelaunchError as error:
        again = f"relaunch db rotate-passwords {args['deployment']}"
        how = f"{again} goes on from there; old ones are good until it drops them"
        error.add_hint(how)
        raise


async def _rotate(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    ports: Ports = run.ports
    names = sorted(set(args["credentials"].values()))
    await run.step("choose new ones", _choose, ports, names, run.who)
    accepted = await run.step("have them accepted beside the old", _at_primary, run, args, "accept", waits=True)
    await run.step("store them", _store, ports, args["deployment"], names)
    await run.step("reconnect the replicas", _follow, run, args, accepted["position"], waits=True)
    for number, app in enumerate(args["apps"], start=1):
        await run.step(f"tell {app['server']}", _tell, run, args, app, number, waits=True)
    # Whoever came meanwhile may have been given the old ones.
    await run.step("wait for those that boot", _wait_booted, run, args["deployment"], waits=True)
    await run.step("store them for these, too", _store, ports, args["deployment"], names)
    await run.step("reconnect these, too", _follow, run, args, accepted["position"], "again", waits=True)
    await run.step("drop the old ones", _at_primary, run, args, "drop", waits=True)
    await run.step("forget that there were others", _forget, ports, names)
    return {"credentials": names, "told": [app["server"] for app in args["apps"]]}


def _choose(ports: Ports, names: Iterable[str], who: str) -> None:
    for name in names:
        ports.vault.generate_credential(name + NEXT, who=who)


async def _at_primary(run: Run, args: dict[str, Any], step: str) -> dict[str, Any]:
    stored = _group(run.ports, args["deployment"])
    primary = stored.members.get(stored.group.primary or "")
    if primary is None:
        raise Failed(f"{args['deployment']} has no primary now")
    return await answer_of(run, _target(args, primary, step), args["entry"], _inputs(args, step), MARKER)


async def _follow(run: Run, args: dict[str, Any], position: str, again: str = "") -> str:
    """Replicas one after the other: never all of those that acknowledge are away. The primary too: it may be a replica
    tomorrow. Whoever boots may have no database to ask yet: it is waited for, and told, later."""
    stored = _group(run.ports, args["deployment"])
    there = [each for each in stored.members.values() if each.state != State.BOOTING]
    members = sorted(there, key=lambda each: (each.id == stored.group.primary, each.name))
    inputs = {**_inputs(args, "follow"), "ROTATION_POSITION": f"text:{position}" if position else "blank"}
    for member in members:
        run.note(member.name)
        await output_of(run, _target(args, member, f"follow{again}"), args["entry"], inputs)
    return ", ".join(member.name for member in members)


async def _tell(run: Run, args: dict[str, Any], app: dict[str, Any], number: int) -> str:
    """The app's own scripts write its settings anew, one server after the other. One that has rebooted may be writing
    the old ones: it is waited for."""
    store, end = Store(run.ports.database, run.ports.clock), asyncio.get_running_loop().time() + BOOTING_SECONDS
    while (row := store.instance(app["instance"]))["state"] == State.BOOTING:
        await _later([app["server"]], end)
    if row["state"] != State.OPERATIONAL:
        return f"{app['server']} is {row['state']}: its next launch takes the new ones"
    for index, entry in enumerate(app["entries"]):
        target = {
            "server": app["server"], "instance": app["instance"], "run_id": f"{args['run_id']}-app{number}-{index}"
        }  # fmt: skip
        await output_of(run, target, entry, {})
    return "told"


def _store(ports: Ports, deployment: str, names: list[str]) -> None:
    """In the vault, and in what each instance of the deployment was given at its launch."""
    new = {name: ports.vault.credential(name + NEXT) for name in names}
    for name, value in new.items():
        ports.vault.set_credential(name, value, description="changed by a rotation")
    store = Store(ports.database, ports.clock)
    mine = {each.id for each in store.servers(deployment)}
    for row in store.living_instances():
        if row["server_id"] not in mine or not row["sealed_inputs"]:
            continue
        known = json.loads(ports.vault.unseal(row["sealed_inputs"]))
        changed = {**known, **{name: value for name, value in new.items() if name in known}}
        if changed != known:
            store.change_instance(row["id"], sealed_inputs=ports.vault.seal(json.dumps(changed).encode()))


async def _wait_booted(run: Run, deployment: str) -> None:
    """Those too that are being launched, whose image may still be baked: what they are given was looked up before."""
    end = asyncio.get_running_loop().time() + BOOTING_SECONDS
    while True:
        members, servers = _group(run.ports, deployment).members.values(), f"server:{deployment}/"
        launches = [each for each in run.workflows.tasks.unfinished() if each["kind"] == "launch"]
        booting = sorted(
            {each.name for each in members if each.state == State.BOOTING}
            | {each["subject"].removeprefix(servers) for each in launches if each["subject"].startswith(servers)}
        )
        if not booting:
            return
        await _later(booting, end)


async def _later(booting: list[str], end: float) -> None:
    """Waits for the next look; Failed when that would be after the end."""
    if asyncio.get_running_loop().time() > end:
        raise Failed(f"{', '.join(booting)} still boots after {BOOTING_SECONDS:.0f} s")
    await asyncio.sleep(LOOK_SECONDS)


def _forget(ports: Ports, names: list[str]) -> None:
    for name in names:
        with suppress(NotFound):
            ports.vault.delete_credential(name + NEXT)


def apps_using(credential: str, rows: Mapping[str, Row]) -> list[dict[str, Any]]:
    """Servers (by full name) with boot scripts that are given this credential, without those that make the accounts."""
    found = []
    for server, row in sorted(rows.items()):
        run_list = row["run_list"]
        using = {each["name"] for each in run_list["inputs"] if credential in _named(each)}
        entries = [
            entry
            for entry in run_list["boot"]
            if using & (declared := {each["name"] for each in entry["declares"]}) and INPUTS[1] not in declared
        ]
        if entries:
            found.append({"server": server, "instance": row["id"], "entries": entries})
    return found


def refuse_shared(store: Store, deployment: str, names: Iterable[str]) -> None:
    """Conflict when servers of another deployment were given one of these credentials: they would not be told."""
    mine = {each.id for each in store.servers(deployment)}
    others = {each.id: each.deployment for each in store.servers() if each.id not in mine}
    for row in store.living_instances():
        used = {name for each in row["run_list"].get("inputs", ()) for name in _named(each)}
        both = sorted(used & set(names))
        if row["server_id"] in others and both:
            other = others[row["server_id"]]
            raise Conflict(
                f"deployment {other} uses the credential {both[0]} too, and would be locked out",
                hint=f"give {other} one of its own in its file: inputs: {{DB_PASSWORD: cred:{other}-{both[0]}}}",
            )


def _credential_names(row: Row) -> dict[str, str]:
    """Input → the credential it is, as the primary was given it."""
    found = {}
    for name in INPUTS:
        written = next((each for each in row["run_list"]["inputs"] if each["name"] == name), None)
        named = _named(written) if written else []
        if len(named) != 1:
            raise BadInput(
                f"{name} is not a credential, so nobody but its file can change it",
                hint=f"write `{name}: cred:{name}` into the file, and apply and relaunch",
            )
        found[name] = named[0]
    return found


def _named(entry: Mapping[str, Any]) -> list[str]:
    return list(secrets_in(parse_value(entry["shown"]))) if entry["decided"] else []


def _inputs(args: Mapping[str, Any], step: str) -> dict[str, str]:
    new = {NEW[name]: f"cred:{credential}{NEXT}" for name, credential in args["credentials"].items()}
    return {"ROTATION_STEP": f"text:{step}", **new}


def _target(args: Mapping[str, Any], member: StoredMember, step: str) -> dict[str, str]:
    """The run's id names the member: who is the primary may change between a step and its repetition."""
    run_id = f"{args['run_id']}-{step}-{member.id}"
    return {"server": member.server, "instance": member.id, "run_id": run_id}


def _group(ports: Ports, deployment: str) -> StoredGroup:
    stored = GroupStore(ports.database).group(deployment)
    if stored is None:
        raise Conflict(f"{deployment} has no database group")
    return stored
