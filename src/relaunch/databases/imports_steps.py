"""Importing an existing database: the workflows. What they do on servers is in templates/scripts/import_*.sh.

Each step may be done twice: a load begins by removing what broke off, a copy is noted in the database itself, and to
follow, to cut over and to leave are states to be in.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable
from typing import Any

from relaunch.bus.messages import CancelRun, RunScripts
from relaunch.databases.imports import Source, judge, shown_status
from relaunch.databases.store import GroupStore, StoredMember
from relaunch.errors import Conflict, Failed, NotFound, RelaunchError
from relaunch.servers import run_list
from relaunch.servers.boot import is_back, outcome, while_it_runs
from relaunch.servers.lifecycle import State
from relaunch.servers.ports import Blobs, Ports
from relaunch.servers.scripts import parse_script
from relaunch.servers.store import Store, new_id
from relaunch.workflows.durable import Run, workflow
from relaunch.workflows.tasks import TaskList

LOAD, FROM_SERVER = "import_database.sh", "import_from_server.sh"
CAUGHT_UP_SECONDS = 3600.0
PRIMARY_SECONDS = 60.0
LOOK_SECONDS = 1.0
HERE_ALONE = ("leave", "forget", "status")  # steps that can do without the other server


def subject(deployment: str) -> str:
    return f"import:{deployment}"


def password_name(deployment: str) -> str:
    """The credential that holds the foreign server's password while an import is under way."""
    return f"import.{deployment}.password"


def source_name(deployment: str) -> str:
    """The credential that holds where from, and who."""
    return f"import.{deployment}.source"


