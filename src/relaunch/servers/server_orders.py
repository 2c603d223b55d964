"""What each action on one server needs, and when it is refused."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relaunch.errors import BadInput, Conflict, RelaunchError
from relaunch.servers import run_list
from relaunch.servers.inputs import resolve_inputs
from relaunch.servers.launch import refuse_empty_primary
from relaunch.servers.lifecycle import Event, State, after
from relaunch.servers.scripts import parse_script
from relaunch.servers.store import Args, Row, ServerRow, Store, new_id
from relaunch.servers.templates import find_template
from relaunch.servers.values import parse_value

if TYPE_CHECKING:
    from relaunch.servers.orders import Orders

SCRIPT_BYTES = 1_000_000
RUNNABLE = (State.BOOTING, State.OPERATIONAL, State.STRANDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The workflow's arguments; `at_once` when there is nothing to wait for."""

    args: Args = field(default_factory=dict)
    at_once: Callable[[], None] | None = None


def _instance(orders: Orders, server: ServerRow) -> Row:
    if server.instance_id is None:
        raise Conflict(f"{server.full_name} has no instance", hint=f"relaunch server launch {server.full_name}")
    return orders.store.instance(server.instance_id)


def _unlocked(server: ServerRow) -> None:
    if server.locked:
        raise Conflict(f"{server.full_name} is locked", hint=f"relaunch server unlock {server.full_name}")


def _given_inputs(body: Mapping[str, Any]) -> dict[str, str]:
    given = body.get("inputs") or {}
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise BadInput('inputs must be {"NAME": "text:value", …}')
    return dict(given)


def _refuse_inputs(orders: Orders, server: ServerRow, given: Mapping[str, str]) -> None:
    spec = orders.store.applied_spec(server.deployment)
    template = find_template(server.template, orders.ports.template_folders)
    if spec is not None:
        resolved = resolve_inputs(template, spec, server.spec, given, orders.ports.vault)
        if resolved.problems:
            raise BadInput("\n".join(resolved.problems))


def launch(orders: Orders, server: ServerRow, body: dict[str, Any]) -> Prepared:
    if server.instance_id is not None:
        raise Conflict(
            f"{server.full_name} has an instance already: {server.instance_id}",
            hint=f"to replace it: relaunch server relaunch {server.full_name}",
        )
    given = _given_inputs(body)
    refuse_empty_primary(orders.store, server)
    _refuse_inputs(orders, server, given)
    return Prepared(args={"server": server.full_name, "instance": new_id(), "inputs": given, "groups_set": False})


def relaunch(orders: Orders, server: ServerRow, body: dict[str, Any]) -> Prepared:
    _unlocked(server)
    given = _given_inputs(body)
    refuse_empty_primary(orders.store, server)
    _refuse_inputs(orders, server, given)
    return Prepared(args={"server": server.full_name, "old": server.instance_id, "instance": new_id(), "inputs": given})


def reboot(orders: Orders, server: ServerRow, body: dict[str, Any]) -> Prepared:
    row = _instance(orders, server)
    _unlocked(server)
    after(State(row["state"]), Event.REBOOTED)
    return Prepared(args=reboot_args(server, row, ordered=True))


def reboot_args(server: ServerRow, row: Row, *, ordered: bool) -> Args:
    return {
        "server": server.full_name,
        "instance": row["id"],
        "run_id": f"{row['id']}-reboot-{new_id()}",
        "boot_id": row["boot_id"],
        "ordered": ordered,
    }


def terminate(orders: Orders, server: ServerRow, body: dict[str, Any]) -> Prepared:
    row = _instance(orders, server)
    _unlocked(server)
    if row["state"] != State.DECOMMISSIONING:  # an end that failed half-way is ordered again
        after(State(row["state"]), Event.TERMINATE)
    refuse_empty_primary(orders.store, server)
    args = {"instance": row["id"], "why": "asked", "run_id": f"{row['id']}-down", "spare_primary": True}
    return Prepared(args=args)


def set_aside(orders: Orders, server: ServerRow, body: dict[str, Any]) -> Prepared:
    row = _instance(orders, server)
    if row["state"] != State.SET_ASIDE:
        after(State(row["state"]), Event.SET_ASIDE)
        _refuse_primary(orders, server)
    return Prepared(args={"instance": row["id"]})


def _refuse_primary(orders: Orders, server: ServerRow) -> None:
    group = orders.store.group(server.deployment_id)
    if group is not None and group["initialised"] and group["primary_server_id"] == server.id:
        raise Conflict(
            f"{server.full_name} is the primary of a database that holds data: its writers would be cut off",
            hint=f"first: relaunch db switchover {server.deployment}; one that has failed is set aside by itself",
        )


def retry(orders: Orders, server: ServerRow, body: dict[str, Any]) -> Prepared:
    """From the script that failed; from the first with `from_start`."""
    row = _instance(orders, server)
    after(State(row["state"]), Event.RETRY)
    args = retry_args(orders.store, server.full_name, row["id"])
    return Prepared(args={**args, "start_at": 0} if body.get("from_start") else args)


