"""The HTTP API of backups; what it needs is in `request.app.state`."""

from __future__ import annotations

import re
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from relaunch.databases.backup_catalogue import LINEAGE
from relaunch.databases.backup_keeper import BackupKeeper
from relaunch.databases.backup_key import PRIVATE, PUBLIC
from relaunch.databases.backup_orders import BackupOrders
from relaunch.databases.positions import written_position
from relaunch.errors import BadInput, NeedsConfirmation

router = APIRouter(tags=["databases"])
_MOMENT = re.compile(r"newest|backup|time:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_SCHEMA, _DEPLOYMENT = r"^[A-Za-z0-9_-]{0,64}$", r"^([a-z0-9][a-z0-9-]{0,39})?$"
_SNAPSHOT = re.compile(r"latest|[0-9]{8}T[0-9]{6}\.[0-9]{6}Z")
_ID = re.compile(r"latest|[0-9]{8}T[0-9]{6}Z-[a-z]+-[a-z0-9-]+")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BackupAsked(_Body):
    kind: Literal["full", "incremental", "schema", "snapshot"] = "full"
    of: str = Field(default="", pattern=_SCHEMA)  # the schema, for that kind
    side: Literal["replica", "primary"] | None = None


class ProofAsked(_Body):
    """`of`: one schema, whose backups are those of it by itself."""

    backup: str = "latest"
    of: str = Field(default="", pattern=_SCHEMA)


class RestoreAsked(_Body):
    """`confirm`: the deployment's name, typed. `to`: newest | backup | gtid:POSITION | time:YYYY-MM-DD HH:MM:SS.

    `source`: the deployment whose backups; its own when empty. `lineage`: of which history of that one's data.
    `snapshot`: instead of these, of the primary's own volume: its id, or latest.
    """

    source: str = Field(default="", pattern=_DEPLOYMENT)
    lineage: str = ""
    backup: str = "latest"
    to: str = "newest"
    snapshot: str = ""
    confirm: str = ""


class SchemaAsked(_Body):
    """`name`: what it is to be called, its own when empty. `confirm`: that name, when tables there may be replaced."""

    of: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    name: str = Field(default="", pattern=_SCHEMA)
    backup: str = "latest"
    source: str = Field(default="", pattern=_DEPLOYMENT)
    lineage: str = ""
    confirm: str = Field(default="", pattern=_SCHEMA)


class ForgetAsked(_Body):
    """`confirm`: the history's id once more."""

    lineage: str
    confirm: str = ""


@router.get("/databases/{deployment}/backups")
async def list_backups(request: Request, deployment: str) -> dict[str, Any]:
    """All, with what was proven, what retention would remove, and whether all is well."""
    return await _keeper(request).shown(deployment)


@router.post("/databases/{deployment}/backup", status_code=202)
async def back_up(request: Request, deployment: str, asked: BackupAsked) -> dict[str, Any]:
    """Now."""
    if (asked.kind == "schema") != bool(asked.of):
        raise BadInput("`of` names the schema for the kind `schema`, and for that kind only")
    task = await _orders(request).back_up(
        deployment, kind=asked.kind, side=asked.side, schema=asked.of, who=request.state.who
    )
    return _task(request, task)


@router.post("/databases/{deployment}/prove", status_code=202)
async def prove(request: Request, deployment: str, asked: ProofAsked) -> dict[str, Any]:
    """Restore it on a throw-away instance, check and compare."""
    orders, backup, who = _orders(request), _id(asked.backup), request.state.who
    if asked.of:
        return _task(request, await orders.prove_schema(deployment, schema=asked.of, backup=backup, who=who))
    task = await orders.prove(deployment, backup=backup, who=who)
    return _task(request, task)


@router.post("/databases/{deployment}/restore", status_code=202)
async def restore(request: Request, deployment: str, asked: RestoreAsked) -> dict[str, Any]:
    """The primary's data replaced by a backup's, its replicas by fresh ones."""
    to = _moment(asked.to)
    if asked.confirm != deployment:
        raise NeedsConfirmation(
            f"the data of {deployment} will be replaced by a backup's", hint="confirm by the deployment's name"
        )
    if asked.snapshot:
        if not _SNAPSHOT.fullmatch(asked.snapshot):
            raise BadInput(f"{asked.snapshot!r} is no snapshot's id", hint="the script `Show snapshots` lists them")
        if (asked.source, asked.lineage, asked.backup, asked.to) != ("", "", "latest", "newest"):
            raise BadInput("a snapshot is of one moment of this primary's data: nothing else can be said with it")
        task = await _orders(request).restore_snapshot(deployment, snapshot=asked.snapshot, who=request.state.who)
        return _task(request, task)
    task = await _orders(request).restore(
        deployment, source=asked.source, lineage=_lineage(asked.lineage), backup=_id(asked.backup), to=to,
        who=request.state.who,
    )  # fmt: skip
    return _task(request, task)


def _moment(to: str) -> str:
    kind, _, position = to.partition(":")
    if kind == "gtid" and position.strip():
        return f"gtid:{written_position(position)}"
    if not _MOMENT.fullmatch(to):
        hint = "newest, backup, gtid:0-1-5 (of MySQL the whole set, as uuid:1-57) or time:2026-11-22 19:00:00 (UTC)"
        raise BadInput(f"to: {to!r}", hint=hint)
    return to


@router.post("/databases/{deployment}/restore-schema", status_code=202)
async def restore_schema(request: Request, deployment: str, asked: SchemaAsked) -> dict[str, Any]:
    """One schema out of its own backup, under its name or another; nothing else is touched."""
    task = await _orders(request).restore_schema(
        deployment, schema=asked.of, name=asked.name, backup=_id(asked.backup), source=asked.source,
        lineage=_lineage(asked.lineage), confirm=asked.confirm, who=request.state.who,
    )  # fmt: skip
    return _task(request, task)


@router.post("/databases/{deployment}/prune")
async def prune(request: Request, deployment: str) -> dict[str, Any]:
    """Remove what GET …/backups says would go; no backup while one, a proof or a restore is under way."""
    return {"removed": await _keeper(request).pruning.prune(deployment)}


@router.post("/databases/{deployment}/forget-backups", status_code=202)
async def forget(request: Request, deployment: str, asked: ForgetAsked) -> dict[str, Any]:
    """Remove every backup of an older history of its data, the proven ones too."""
    if asked.confirm != asked.lineage:
        raise NeedsConfirmation(
            f"every backup of {asked.lineage} will be gone for good", hint="confirm by the history's id"
        )
    return _task(request, await _orders(request).forget(deployment, asked.lineage, who=request.state.who))


@router.post("/databases/{deployment}/backup-key")
async def backup_key(request: Request, deployment: str) -> dict[str, str]:
    """The private key, to be kept in a safe; that it was shown is in the audit trail."""
    request.state.action = "show the backup key"
    _keeper(request).members.catalogue(deployment)
    vault = request.app.state.ports.vault
    return {"identity": vault.credential(PRIVATE), "recipient": vault.credential(PUBLIC)}


def _keeper(request: Request) -> BackupKeeper:
    keeper: BackupKeeper = request.app.state.backups
    return keeper


def _orders(request: Request) -> BackupOrders:
    return _keeper(request).orders


def _id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise BadInput(f"{text!r} is no backup's id", hint="see: relaunch db backups")
    return text


def _lineage(text: str) -> str:
    if text and not LINEAGE.fullmatch(text):
        raise BadInput(f"{text!r} is no history's id", hint="see: relaunch db backups")
    return text


def _task(request: Request, task: str) -> dict[str, Any]:
    return {"task": request.app.state.workflows.tasks.get(task)}
