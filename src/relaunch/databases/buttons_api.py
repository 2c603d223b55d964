"""The HTTP API of what people order about a database group besides failover and backups."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from relaunch.databases.checksums import last_checksum, order_checksum
from relaunch.databases.extra_transactions import order_reading, readings
from relaunch.databases.passwords import order_rotation
from relaunch.databases.resizing import add_replica, remove_replica
from relaunch.databases.rolling import order_resize
from relaunch.databases.store import GroupStore, StoredGroup
from relaunch.databases.watch import DatabaseWatch
from relaunch.errors import Conflict, NotFound
from relaunch.servers.ports import Ports
from relaunch.workflows.durable import Workflows

router = APIRouter(tags=["databases"])


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ChecksumAsked(_Body):
    """`repair`: a replica that differs is replaced by a fresh one."""

    repair: bool = False


class SizeAsked(_Body):
    memory_bytes: int = Field(gt=0)


class ReplicaAsked(_Body):
    """Without `zone`: where the fewest of the group are. Without `memory_bytes`: as much as the primary's."""

    zone: str | None = None
    memory_bytes: int | None = Field(default=None, gt=0)


class RemovalAsked(_Body):
    """`confirm`: the server's name, when no other replica would be in step."""

    server: str
    confirm: str = ""


class ReadingAsked(_Body):
    """`instance`: one that is set aside."""

    instance: str


@router.post("/databases/{deployment}/checksum", status_code=202)
async def checksum(request: Request, deployment: str, asked: ChecksumAsked) -> dict[str, Any]:
    """Compare the primary with its replicas, table by table."""
    request.state.action = "compare replicas"
    stored = _group(request, deployment)
    watch: DatabaseWatch = request.app.state.databases
    for member in watch.seen_now(stored).members.values():
        if member.report is not None and member.report.error and member.id != stored.group.primary:
            raise Conflict(
                f"{member.name} does not follow: {member.report.error}",
                hint=f"replace it by a fresh one: relaunch server relaunch {deployment}/{member.name}",
            )
    task = await order_checksum(
        _ports(request), _workflows(request), stored, repair=asked.repair, who=request.state.who
    )
    return {"task": task}


@router.get("/databases/{deployment}/checksum")
async def show_checksum(request: Request, deployment: str) -> dict[str, Any]:
    """The last comparison that came to its end."""
    _group(request, deployment)
    return {"checksum": last_checksum(_ports(request).database, deployment)}


@router.post("/databases/{deployment}/rotate-passwords", status_code=202)
async def rotate_passwords(request: Request, deployment: str) -> dict[str, Any]:
    """New passwords for the app, replication and seeding, while everybody goes on working."""
    request.state.action = "rotate passwords"
    stored = _group(request, deployment)
    return {"task": await order_rotation(_ports(request), _workflows(request), stored, who=request.state.who)}


@router.get("/databases/{deployment}/extra-transactions")
async def show_extra_transactions(request: Request, deployment: str) -> dict[str, Any]:
    """Of each server set aside what it alone has; `run` names the run whose output is the report."""
    return {"readings": readings(_ports(request).database, _group(request, deployment))}


@router.post("/databases/{deployment}/extra-transactions", status_code=202)
async def read_extra_transactions(request: Request, deployment: str, asked: ReadingAsked) -> dict[str, Any]:
    """Read what could not be read before; the server set aside is started for it, fenced."""
    request.state.action = "read extra transactions"
    stored = _group(request, deployment)
    aside = next((each for each in stored.asides if each.id == asked.instance), None)
    if aside is None:
        raise NotFound(f"{deployment} has set aside no instance {asked.instance}", hint="relaunch db status")
    task = await order_reading(_ports(request), _workflows(request), stored, aside, who=request.state.who)
    return {"task": task}


@router.post("/databases/{deployment}/add-replica", status_code=202)
async def add(request: Request, deployment: str, asked: ReplicaAsked) -> dict[str, Any]:
    """One more; `changes` is what the file is to say from now on."""
    request.state.action = "add replica"
    stored, orders = _group(request, deployment), request.app.state.orders
    who = request.state.who
    return await add_replica(orders, stored, zone=asked.zone, memory_bytes=asked.memory_bytes, who=who)


@router.post("/databases/{deployment}/resize", status_code=202)
async def resize(request: Request, deployment: str, asked: SizeAsked) -> dict[str, Any]:
    """All of the group on servers with that much memory; `changes` is what the file is to say from now on."""
    request.state.action = "resize database"
    stored, orders = _group(request, deployment), request.app.state.orders
    return await order_resize(orders, stored, memory_bytes=asked.memory_bytes, who=request.state.who)


@router.post("/databases/{deployment}/remove-replica", status_code=202)
async def remove(request: Request, deployment: str, asked: RemovalAsked) -> dict[str, Any]:
    """One less, with its data; `changes` is what the file is to say from now on."""
    request.state.action = "remove replica"
    stored, orders = _group(request, deployment), request.app.state.orders
    return await remove_replica(orders, stored, asked.server, confirm=asked.confirm, who=request.state.who)


def _group(request: Request, deployment: str) -> StoredGroup:
    stored = GroupStore(_ports(request).database).group(deployment)
    if stored is None:
        raise NotFound(f"no database group of a deployment {deployment}", hint="`relaunch db list` shows what there is")
    return stored


def _ports(request: Request) -> Ports:
    ports: Ports = request.app.state.ports
    return ports


def _workflows(request: Request) -> Workflows:
    workflows: Workflows = request.app.state.workflows
    return workflows