def retry_args(store: Store, server: str, instance: str) -> Args:
    """From the first boot script where decommission scripts have run since: they stopped what the others started."""
    phases = ("boot", "decommission")
    last = next((run for run in store.runs(instance_id=instance) if run["phase"] in phases), None)
    failed_at, rebooted = 0, False
    if last is not None and last["phase"] == "decommission":
        rebooted = store.step_succeeded(last["task_id"], REBOOT_STEP)
    elif last is not None:
        failed_at = next((each["index"] for each in last["results"] if each["state"] not in _PASSED), 0)
        rebooted = bool(last["order"].get("reboot"))
    return {
        "server": server,
        "instance": instance,
        "run_id": f"{instance}-retry-{new_id()}",
        "start_at": failed_at,
        "reboot": rebooted,
    }


_PASSED = ("succeeded", "skipped")
REBOOT_STEP = "reboot in the cloud"


def force_operational(orders: Orders, server: ServerRow, body: dict[str, Any]) -> Prepared:
    row = _instance(orders, server)
    after(State(row["state"]), Event.FORCE_OPERATIONAL)
    return Prepared(args={"instance": row["id"]})


def in_cloud(orders: Orders, server: ServerRow, body: dict[str, Any]) -> Prepared:
    row = _instance(orders, server)
    if row["cloud_id"] is None:
        raise Conflict(f"{server.full_name} is not in the cloud yet")
    return Prepared(args={"instance": row["id"]})


def lock(orders: Orders, server: ServerRow, body: dict[str, Any]) -> Prepared:
    return Prepared(at_once=lambda: orders.store.set_locked(server.id, True))


def unlock(orders: Orders, server: ServerRow, body: dict[str, Any]) -> Prepared:
    return Prepared(at_once=lambda: orders.store.set_locked(server.id, False))


ACTIONS: dict[str, Callable[[Orders, ServerRow, dict[str, Any]], Prepared]] = {
    "launch": launch,
    "relaunch": relaunch,
    "reboot": reboot,
    "terminate": terminate,
    "set-aside": set_aside,
    "retry": retry,
    "force-operational": force_operational,
    "power-off": in_cloud,
    "start": in_cloud,
    "cut-off": in_cloud,
    "reconnect": in_cloud,
    "lock": lock,
    "unlock": unlock,
}


def prepared_run(orders: Orders, servers: Sequence[str], script: Any, inputs: Mapping[str, str]) -> Args:
    """The arguments of `run`; every server is checked before any is told."""
    if not servers:
        raise BadInput("no servers named")
    entry, name = _script_entry(orders, script)
    problems, targets = [], []
    for written in inputs.values():
        parse_value(written)
    plain = {"name": name, "entry": entry, "inputs": dict(inputs)}
    found = _several(orders, servers)
    for full_name in dict.fromkeys(servers):
        try:
            row = found.get(full_name) or _instance(orders, orders.store.server(full_name))
            if State(row["state"]) not in RUNNABLE:
                raise Conflict(f"{full_name} is {row['state']}")
            if not orders.ports.agents.connected(row["id"]):
                raise Conflict(f"the agent of {full_name} is not connected")
            target = {"server": full_name, "instance": row["id"], "run_id": f"run-{new_id()}"}
            run_list.given_order(orders.ports, plain, target, row=row)
        except RelaunchError as error:
            problems.append("; ".join(filter(None, (error.message, error.hint))))
        else:
            targets.append(target)
    if problems:
        raise Conflict("\n".join(problems))
    return {"script": plain, "targets": targets}


def _several(orders: Orders, names: Sequence[str]) -> dict[str, Row]:
    """The instances of these servers by full name, in a few queries; who has none is left out."""
    deployments = dict.fromkeys(name.partition("/")[0] for name in names)
    servers = [server for deployment in deployments for server in orders.store.servers(deployment)]
    wanted = {server.full_name: server.instance_id for server in servers if server.full_name in set(names)}
    rows = orders.store.instances([each for each in wanted.values() if each])
    return {name: rows[each] for name, each in wanted.items() if each in rows}


def _script_entry(orders: Orders, script: Any) -> tuple[dict[str, Any] | None, str]:
    """None for one of the template's own: each instance has its frozen copy."""
    if isinstance(script, str) and script:
        return None, script
    if not isinstance(script, dict) or set(script) != {"name", "text"}:
        raise BadInput('script must be the name of an operational script, or {"name": …, "text": …}')
    name, text = str(script["name"]), str(script["text"])
    if not text.startswith("#!"):
        raise BadInput(f"script {name} does not start with #!", hint="its first line names the interpreter")
    if len(text.encode()) > SCRIPT_BYTES:
        raise BadInput(f"script {name} is larger than {SCRIPT_BYTES} bytes")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / (Path(name).name or "script")
        file.write_text(text)
        return {**run_list.script_entry(orders.ports, parse_script(file)), "name": name}, name
