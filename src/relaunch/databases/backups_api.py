"""The HTTP API of backups; what it needs is in `request.app.state`."""

from __future__ import annotations

import re
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from relaunch.databases.backup_keeper import BackupKeeper
from relaunch.databases.backup_key import PRIVATE, PUBLIC
from relaunch.errors import BadInput, NeedsConfirmation

router = APIRouter(tags=["databases"])
_MOMENT = re.compile(
    r"newest|backup|gtid:[0-9]+-[0-9]+-[0-9]+(,[0-9]+-[0-9]+-[0-9]+)*|time:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
)
_ID = re.compile(r"latest|[0-9]{8}T[0-9]{6}Z-[a-z]+-[a-z0-9-]+")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BackupAsked(_Body):
    kind: Literal["full", "incremental"] = "full"
    side: Literal["replica", "primary"] | None = None


class ProofAsked(_Body):
    backup: str = "latest"


class RestoreAsked(_Body):
    """`confirm`: the deployment's name, typed. `to`: newest | backup | gtid:POSITION | time:YYYY-MM-DD HH:MM:SS."""

    backup: str = "latest"
    to: str = "newest"
    confirm: str = ""


@router.get("/databases/{deployment}/backups")
async def list_backups(request: Request, deployment: str) -> dict[str, Any]:
    """All, with what was proven, what retention would remove, and whether all is well."""
    return await _keeper(request).shown(deployment)


@router.post("/databases/{deployment}/backup", status_code=202)
async def back_up(request: Request, deployment: str, asked: BackupAsked) -> dict[str, Any]:
    """Now."""
    task = await _keeper(request).back_up(deployment, kind=asked.kind, side=asked.side, who=request.state.who)
    return _task(request, task)


@router.post("/databases/{deployment}/prove", status_code=202)
async def prove(request: Request, deployment: str, asked: ProofAsked) -> dict[str, Any]:
    """Restore it on a throw-away instance, check and compare."""
    task = await _keeper(request).prove(deployment, backup=_id(asked.backup), who=request.state.who)
    return _task(request, task)


@router.post("/databases/{deployment}/restore", status_code=202)
async def restore(request: Request, deployment: str, asked: RestoreAsked) -> dict[str, Any]:
    """The primary's data replaced by a backup's."""
    if not _MOMENT.fullmatch(asked.to):
        raise BadInput(f"to: {asked.to!r}", hint="newest, backup, gtid:0-1-5 or time:2026-11-22 19:00:00 (UTC)")
    if asked.confirm != deployment:
        raise NeedsConfirmation(
            f"the data of {deployment} will be replaced by a backup's", hint="confirm by the deployment's name"
        )
    task = await _keeper(request).restore(deployment, backup=_id(asked.backup), to=asked.to, who=request.state.who)
    return _task(request, task)


@router.post("/databases/{deployment}/prune")
async def prune(request: Request, deployment: str) -> dict[str, Any]:
    """Remove what GET …/backups says would go."""
    return {"removed": await _keeper(request).prune(deployment)}


@router.post("/databases/{deployment}/backup-key")
async def backup_key(request: Request, deployment: str) -> dict[str, str]:
    """The private key, to be kept in a safe; that it was shown is in the audit trail."""
    request.state.action = "show the backup key"
    _keeper(request).catalogue(deployment)
    vault = request.app.state.ports.vault
    return {"identity": vault.credential(PRIVATE), "recipient": vault.credential(PUBLIC)}


def _keeper(request: Request) -> BackupKeeper:
    keeper: BackupKeeper = request.app.state.backups
    return keeper


def _id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise BadInput(f"{text!r} is no backup's id", hint="see: relaunch db backups")
    return text


def _task(request: Request, task: str) -> dict[str, Any]:
    return {"task": request.app.state.workflows.tasks.get(task)}
