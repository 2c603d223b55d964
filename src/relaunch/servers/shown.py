"""Servers and deployments as the API shows them: plain, from a few queries for all at once."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from relaunch.records.schema import runs, task_steps, tasks
from relaunch.servers.lifecycle import State
from relaunch.servers.ports import Ports
from relaunch.servers.store import Row, ServerRow, Store, spec_from
from relaunch.workflows.tasks import ENDED


def servers_shown(ports: Ports, deployment: str | None = None) -> list[dict[str, Any]]:
    """All of them, or those of one deployment."""
    store = Store(ports.database, ports.clock)
    servers = store.servers(deployment)
    rows = store.instances([server.instance_id for server in servers if server.instance_id])
    steps, running = _steps(ports), _running(ports)
    return [
        _server(ports, server, rows.get(server.instance_id or ""), steps.get(server.subject), running)
        for server in servers
    ]


def server_shown(ports: Ports, full_name: str) -> dict[str, Any]:
    """One, with its inputs and what it was launched from."""
    store = Store(ports.database, ports.clock)
    server = store.server(full_name)
    row = store.instance(server.instance_id) if server.instance_id else None
    shown = _server(ports, server, row, _steps(ports).get(server.subject), _running(ports))
    inputs = row["run_list"].get("inputs", []) if row else []
    scripts = {
        phase: [entry["name"] for entry in row["run_list"].get(phase, [])] if row else []
        for phase in ("boot", "operational", "decommission")
    }
    return shown | {"inputs": inputs, "scripts": scripts}


def deployments_shown(ports: Ports) -> list[dict[str, Any]]:
    store = Store(ports.database, ports.clock)
    servers = servers_shown(ports)
    return [
        _deployment(row, store, [s for s in servers if s["deployment"] == row["name"]]) for row in store.deployments()
    ]


def deployment_shown(ports: Ports, row: Row) -> dict[str, Any]:
    """One, with its source and its servers' names."""
    store = Store(ports.database, ports.clock)
    servers = servers_shown(ports, row["name"])
    spec = spec_from(row["spec"])
    return _deployment(row, store, servers) | {
        "servers": [server["name"] for server in servers],
        "sites": [site.name for site in spec.sites],
        "cloud": spec.cloud,
        "source": row["source"],
    }


def _deployment(row: Row, store: Store, servers: list[dict[str, Any]]) -> dict[str, Any]:
    spec = spec_from(row["spec"])
    group = store.group(row["id"])
    names = {server.id: server.name for server in store.servers(row["name"])}
    database = None
    if spec.database is not None and group is not None:
        primary = names.get(group["primary_server_id"] or "", spec.database.primary)
        database = {
            "group": group["name"],
            "epoch": group["epoch"],
            "primary": primary,
            "replicas": [name for name in spec.database.members if name != primary],
            "initialised": group["initialised"],
            "durability": spec.database.durability,
        }
    return {
        "name": row["name"],
        "servers": len(servers),
        "operational": sum(server["state"] == State.OPERATIONAL for server in servers),
        "sites": len(spec.sites),
        "database": database,
        "created": row["created"],
        "changed": row["changed"],
        "destroying": row["destroying"],
    }


def _server(
    ports: Ports, server: ServerRow, row: Row | None, step: str | None, running: dict[str, Row]
) -> dict[str, Any]:
    run = running.get(row["id"]) if row else None
    connected = row is not None and ports.agents.connected(row["id"])
    shown: dict[str, Any] = {
        "name": server.full_name,
        "deployment": server.deployment,
        "server": server.name,
        "template": server.template,
        "zone": server.zone,
        "locked": server.locked,
        "state": row["state"] if row else State.INACTIVE,
        "lost": server.instance_id in ports.lost,
        "lost_why": ports.lost.get(server.instance_id or "", ""),
        "instance": server.instance_id,
        "connected": connected,
        "current_step": (_script_step(run) if run else None) or step or "",
        "run": run["id"] if run else None,
    }
    columns = (
        "cloud_id", "private_address", "public_address", "image_id", "outputs", "launched", "operational", "last_seen",
        "stranded_why", "agent_version",
    )  # fmt: skip
    return shown | {name: row[name] if row else None for name in columns} | {"tags": row["tags"] if row else {}}


def _steps(ports: Ports) -> dict[str, str]:
    """What is being done about each subject now; a child's step rather than its parent's."""
    query = (
        select(tasks.c.subject, task_steps.c.name, task_steps.c.detail)
        .join(task_steps, task_steps.c.task_id == tasks.c.id)
        .where(tasks.c.state.not_in(ENDED), task_steps.c.state == "running")
        .order_by(tasks.c.created)
    )
    with ports.database.connect() as connection:
        return {subject: f"{name}: {detail}" if detail else name for subject, name, detail in connection.execute(query)}


def _running(ports: Ports) -> dict[str, Row]:
    """The unfinished run of each instance, the newest."""
    query = select(runs).where(runs.c.state.in_(("waiting", "running"))).order_by(runs.c.created)
    with ports.database.connect() as connection:
        return {row["instance_id"]: dict(row) for row in connection.execute(query).mappings()}


def _script_step(run: Row) -> str | None:
    scripts = run["order"].get("scripts", [])
    for result in run["results"]:
        if result["state"] == "running" and result["index"] < len(scripts):
            name = scripts[result["index"]]["name"]
            return f"{run['phase']} script {result['index'] + 1}/{len(scripts)}: {name}"
    return None
