"""The HTTP API of imports: an existing database by dump, or from a server that is not ours and then cut over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from relaunch.databases.imports import read_source, schema_name
from relaunch.databases.imports_steps import (
    dump_task,
    forget_dump,
    has_begun,
    is_known,
    keep_source,
    password_name,
    primary_of,
    source_of,
    status,
    subject,
)
from relaunch.errors import BadInput, Conflict, NotFound
from relaunch.servers.exclusion import refuse_beside
from relaunch.servers.ports import Ports
from relaunch.servers.store import Store, new_id
from relaunch.workflows.durable import Workflows
from relaunch.workflows.tasks import Asked

router = APIRouter(tags=["databases"])


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DumpAsked(_Body):
    """`sha256`: as PUT …/import/dump answered. `confirm`: the deployment's name, to replace what is there."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    schema_: str | None = Field(default=None, alias="schema")
    confirm: str = ""


class ServerAsked(_Body):
    """`server`: HOST or HOST:PORT. The password is kept sealed until the import is over."""

    server: str
    user: str
    password: str = Field(repr=False, min_length=1, max_length=1000)
    schemas: list[str] = Field(min_length=1, max_length=1000)


class CutOverAsked(_Body):
    """Nothing may have been written there for `quiet_seconds`; that is waited for `wait_seconds`."""

    quiet_seconds: float = Field(default=3.0, ge=0.5, le=600)
    wait_seconds: int = Field(default=120, ge=1, le=3600)


@router.put("/databases/{deployment}/import/dump")
async def put_dump(request: Request, deployment: str) -> dict[str, Any]:
    """A dump, as it is: the body is the file. It is kept until it is imported."""
    request.state.action = "send a dump"
    primary_of(request.app.state.ports, deployment)
    _refuse_busy(request, deployment, "import-dump")
    pieces: AsyncIterator[bytes] = request.stream()
    blob = await request.app.state.blobs.take(pieces)
    return {"sha256": blob.sha256, "size_bytes": blob.size_bytes}


@router.post("/databases/{deployment}/import/dump", status_code=202)
async def import_dump(request: Request, deployment: str, asked: DumpAsked) -> dict[str, Any]:
    """Load a dump that was sent; refused, it has to be sent again."""
    request.state.action = "import a dump"
    try:
        return await _dump_started(request, deployment, asked)
    except Exception:
        forget_dump(request.app.state.blobs, _workflows(request).tasks, asked.sha256)
        raise


async def _dump_started(request: Request, deployment: str, asked: DumpAsked) -> dict[str, Any]:
    primary_of(request.app.state.ports, deployment)
    request.app.state.blobs.path(asked.sha256)
    if asked.confirm not in ("", deployment):
        raise BadInput(f"confirm: {asked.confirm!r} is not the deployment's name")
    args = {
        "deployment": deployment, "sha256": asked.sha256, "confirm": asked.confirm, "run_id": f"import-{new_id()}",
        "schema": schema_name(asked.schema_) if asked.schema_ else "",
    }  # fmt: skip
    title, task = f"import a dump into {deployment}", dump_task(asked.sha256)
    return await _started(request, "import-dump", title, args, task=task)


@router.post("/databases/{deployment}/import/server", status_code=202)
async def import_server(request: Request, deployment: str, asked: ServerAsked) -> dict[str, Any]:
    """Copy schemas of a server that is not ours, and follow it until the cut-over."""
    request.state.action = "import from a server"
    ports: Ports = request.app.state.ports
    primary_of(ports, deployment)
    _refuse_busy(request, deployment, "import-server")
    source = read_source(asked.server, asked.user, asked.schemas)
    if any(ord(letter) < 32 for letter in asked.password):
        raise BadInput(
            "the password has a line end or the like in it", hint="give it as one line, without CR at its end"
        )
    if has_begun(ports, deployment):
        present = source_of(ports, deployment)
        raise Conflict(
            f"{', '.join(present.schemas)} of {present.shown} are being imported into {deployment}",
            hint=f"relaunch db import {deployment} --status, --cut-over or --cancel",
        )
    shown = f"{source.user} at {source.shown}, for the import into {deployment}"
    ports.vault.set_credential(password_name(deployment), asked.password, description=shown)
    keep_source(ports, deployment, source, begun=False)
    args = {"deployment": deployment, "run_id": f"import-{new_id()}"}
    title = f"import {', '.join(source.schemas)} of {source.shown} into {deployment}"
    return await _started(request, "import-server", title, args)


@router.get("/databases/{deployment}/import")
async def show_import(request: Request, deployment: str) -> dict[str, Any]:
    """How far it is, asked of both servers now."""
    ports: Ports = request.app.state.ports
    source = source_of(ports, deployment)
    running = _workflows(request).tasks.running_on(subject(deployment))
    return {
        "deployment": deployment,
        "from": source.shown,
        "task": running["id"] if running else None,
        **(await status(ports, deployment)),
    }


@router.post("/databases/{deployment}/import/cut-over", status_code=202)
async def cut_over(request: Request, deployment: str, asked: CutOverAsked) -> dict[str, Any]:
    """Writes end there; everything arrives here; both sides are compared; then it is followed no more."""
    request.state.action = "cut over an import"
    source = source_of(request.app.state.ports, deployment)
    args = {
        "deployment": deployment, "run_id": f"import-{new_id()}", "quiet_seconds": asked.quiet_seconds,
        "wait_seconds": asked.wait_seconds,
    }  # fmt: skip
    return await _started(request, "import-cut-over", f"cut {deployment} over from {source.shown}", args)


@router.post("/databases/{deployment}/import/cancel", status_code=202)
async def cancel(request: Request, deployment: str) -> dict[str, Any]:
    """Follow no more, drop what was imported, unlock what was locked there."""
    request.state.action = "cancel an import"
    whence = await _whence(request.app.state.ports, deployment)
    running = _workflows(request).tasks.running_on(subject(deployment))
    stops = {"id": running["id"], "kind": running["kind"]} if running else None
    args = {"deployment": deployment, "run_id": f"import-{new_id()}", "stops": stops}
    return await _started(request, "import-cancel", f"undo the import from {whence}", args)


async def _whence(ports: Ports, deployment: str) -> str:
    """From where it is imported, as people know it; NotFound when nothing is."""
    if not is_known(ports, deployment):
        primary_of(ports, deployment)
        if (await status(ports, deployment))["stage"] == "none":
            raise NotFound(f"nothing is being imported into {deployment} from a server")
        return "a server that is not known any more"
    return source_of(ports, deployment).shown


def _refuse_busy(request: Request, deployment: str, kind: str, besides: str = "") -> None:
    ports: Ports = request.app.state.ports
    store = Store(ports.database, ports.clock)
    refuse_beside(store, _workflows(request).tasks, deployment, kind, besides=besides)


async def _started(
    request: Request, kind: str, title: str, args: dict[str, Any], *, task: str | None = None
) -> dict[str, Any]:
    deployment, stops = args["deployment"], args.get("stops")
    _refuse_busy(request, deployment, kind, besides=stops["id"] if stops else "")
    task = task or f"{kind}-{new_id()}"
    asked = Asked(kind=kind, title=title, subject=subject(deployment), who=str(request.state.who))
    await _workflows(request).start_workflow(asked, task, args)
    return {"task": _workflows(request).tasks.get(task)}


def _workflows(request: Request) -> Workflows:
    workflows: Workflows = request.app.state.workflows
    return workflows