@workflow("import-dump")
async def import_dump(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, sha256 (of the dump among the blobs), schema, confirm, run_id."""
    inputs = {
        "IMPORT_DUMP": args["sha256"], "IMPORT_SCHEMA": args["schema"], "IMPORT_CONFIRM": args["confirm"],
        "IMPORT_RUN": args["run_id"],
    }  # fmt: skip
    try:
        output = await run.step("look through the dump, load it", _on_primary, run, args, LOAD, inputs, waits=True)
    except RelaunchError as error:
        with run.undoing():
            await run.step("undo: stop it", _stop, run.ports, args)
            left = await run.step("undo: leave nothing half", _clean, run, args)
            await run.step("undo: forget the dump", _forget_its_dump, run, args)
        error.add_hint(left)
        raise
    await run.step("forget the dump", _forget_its_dump, run, args)
    return {**json.loads(last_word(output, "IMPORTED")), "warnings": warnings_in(output)}


@workflow("import-server")
async def import_server(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, run_id. Where from is kept as credentials; it ends once everything has caught up."""
    try:
        looked = await run.step("look at both servers", _look, run, args, waits=True)
    except RelaunchError:
        with run.undoing():
            await run.step("undo: forget the password", forget, run.ports, args["deployment"])
        raise
    try:
        await run.step("copy as of one moment", _step, run, args, "copy", waits=True)
    except RelaunchError as error:
        with run.undoing():
            await run.step("undo: stop the copy", _stop, run.ports, args)
            why = await run.step("undo: drop what was copied", _step_if_possible, run, args, "drop")
            await run.step("undo: forget the password", forget, run.ports, args["deployment"])
        left = f"what was copied could not be dropped: {why}" if why else ""
        error.add_hint(left)
        raise
    try:
        await run.step("follow from there", _everywhere, run, args, "follow", waits=True)
        caught_up = await run.step("wait until it has caught up", _catch_up, run, args, waits=True)
    except RelaunchError as error:
        ways = f"relaunch db import {args['deployment']} --status tells how far, --cut-over goes on, --cancel undoes it"
        error.add_hint(f"what was copied stays, and is followed: {ways}")
        raise
    return {"warnings": looked, **caught_up}


@workflow("import-cut-over")
async def import_cut_over(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, run_id, quiet_seconds, wait_seconds."""
    await run.step("follow on every member", _everywhere, run, args, "follow", waits=True)
    given = {"IMPORT_QUIET_SECONDS": str(args["quiet_seconds"]), "IMPORT_WAIT_SECONDS": str(args["wait_seconds"])}
    try:
        output = await run.step(
            "stop writes there, compare both sides", _step, run, args, "cut-over", given, waits=True
        )
    except RelaunchError as error:
        with run.undoing():
            await run.step("undo: stop it", _stop, run.ports, args)
            why = await run.step("undo: unlock what was locked there", _step_if_possible, run, args, "unlock")
        how = f"relaunch db import {args['deployment']} --status names it, --cut-over or --cancel unlocks it"
        left = f"what was locked on the other server may be locked still ({why}): {how}" if why else ""
        error.add_hint(left)
        raise
    with run.undoing():
        await run.step("follow no more", _everywhere, run, args, "leave")
        await run.step("put it away", _step, run, args, "forget")
        await run.step("forget the password", forget, run.ports, args["deployment"])
    return dict(json.loads(last_word(output, "CUT-OVER")))


@workflow("import-cancel")
async def import_cancel(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, run_id, stops: id and kind of the task that is under way, or None."""
    stops = args.get("stops")
    stopped = await run.step("stop what is under way", _stop_task, run, stops["id"], waits=True) if stops else None
    if not await run.step("look up where from", is_known, run.ports, args["deployment"]):
        if stops and stops["kind"] == "import-cut-over" and stopped == "succeeded":
            raise Conflict("it was cut over meanwhile", hint="the old server is as it was at the cut-over")
        return await _put_away(run, args)
    await run.step("follow no more", _everywhere, run, args, "leave")
    await run.step("drop what was imported, unlock what was locked there", _step, run, args, "drop", waits=True)
    await run.step("forget the password", forget, run.ports, args["deployment"])
    return {}


async def _put_away(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """An import whose other server is not known any more: nobody can tell whether what is here is in use."""
    left = await run.step("look at what is left", status, run.ports, args["deployment"], waits=True)
    if left["stage"] == "none":  # what was stopped has undone itself
        return {}
    await run.step("follow no more", _everywhere, run, args, "leave")
    await run.step("put it away", _step, run, args, "forget")
    await run.step("forget the password", forget, run.ports, args["deployment"])
    warnings = [f"{', '.join(left.get('schemas', []))} is left as it is: drop it if it is not whole"]
    if left.get("locked"):
        warnings.append(f"locked on the other server, and to be unlocked there: {', '.join(left['locked'])}")
    return {"warnings": warnings}


def dump_task(sha256: str) -> str:
    """A new id of a task that loads the dump of this hash."""
    return f"import-dump-{sha256[:16]}-{new_id()}"


def forget_dump(blobs: Blobs, tasks: TaskList, sha256: str, *, besides: str = "") -> None:
    """Unless a task other than `besides` loads the same one."""
    loading = f"import-dump-{sha256[:16]}-"
    if not any(row["id"].startswith(loading) and row["id"] != besides for row in tasks.unfinished()):
        blobs.remove(sha256)


def _forget_its_dump(run: Run, args: dict[str, Any]) -> None:
    forget_dump(run.ports.blobs, run.workflows.tasks, args["sha256"], besides=run.task)


async def status(ports: Ports, deployment: str) -> dict[str, Any]:
    """As the primary's follower and the other server say now."""
    args = {"deployment": deployment, "run_id": f"import-status-{new_id()}"}
    ended = await _run(ports, None, args, FROM_SERVER, inputs_for(ports, deployment, "status"))
    return shown_status(json.loads(last_word(ended, "STATUS")))


def forget(ports: Ports, deployment: str) -> None:
    """Where from, and the password."""
    for name in (password_name(deployment), source_name(deployment)):
        with contextlib.suppress(NotFound):
            ports.vault.delete_credential(name)


def source_of(ports: Ports, deployment: str) -> Source:
    """NotFound when nothing is being imported from a server."""
    name = source_name(deployment)
    if not ports.vault.has_credential(name):
        raise NotFound(f"nothing is being imported into {deployment} from a server")
    plain = json.loads(ports.vault.credential(name))
    return Source(host=plain["host"], port=plain["port"], user=plain["user"], schemas=tuple(plain["schemas"]))


def is_known(ports: Ports, deployment: str) -> bool:
    """Whether the other server of an import can be asked."""
    return all(ports.vault.has_credential(name(deployment)) for name in (source_name, password_name))


def has_begun(ports: Ports, deployment: str) -> bool:
    """Whether something was or may have been copied: then only a cut-over or a cancelling ends the import."""
    name = source_name(deployment)
    return ports.vault.has_credential(name) and bool(json.loads(ports.vault.credential(name)).get("begun", True))


def keep_source(ports: Ports, deployment: str, source: Source, *, begun: bool) -> None:
    plain = {
        "host": source.host, "port": source.port, "user": source.user, "schemas": list(source.schemas), "begun": begun,
    }  # fmt: skip
    said = f"from where {deployment} is imported"
    ports.vault.set_credential(source_name(deployment), json.dumps(plain), description=said)


def inputs_for(ports: Ports, deployment: str, step: str) -> dict[str, str]:
    """NotFound when nothing is being imported from a server and the step needs that."""
    if step in HERE_ALONE and not is_known(ports, deployment):
        names = ("IMPORT_HOST", "IMPORT_PORT", "IMPORT_USER", "IMPORT_PASSWORD", "IMPORT_SCHEMAS")
        return {"IMPORT_STEP": step, **dict.fromkeys(names, "")}
    source = source_of(ports, deployment)
    return {
        "IMPORT_STEP": step,
        "IMPORT_HOST": source.host,
        "IMPORT_PORT": str(source.port),
        "IMPORT_USER": source.user,
        "IMPORT_SCHEMAS": " ".join(source.schemas),
    }


def primary_of(ports: Ports, deployment: str) -> StoredMember:
    """Conflict when no primary can be told anything now."""
    stored = GroupStore(ports.database).group(deployment)
    if stored is None:
        raise NotFound(f"deployment {deployment} has no database group")
    group = stored.group
    found = stored.members.get(group.primary or "")
    if found is None or group.change is not None or not ports.agents.connected(found.id):
        raise Conflict(f"{deployment} has no primary that takes writes now", hint="relaunch db status")
    return found


async def _look(run: Run, args: dict[str, Any]) -> list[str]:
    output = await _step(run, args, "look")
    source = source_of(run.ports, args["deployment"])
    verdict = judge(json.loads(last_word(output, "FACTS")), source)
    if verdict.problems:
        raise Conflict("\n".join(verdict.problems), hint="\n".join(f"also: {each}" for each in verdict.warnings))
    keep_source(run.ports, args["deployment"], source, begun=True)
    return list(verdict.warnings)


async def _step(run: Run, args: dict[str, Any], step: str, more: dict[str, str] | None = None) -> str:
    """What it said; again of who leads by then, where it is done too, or is still to be: a former primary may have done
    it alone."""
    given = {**inputs_for(run.ports, args["deployment"], step), **(more or {})}
    while True:
        primary = await _primary(run.ports, args["deployment"])
        output = await _on_primary(run, {**args, "run_id": f"{args['run_id']}-{step}"}, FROM_SERVER, given)
        if (await _primary(run.ports, args["deployment"])).id == primary.id:
            return output


async def _step_if_possible(run: Run, args: dict[str, Any], step: str) -> str:
    """Why it cannot be done now, "" when it was: else the next import or the cancelling does it. Who leads may not have
    been there when it was to be stopped."""
    try:
        primary = await _primary(run.ports, args["deployment"])
        await _stop_on(run.ports, primary.id, args)
        await _step(run, args, step)
    except RelaunchError as error:
        return error.message
    return ""


async def _everywhere(run: Run, args: dict[str, Any], step: str) -> list[str]:
    """On the primary and on each replica that can be told; the primary first. One that goes meanwhile is none of them,
    and whoever leads then is told."""
    ports: Ports = run.ports
    told: dict[str, str] = {}
    while True:
        primary = await _primary(ports, args["deployment"])
        stored = GroupStore(ports.database).group(args["deployment"])
        others = [each for each in stored.members.values() if each.id != primary.id] if stored else []
        for member in (primary, *others):
            leads = member.id == primary.id  # though its boot scripts may have given up
            may_be_told = member.id not in told and (leads or member.state is State.OPERATIONAL)
            if not may_be_told or not await is_back(ports, member.id):
                continue
            given = {**args, "run_id": f"{args['run_id']}-{step}-{member.name}"}
            try:
                await _run(
                    ports, member, given, FROM_SERVER, inputs_for(ports, args["deployment"], step), task=run.task
                )
            except RelaunchError:
                if ports.agents.connected(member.id):
                    raise
                if leads:
                    break
                continue
            told[member.id] = member.server
        if primary.id in told:
            return list(told.values())


async def _catch_up(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    end = loop.time() + CAUGHT_UP_SECONDS
    while True:
        seen: dict[str, Any] = {"why": "the primary is changing"}
        with contextlib.suppress(Conflict):
            seen = await status(run.ports, args["deployment"])
        lag = seen.get("lag_seconds")
        if seen.get("follows") and lag is not None and lag <= 2:
            return {"position": seen["position"], "lag_seconds": lag}
        run.note(f"lag {lag} s" if seen.get("follows") else str(seen["why"]))
        if loop.time() > end:
            raise Failed(f"not caught up after {CAUGHT_UP_SECONDS / 3600:g} h: lag {lag} s; {seen['why']}")
        await asyncio.sleep(LOOK_SECONDS)


async def _on_primary(run: Run, args: dict[str, Any], file: str, inputs: dict[str, str]) -> str:
    where = await _primary(run.ports, args["deployment"])
    work = _run(run.ports, where, args, file, inputs, task=run.task)
    return await _told(run, work, _of_member(run.ports, where, args["run_id"]))


def _of_member(ports: Ports, member: StoredMember, run_id: str) -> str:
    """The run's id there; it names the member when another one was given that run: who leads may change between a
    step and its repetition."""
    owner = Store(ports.database, ports.clock).run_instance(run_id)
    return run_id if owner in (None, member.id) else _with_member(run_id, member.id)


def _with_member(run_id: str, member: str) -> str:
    return f"{run_id}-{member}"


async def _told(run: Run, work: Awaitable[str], run_id: str) -> str:
    """The work's answer; what it says of its progress is shown meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=LOOK_SECONDS)
            if done:
                return task.result()
            said = [line for line in run.ports.agents.last_output(run_id, 0).splitlines() if line.strip()]
            if said:
                run.note(said[-1].removeprefix("PROGRESS "))
    finally:
        task.cancel()


async def _primary(ports: Ports, deployment: str) -> StoredMember:
    """Who it is, once there is one."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PRIMARY_SECONDS
    while True:
        try:
            return primary_of(ports, deployment)
        except Conflict:
            if loop.time() > end:
                raise
            await asyncio.sleep(0.2)


async def _run(
    ports: Ports,
    member: StoredMember | None,
    args: dict[str, Any],
    file: str,
    inputs: dict[str, str],
    *,
    task: str | None = None,
) -> str:
    """The script's output, on the primary unless said otherwise; Failed with its last words when it failed."""
    where = member or await _primary(ports, args["deployment"])
    order = _order(ports, where, file, inputs, args["deployment"], _of_member(ports, where, args["run_id"]))
    ended = await while_it_runs(ports, where.id, ports.agents.run(where.id, order, task=task))
    result = outcome(ports, order, ended)
    output = ports.agents.last_output(order.run_id, 0, last_bytes=100_000)
    if result["state"] != "succeeded":
        told = [line for line in output.splitlines() if line.strip() and not line.startswith("PROGRESS ")]
        refused = [line for line in told if line.startswith("ERROR ")] or told
        raise Failed(refused[-1] if refused else str(result["why"]), hint="\n".join(told[-15:]))
    return output


def _order(
    ports: Ports, member: StoredMember, file: str, inputs: dict[str, str], deployment: str, run_id: str
) -> RunScripts:
    path = next((path for folder in ports.template_folders if (path := folder / "scripts" / file).is_file()), None)
    if path is None:
        raise NotFound(f"the script {file} is in none of the template folders")
    written = {name: f"text:{value}" if value else "blank" for name, value in inputs.items()}
    if inputs.get("IMPORT_HOST"):
        written["IMPORT_PASSWORD"] = f"cred:{password_name(deployment)}"
    script = {"name": file, "entry": run_list.script_entry(ports, parse_script(path)), "inputs": written}
    target = {"server": member.server, "instance": member.id, "run_id": run_id}
    return run_list.given_order(ports, script, target)


async def _stop(ports: Ports, args: dict[str, Any]) -> str:
    """Whatever of it still runs on any member; on all at once: the other server may be locked until then."""
    stored = GroupStore(ports.database).group(args["deployment"])
    await asyncio.gather(*(_stop_on(ports, member, args) for member in (stored.members if stored else ())))
    return "stopped"


async def _stop_on(ports: Ports, member: str, args: dict[str, Any]) -> None:
    await is_back(ports, member)
    for run_id in (args["run_id"], *(f"{args['run_id']}-{step}" for step in ("copy", "cut-over"))):
        for each in (run_id, _with_member(run_id, member)):
            with contextlib.suppress(RelaunchError):  # not connected, or it knows no such run
                await ports.agents.order(member, CancelRun(run_id=each))


async def _stop_task(run: Run, task: str) -> str:
    """How it ended, once its own undo is through."""
    with contextlib.suppress(Conflict):  # it has ended already
        run.workflows.cancel(task, run.who)
    return str((await run.wait_for([task]))[0]["state"])


async def _clean(run: Run, args: dict[str, Any]) -> str:
    """What a person should know of it: what cannot be removed now stays noted in the database."""
    given = {**args, "run_id": f"{args['run_id']}-clean"}
    try:
        output = await _on_primary(run, given, LOAD, {"IMPORT_STEP": "clean", "IMPORT_RUN": args["run_id"]})
    except RelaunchError as error:
        return f"not all that was loaded could be removed: {error.message}"
    return "\n".join(warnings_in(output))


def last_word(output: str, marker: str) -> str:
    """What follows the marker on the last line that begins with it."""
    for line in reversed(output.splitlines()):
        if line.startswith(f"{marker} "):
            return line[len(marker) + 1 :].strip()
    raise Failed(f"the script did not say {marker}", hint=output[-2000:])


def warnings_in(output: str) -> list[str]:
    return [line.removeprefix("WARNING ") for line in output.splitlines() if line.startswith("WARNING ")]
