"""The HTTPS API's frame: who may ask, one shape of error, request ids, versions, the audit of every change."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relaunch import __version__
from relaunch.controller.audit import Audit
from relaunch.controller.refusals import Refusals
from relaunch.controller.tokens import Tokens
from relaunch.errors import BadInput, Failed, NotAllowed, NotFound, RelaunchError, Unavailable

log = logging.getLogger("relaunch.http")

PREFIX = "/api/v1"
# The agent's own addresses prove who asks by themselves; the API's description is no secret.
WITHOUT_TOKEN = (f"{PREFIX}/agent/", f"{PREFIX}/openapi.json", f"{PREFIX}/docs")
CHANGES = ("POST", "PUT", "DELETE", "PATCH")
SUBJECT_CHARACTERS = 200  # of a path in the audit trail: a stranger may send any length


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """Who checks and who writes down."""

    tokens: Tokens
    audit: Audit
    refusals: Refusals


def create_app(
    guards: Guards,
    *,
    routers: Sequence[APIRouter],
    state: dict[str, Any],
    pages: APIRouter | None = None,
) -> FastAPI:
    """The whole application; what `state` names, handlers find in `request.app.state`."""
    app = FastAPI(
        title="relaunch", version=__version__, openapi_url=f"{PREFIX}/openapi.json", docs_url=None, redoc_url=None
    )
    for name, value in state.items():
        setattr(app.state, name, value)
    for router in routers:
        app.include_router(router, prefix=PREFIX)

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    if pages is not None:
        app.include_router(pages)
    _explain_errors(app)
    app.add_middleware(Frame, guards=guards)
    return app


class Frame:
    """Around every request: its id, its token, the versions, and for a change the audit entry and a line in the log."""

    def __init__(self, app: ASGIApp, guards: Guards) -> None:
        self._app = app
        self._guards = guards

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex[:12]
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        scope.setdefault("state", {}).update(request_id=request_id, who="")
        status = 0
        failure = ""
        began = time.monotonic()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {
                    **message,
                    "headers": [
                        *message.get("headers", []),
                        (b"relaunch-version", __version__.encode()),
                        (b"relaunch-request", request_id.encode()),
                    ],
                }
            await send(message)

        try:
            self._admit(scope, headers)
        except RelaunchError as error:
            failure = error.message
            await error_answer(error)(scope, receive, answer)
        else:
            try:
                await self._app(scope, receive, answer)
            except Exception as error:  # outermost frame of a request
                log.exception("request %s", request_id)
                failure = f"the controller met an error of its own ({type(error).__name__})"
                if status == 0:
                    told = Failed(failure, hint=f"its log tells more: {request_id}")
                    await error_answer(told)(scope, receive, answer)
        self._write_down(scope, status, failure, time.monotonic() - began)

    def _admit(self, scope: Scope, headers: dict[bytes, str]) -> None:
        path: str = scope["path"]
        if not path.startswith(PREFIX) or path.startswith(WITHOUT_TOKEN):
            return
        kind, _, token = headers.get(b"authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise NotAllowed("a bearer token is needed", hint="the first one is in <state>/admin-token")
        scope["state"]["who"] = self._guards.tokens.who(token.strip())
        asked = headers.get(b"relaunch-version", "")
        if asked and asked.split(".")[:2] != __version__.split(".")[:2]:
            raise VersionMismatch(asked)

    def _write_down(self, scope: Scope, status: int, failure: str, seconds: float) -> None:
        method, path = scope["method"], scope["path"]
        if method not in CHANGES or not path.startswith(PREFIX):
            return
        state = scope["state"]
        failure = failure or state.get("failure", "")
        client = (scope.get("client") or ("?",))[0]
        result = "done" if status < 400 else "refused" if status < 500 else "failed"
        if not state["who"] and result != "done" and not self._guards.refusals.is_single(client):
            return
        who = state["who"] or f"unknown at {client}"
        detail = {"request": state["request_id"], "status": status} | ({"error": failure} if failure else {})
        subject = path.removeprefix(PREFIX)[:SUBJECT_CHARACTERS]
        try:
            self._guards.audit.record(who, state.get("action") or method.lower(), subject, result, detail)
        except OperationalError:  # a full disk, say; what was asked is done or not, and answered
            log.exception("request %s of %s is not in the audit trail", state["request_id"], who)
        log.info("%s %s %s %s in %.0f ms %s", who, method, subject, status, seconds * 1000, failure)


class VersionMismatch(RelaunchError):
    code = "version_mismatch"
    http_status = 409
    exit_status = 4

    def __init__(self, asked: str) -> None:
        older = "command" if _parts(asked) < _parts(__version__) else "controller"
        super().__init__(
            f"the command is version {asked[:32]}, the controller {__version__}", hint=f"upgrade the {older}"
        )


def _parts(version: str) -> list[int]:
    return [int(part) if part.isdecimal() else 0 for part in version.split(".")]


def error_answer(error: RelaunchError) -> JSONResponse:
    body = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    headers = {"WWW-Authenticate": "Bearer"} if error.http_status == 401 else None
    return JSONResponse(body, status_code=error.http_status, headers=headers)


def _explain_errors(app: FastAPI) -> None:
    def told(request: Request, error: RelaunchError) -> JSONResponse:
        request.state.failure = error.message
        return error_answer(error)

    @app.exception_handler(RelaunchError)
    async def ours(request: Request, error: RelaunchError) -> JSONResponse:
        return told(request, error)

    @app.exception_handler(OperationalError)
    async def not_stored(request: Request, error: OperationalError) -> JSONResponse:
        log.error("request %s: %s", request.state.request_id, error.orig)  # its values may be secrets
        why = f"the controller's database cannot be used: {error.orig}"
        return told(request, Unavailable(why, hint="is the disk of its state folder full? Make room there and repeat"))

    @app.exception_handler(RequestValidationError)
    async def body_or_query(request: Request, error: RequestValidationError) -> JSONResponse:
        # Only where and why: what was sent may be a secret.
        faults = [f"{'.'.join(str(p) for p in fault['loc'][1:])}: {fault['msg']}" for fault in error.errors()]
        return told(request, BadInput("; ".join(faults) or "the request cannot be understood"))

    @app.exception_handler(json.JSONDecodeError)
    async def not_json(request: Request, error: json.JSONDecodeError) -> JSONResponse:
        return told(request, BadInput(f"the body is not JSON: {error}"))

    @app.exception_handler(HTTPException)
    async def of_the_framework(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            return told(request, NotFound(f"there is nothing at {request.url.path}"))
        wrong = BadInput(f"{request.method} {request.url.path}: {error.detail}")
        request.state.failure = wrong.message
        body = {"error": {"code": wrong.code, "message": wrong.message, "hint": ""}}
        return JSONResponse(body, status_code=error.status_code)
