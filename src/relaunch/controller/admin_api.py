"""Status, tokens, credentials, audit trail, images: what an operator asks of the controller itself."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.engine import Engine

from relaunch import __version__
from relaunch.controller.vault import SealedVault
from relaunch.databases.backup_key import PRIVATE, PUBLIC, set_backup_key
from relaunch.errors import BadInput, Conflict
from relaunch.records.schema import deployments, images, instances, servers, tasks
from relaunch.workflows.tasks import ENDED

router = APIRouter(tags=["controller"])


class NewToken(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str


class CredentialValue(BaseModel):
    """Either the value, or `generate` for a random one. That of BACKUP_KEY is an age identity."""

    model_config = ConfigDict(extra="forbid")
    value: str | None = Field(default=None, repr=False)
    generate: bool = False
    description: str = ""


@router.get("/status")
async def status(request: Request) -> dict[str, Any]:
    """Version, agents connected, and how much there is of everything."""
    state = request.app.state
    return {
        "version": __version__,
        "agents_connected": state.hub.connected_count(),
        "children": {name: child.pid for name, child in state.children.items()},
        "counts": counts(state.database),
    }


def counts(database: Engine) -> dict[str, Any]:
    """Deployments, servers, tasks going on, and instances by state (terminated ones left out)."""
    with database.connect() as connection:
        by_state = connection.execute(
            select(instances.c.state, func.count()).where(instances.c.ended.is_(None)).group_by(instances.c.state)
        ).all()
        return {
            "deployments": connection.scalar(select(func.count()).select_from(deployments)),
            "servers": connection.scalar(select(func.count()).select_from(servers)),
            "instances": {state: number for state, number in by_state},
            "tasks_running": connection.scalar(
                select(func.count()).select_from(tasks).where(tasks.c.state.not_in(ENDED))
            ),
        }


@router.get("/tokens")
async def list_tokens(request: Request) -> dict[str, Any]:
    return {"tokens": [asdict(token) for token in request.app.state.tokens.list_tokens()]}


@router.post("/tokens", status_code=201)
async def create_token(request: Request, new: NewToken) -> dict[str, str]:
    """The only answer that ever shows the token."""
    request.state.action = f"create token {new.name}"
    return {"name": new.name, "token": request.app.state.tokens.create(new.name)}


@router.delete("/tokens/{name}")
async def revoke_token(request: Request, name: str) -> dict[str, str]:
    request.app.state.tokens.revoke(name)
    return {"revoked": name}


@router.get("/credentials")
async def list_credentials(request: Request) -> dict[str, Any]:
    """Names and dates; values are never read back."""
    return {"credentials": [asdict(each) for each in request.app.state.vault.list_credentials()]}


@router.put("/credentials/{name}")
async def put_credential(request: Request, name: str, new: CredentialValue) -> dict[str, Any]:
    vault: SealedVault = request.app.state.vault
    if (new.value is None) == (not new.generate):
        raise BadInput(f"credential {name}: give either a value or generate: true")
    if name == PUBLIC:
        raise Conflict(f"{PUBLIC} is the public half of {PRIVATE}", hint=f"set {PRIVATE}: this goes with it")
    if name == PRIVATE and new.value is not None:
        return {"name": name, "generated": False, "note": _set_backup_key(vault, new.value)}
    if new.value is not None:
        vault.set_credential(name, new.value, description=new.description)
    elif vault.has_credential(name):
        return {"name": name, "generated": False}
    else:
        vault.generate_credential(name, who=request.state.who)
    return {"name": name, "generated": new.generate}


@router.delete("/credentials/{name}")
async def delete_credential(request: Request, name: str) -> dict[str, str]:
    if name in (PRIVATE, PUBLIC):
        raise Conflict(
            f"{name} is needed for the backups: without both halves of their key nothing opens them",
            hint=f"to change it: relaunch credential set {PRIVATE}",
        )
    request.app.state.vault.delete_credential(name)
    return {"deleted": name}


def _set_backup_key(vault: SealedVault, value: str) -> str:
    """What follows for servers, "" for nothing."""
    before = vault.credential(PUBLIC) if vault.has_credential(PUBLIC) else ""
    recipient = set_backup_key(vault, value)
    if recipient == before:
        return ""
    return (
        f"backups are encrypted to {recipient} from now on; database servers launched before encrypt to the former key"
        " until they are relaunched. Former keys still open what was encrypted to them: put all that"
        " `relaunch db backup-key` shows into your safe"
    )


@router.get("/audit")
async def audit_trail(
    request: Request, subject: str = "", limit: Annotated[int, Query(ge=1, le=10_000)] = 100
) -> dict[str, Any]:
    """Who did what, the newest first."""
    entries = request.app.state.audit.entries(subject=subject or None, limit=limit)
    return {"entries": [asdict(entry) for entry in entries]}


@router.get("/images")
async def list_images(request: Request) -> dict[str, Any]:
    """Baked images with their changelogs, the newest first."""
    with request.app.state.database.connect() as connection:
        rows = connection.execute(select(images).order_by(images.c.created.desc())).mappings()
        return {"images": [dict(row) for row in rows]}
