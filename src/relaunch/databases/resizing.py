"""A replica more, or one less: the deployment's file is changed in that one place and applied."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from typing import Any

from relaunch.databases.resizing_file import with_replica, without_replica
from relaunch.databases.store import StoredGroup
from relaunch.errors import BadInput, Conflict, NeedsConfirmation, NotFound
from relaunch.servers.deployments import DatabaseSpec, DeploymentSpec, ServerSpec
from relaunch.servers.orders import Orders


async def add_replica(
    orders: Orders, stored: StoredGroup, *, zone: str | None, memory_bytes: int | None, who: str
) -> dict[str, Any]:
    """{task, server, changes}: `changes` is what the file lacks. It is like the primary but for what is asked."""
    spec, group = spec_of(orders, stored.deployment)
    zones = orders.ports.cloud.zones
    if zone is not None and zone not in zones:
        raise BadInput(f"no zone {zone!r}", hint=f"the cloud has {', '.join(zones)}")
    if not stored.group.initialised:
        raise Conflict(f"{stored.deployment} has no data yet", hint="wait until its primary takes writes")
    like = spec.server(group.primary)
    assert like is not None
    server = ServerSpec(
        name=next_name(group.primary, {each.name for each in spec.servers}),
        template=like.template,
        zone=zone or emptiest_zone(zones, spec, group),
        inputs=like.inputs,
        memory_bytes=memory_bytes or like.memory_bytes,
        volume_bytes=like.volume_bytes,
    )
    text = with_replica(spec.source, server)
    task = await orders.apply(text, who=who)
    return {"task": task, "server": f"{spec.name}/{server.name}", "changes": changes(spec.source, text)}


async def remove_replica(orders: Orders, stored: StoredGroup, name: str, *, confirm: str, who: str) -> dict[str, Any]:
    """{task, server, changes}. `confirm`: its name, needed when no other replica would be in step. A removal that was
    broken off once the file had it no more is gone on with."""
    if confirm not in ("", name):
        raise BadInput(f"confirm: {confirm!r} is not {name}", hint="nothing was done; name the same server twice")
    spec, group = spec_of(orders, stored.deployment)
    templates = {each.template for each in spec.servers if each.name in group.members}
    left = {each.name for each in orders.store.servers(spec.name) if each.template in templates}
    left -= {each.name for each in spec.servers}
    if name not in {*group.members, *left}:
        raise NotFound(f"the group of {spec.name} has no server {name}", hint=f"it has {', '.join(group.members)}")
    primary = stored.members.get(stored.group.primary or "")
    if primary is None or stored.group.change is not None:
        raise Conflict(f"{spec.name} has no primary that takes writes now", hint="relaunch db status")
    if primary.name == name:
        raise Conflict(f"{name} is the primary", hint=f"first: relaunch db switchover {spec.name} --to ANOTHER")
    if name == group.primary:
        raise Conflict(
            f"{name} is a replica now, but the primary of the file",
            hint=f"write another one there and apply, or: relaunch db switchover {spec.name} --to {name}",
        )
    stay = {stored.members[id].name for id in stored.in_step} & {*group.members}
    if not stay - {name} and confirm != name:
        what = "writes would wait" if stored.group.durability == "strict" else "writes would be on the primary alone"
        raise NeedsConfirmation(
            f"no replica but {name} is in step: without it {what}", hint=f"if that is meant: --confirm {name}"
        )
    text = spec.source if name in left else without_replica(spec.source, name)
    task = await orders.apply(text, who=who, yes=True)
    return {"task": task, "server": f"{spec.name}/{name}", "changes": changes(spec.source, text)}


def next_name(like: str, taken: set[str]) -> str:
    """db1 → the first free of db2, db3, …"""
    base = re.sub(r"-?[0-9]+$", "", like)
    number = 2
    while f"{base}{number}" in taken:
        number += 1
    return f"{base}{number}"


def emptiest_zone(zones: tuple[str, ...], spec: DeploymentSpec, group: DatabaseSpec) -> str:
    """With the fewest of the group's servers, the first of several."""
    there = Counter(each.zone for each in spec.servers if each.name in group.members)
    return min(zones, key=lambda zone: there[zone])


def changes(before: str, after: str) -> str:
    """What a person has to write into the file."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "as it was", "as it is now", n=1, lineterm="")
    return "\n".join(lines)


def spec_of(orders: Orders, deployment: str) -> tuple[DeploymentSpec, DatabaseSpec]:
    spec = orders.store.applied_spec(deployment)
    if spec is None or spec.database is None:
        raise NotFound(f"deployment {deployment} has no database group")
    return spec, spec.database
