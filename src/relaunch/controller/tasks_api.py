"""Tasks and runs: lists, output, and the stream of what a task is doing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.engine import Engine

from relaunch.controller.task_stream import TaskStream
from relaunch.errors import NotFound
from relaunch.records.schema import runs, task_steps, tasks

router = APIRouter(tags=["tasks"])

Limit = Annotated[int, Query(ge=1, le=1000)]


@router.get("/tasks")
async def list_tasks(request: Request, state: str = "", subject: str = "", limit: Limit = 100) -> dict[str, Any]:
    """The newest first."""
    query = select(tasks).order_by(tasks.c.created.desc()).limit(limit)
    if state:
        query = query.where(tasks.c.state == state)
    if subject:
        query = query.where(tasks.c.subject == subject)
    with _database(request).connect() as connection:
        return {"tasks": [dict(row) for row in connection.execute(query).mappings()]}


@router.get("/tasks/{id}")
async def show_task(request: Request, id: str) -> dict[str, Any]:
    """With its steps, its children and its runs."""
    with _database(request).connect() as connection:
        row = connection.execute(select(tasks).where(tasks.c.id == id)).mappings().first()
        if row is None:
            raise NotFound(f"no task {id}", hint="relaunch task list")
        steps = connection.execute(
            select(task_steps).where(task_steps.c.task_id == id).order_by(task_steps.c.number)
        ).mappings()
        children = connection.execute(
            select(tasks.c.id, tasks.c.title, tasks.c.subject, tasks.c.state)
            .where(tasks.c.parent_id == id)
            .order_by(tasks.c.created)
        ).mappings()
        own = connection.execute(select(runs).where(runs.c.task_id == id).order_by(runs.c.created)).mappings()
        return {
            **_plain(row),
            "steps": [_plain(step) for step in steps],
            "children": [_plain(child) for child in children],
            "runs": [run_shown(run) for run in own],
        }


@router.post("/tasks/{id}/cancel", status_code=202)
async def cancel_task(request: Request, id: str) -> dict[str, Any]:
    """Ask it to stop; it ends as cancelled once what it began is undone."""
    request.app.state.workflows.cancel(id, request.state.who)
    return {"task": await show_task(request, id)}


@router.get("/tasks/{id}/events", response_class=StreamingResponse)
async def follow_task(request: Request, id: str) -> StreamingResponse:
    """Server-sent events step, output, child and task: all from the beginning, then live, until it has ended."""
    state = request.app.state
    await show_task(request, id)
    stream = TaskStream(state.database, state.output, state.activity, id)

    async def events() -> AsyncIterator[str]:
        async for event in stream.events():
            yield event

    return StreamingResponse(
        events(), media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )


@router.get("/runs")
async def list_runs(request: Request, instance: str = "", limit: Limit = 100) -> dict[str, Any]:
    query = select(runs).order_by(runs.c.created.desc()).limit(limit)
    if instance:
        query = query.where(runs.c.instance_id == instance)
    with _database(request).connect() as connection:
        return {"runs": [run_shown(row) for row in connection.execute(query).mappings()]}


@router.get("/runs/{id}")
async def show_run(request: Request, id: str) -> dict[str, Any]:
    return run_shown(_run(request, id))


@router.get("/runs/{id}/output")
async def run_output(
    request: Request, id: str, index: Annotated[int, Query(ge=0)] = 0, offset: Annotated[int, Query(ge=0)] = 0
) -> dict[str, Any]:
    """A piece of what script `index` wrote; ask again from `next_offset` until that stands still and it has ended."""
    run = _run(request, id)
    return {**asdict(request.app.state.output.read(id, index, offset)), "state": run["state"]}


def run_shown(row: Any) -> dict[str, Any]:
    """A run with the names of its scripts in their results."""
    scripts = (row["order"] or {}).get("scripts", [])
    results = [
        {**result, "name": scripts[result["index"]]["name"] if result["index"] < len(scripts) else ""}
        for result in row["results"]
    ]
    return {**_plain(row), "results": results}


def _plain(row: Any) -> dict[str, Any]:
    """With plain strings as names: SQLAlchemy's own kind costs more to write as JSON than all the values."""
    return {str(name): value for name, value in row.items()}


def _run(request: Request, id: str) -> Any:
    with _database(request).connect() as connection:
        row = connection.execute(select(runs).where(runs.c.id == id)).mappings().first()
    if row is None:
        raise NotFound(f"no run {id}")
    return row


def _database(request: Request) -> Engine:
    database: Engine = request.app.state.database
    return database
