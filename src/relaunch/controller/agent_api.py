"""What agents ask over HTTPS: to be enrolled, the agent's program, files by their hash."""

from __future__ import annotations

import base64
import binascii
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from relaunch.errors import NotAllowed

router = APIRouter(prefix="/agent", tags=["agent"])


class Enrolment(BaseModel):
    model_config = ConfigDict(extra="forbid")
    token: str = Field(repr=False, max_length=200)
    nonce: str = Field(min_length=8, max_length=200)
    boot_id: str = Field(max_length=100)
    facts: dict[str, Any] = {}


@router.post("/enrol")
async def enrol(request: Request, asked: Enrolment) -> dict[str, str]:
    """A one-time token for this agent's own credential and certificate."""
    request.state.action = "enrol"
    state = request.app.state
    welcomed = state.desk.enrol(token=asked.token, nonce=asked.nonce, boot_id=asked.boot_id)
    request.state.who = f"agent:{welcomed.agent}"
    return asdict(welcomed)


@router.get("/relaunch-agent.pyz")
async def program(request: Request) -> Response:
    """The agent's program; no secret, so the bootstrap needs no credential yet."""
    blob = request.app.state.agent_program
    tag = f'"{blob.sha256}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    return FileResponse(request.app.state.blobs.path(blob.sha256), media_type="application/zip", headers={"ETag": tag})


@router.get("/blobs/{sha256}")
async def blob(request: Request, sha256: str) -> Response:
    """A file an order has named, for agents only."""
    agent, secret = _basic(request.headers.get("authorization", ""))
    if not request.app.state.agent_records.may_connect(agent, secret):
        raise NotAllowed("this is for agents that are enrolled and not terminated")
    return FileResponse(request.app.state.blobs.path(sha256), media_type="application/octet-stream")


def _basic(header: str) -> tuple[str, str]:
    kind, _, encoded = header.partition(" ")
    try:
        agent, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        agent, colon, secret = "", "", ""
    if kind.lower() != "basic" or not colon:
        raise NotAllowed("the agent's own credential is needed", hint="HTTP basic: agent id and secret")
    return agent, secret
