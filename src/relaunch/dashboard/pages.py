"""The dashboard's pages. `router` finds everything it needs in `request.app.state.dashboard` (ports.DashboardPorts)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse

from relaunch.dashboard import door, live, reading, reading_trail
from relaunch.dashboard.activity import ACTIONS, Action
from relaunch.dashboard.door import LoggedIn, PageRoute
from relaunch.dashboard.ports import DashboardPorts
from relaunch.dashboard.reading_trail import RunRow
from relaunch.dashboard.rendering import HEADERS, page, ports, static_file
from relaunch.dashboard.words import plain_output
from relaunch.errors import Conflict, NotFound
from relaunch.servers.lifecycle import State

TAIL = 12_000  # characters of a script's output beside its run; its own page has more
WHOLE = 500_000
_SHOWN_AT_ONCE = ("running", "failed", "timed_out")

router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=HTMLResponse)
router.include_router(door.router)


@router.get("/static/{name}")
def static(name: str) -> Response:
    return static_file(name)


@router.get("/events")
async def events(request: Request, session: LoggedIn) -> Response:
    stream = live.stream(ports(request).changes())
    return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)


@router.get("/")
def board(request: Request, session: LoggedIn) -> Response:
    here = ports(request)
    with here.engine.connect() as db:
        deployments = reading.deployments(db, here.connected)
        running = reading_trail.tasks(db, limit=20, unfinished=True)
        recent = reading_trail.tasks(db, limit=8, unfinished=False)
    states = [row.state for deployment in deployments for row in deployment.servers]
    counts = [(state.value, states.count(state)) for state in State if state in states]
    return page(
        request, "board.html", session=session, deployments=deployments, running=running, recent=recent, counts=counts
    )


@router.get("/servers/{deployment}/{name}")
def server(request: Request, session: LoggedIn, deployment: str, name: str) -> Response:
    here = ports(request)
    with here.engine.connect() as db:
        detail = reading.server(db, deployment, name, here.connected)
        runs = reading_trail.runs_of(db, detail.instance, limit=8)
        subject = f"server:{deployment}/{name}"
        tasks = reading_trail.tasks(db, limit=8, subject=subject)
        audit = reading_trail.audit_of(db, subject, limit=12)
    outputs = _tails(here, runs[:1])
    return page(
        request,
        "server.html",
        session=session,
        server=detail,
        runs=runs,
        outputs=outputs,
        tasks=tasks,
        audit=audit,
        subject=subject,
    )


@router.get("/servers/{deployment}/{name}/console")
async def console(request: Request, session: LoggedIn, deployment: str, name: str) -> Response:
    here = ports(request)
    detail = await run_in_threadpool(_server, here, deployment, name)
    if detail.instance is None:
        raise NotFound(f"{deployment}/{name} has no instance, so no console", hint="launch it first")
    output = plain_output(await here.console(detail.instance), last=WHOLE)
    return page(request, "console.html", session=session, server=detail, output=output)


@router.get("/servers/{deployment}/{name}/actions/{action}")
def confirm(request: Request, session: LoggedIn, deployment: str, name: str, action: str) -> Response:
    detail = _server(ports(request), deployment, name)
    return page(request, "confirm.html", session=session, server=detail, action=_possible(detail, action))


@router.post("/servers/{deployment}/{name}/actions/{action}")
async def act(request: Request, session: LoggedIn, deployment: str, name: str, action: str) -> Response:
    await door.signed_form(request, session)
    here = ports(request)
    _possible(await run_in_threadpool(_server, here, deployment, name), action)
    task = await here.actions(session.who, f"server:{deployment}/{name}", action)
    return RedirectResponse(f"/tasks/{task}", status_code=303, headers=HEADERS)


@router.get("/tasks")
def tasks(request: Request, session: LoggedIn) -> Response:
    with ports(request).engine.connect() as db:
        running = reading_trail.tasks(db, limit=100, unfinished=True)
        finished = reading_trail.tasks(db, limit=100, unfinished=False)
    return page(request, "tasks.html", session=session, running=running, finished=finished)


@router.get("/tasks/{id}")
def task(request: Request, session: LoggedIn, id: str) -> Response:
    here = ports(request)
    with here.engine.connect() as db:
        detail = reading_trail.task(db, id)
    return page(request, "task.html", session=session, task=detail, outputs=_tails(here, detail.runs))


@router.get("/runs/{id}/{index}")
def output(request: Request, session: LoggedIn, id: str, index: int) -> Response:
    here = ports(request)
    with here.engine.connect() as db:
        run = reading_trail.run(db, id)
    if not 0 <= index < len(run.scripts):
        raise NotFound(f"run {id} has no script of number {index + 1}", hint=f"it has {len(run.scripts)}")
    text = plain_output(here.run_output(id, index), last=WHOLE)
    return page(request, "output.html", session=session, run=run, script=run.scripts[index], output=text)


@router.get("/sites")
def sites(request: Request, session: LoggedIn) -> Response:
    here = ports(request)
    with here.engine.connect() as db:
        deployments = reading.deployments(db, here.connected)
        records = reading_trail.dns_records(db)
    rows = [site for deployment in deployments for site in deployment.sites]
    return page(request, "sites.html", session=session, sites=rows, records=records)


@router.get("/dns")
def dns(request: Request, session: LoggedIn) -> Response:
    with ports(request).engine.connect() as db:
        records = reading_trail.dns_records(db)
    return page(request, "dns.html", session=session, records=records)


@router.get("/images")
def images(request: Request, session: LoggedIn) -> Response:
    with ports(request).engine.connect() as db:
        rows = reading_trail.images(db)
    return page(request, "images.html", session=session, images=rows)


@router.get("/audit")
def audit(
    request: Request,
    session: LoggedIn,
    subject: Annotated[str, Query(max_length=200)] = "",
    before: int | None = None,
) -> Response:
    limit = 100
    with ports(request).engine.connect() as db:
        entries = reading_trail.audit(db, limit=limit + 1, subject=subject.strip(), before=before)
    older = entries[limit - 1].id if len(entries) > limit else None
    return page(request, "audit.html", session=session, entries=entries[:limit], subject=subject.strip(), older=older)


def _server(here: DashboardPorts, deployment: str, name: str) -> reading.ServerDetail:
    with here.engine.connect() as db:
        return reading.server(db, deployment, name, here.connected)


def _possible(detail: reading.ServerDetail, name: str) -> Action:
    """The action of that name; Conflict when the server's state or lock forbids it now."""
    if name not in ACTIONS:
        raise NotFound(f"there is no action {name}", hint=f"there are {', '.join(ACTIONS)}")
    if ACTIONS[name] not in detail.actions:
        why = "locked" if detail.row.locked and not ACTIONS[name].of_locked else detail.row.state.replace("_", " ")
        possible = ", ".join(action.name for action in detail.actions) or "nothing"
        raise Conflict(f"{ACTIONS[name].title} is not possible: the server is {why}", hint=f"possible now: {possible}")
    return ACTIONS[name]


def _tails(here: DashboardPorts, runs: tuple[RunRow, ...]) -> dict[tuple[str, int], str]:
    """The end of the output of what runs or failed, by (run, index of the script)."""
    return {
        (run.id, script.index): plain_output(here.run_output(run.id, script.index), last=TAIL)
        for run in runs
        for script in run.scripts
        if script.state in _SHOWN_AT_ONCE
    }
