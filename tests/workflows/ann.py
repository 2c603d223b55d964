"""The API as Ann calls it: what the controller's own frame does around it is tested elsewhere."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse

from relaunch.errors import RelaunchError


def app_of(*routers: APIRouter, **state: Any) -> FastAPI:
    """`state`: what the routers find in the application's."""
    app = FastAPI()
    for name, value in state.items():
        setattr(app.state, name, value)

    @app.middleware("http")
    async def as_ann(request: Request, call: Any) -> Any:
        request.state.who = "ann"
        return await call(request)

    @app.exception_handler(RelaunchError)
    async def told(request: Request, error: RelaunchError) -> JSONResponse:
        return JSONResponse({"error": {"code": error.code, "message": error.message}}, error.http_status)

    for router in routers:
        app.include_router(router)
    return app
