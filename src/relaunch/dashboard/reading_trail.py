"""What was done and what there is: tasks, runs, audit entries, DNS records, images; queries → frozen values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, select

from relaunch.dashboard.activity import RunScript, scripts_of
from relaunch.errors import NotFound
from relaunch.records import schema

UNFINISHED = ("waiting", "running")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    id: str
    kind: str
    title: str
    subject: str
    state: str
    who: str
    created: str
    finished: str | None
    error: str
    step: str  # the one it is at, "" when it has none running


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    number: int
    name: str
    state: str
    started: str
    seconds: float | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """`server` is deployment/name, "" for an instance that serves nobody (a bake)."""

    id: str
    server: str
    instance: str
    task_id: str | None
    phase: str
    state: str
    detail: str
    created: str
    finished: str | None
    scripts: tuple[RunScript, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDetail:
    row: TaskRow
    parent: TaskRow | None
    children: tuple[TaskRow, ...]
    steps: tuple[Step, ...]
    runs: tuple[RunRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    id: int
    at: str
    who: str
    action: str
    subject: str
    result: str
    detail: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsRow:
    name: str
    type: str
    values: tuple[str, ...]
    ttl_seconds: int
    deployment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    key: str
    name: str
    state: str
    cloud_image_id: str
    created: str
    detail: str
    changelog: Any


def tasks(
    db: Connection,
    *,
    limit: int,
    unfinished: bool | None = None,
    subject: str | None = None,
    parent: str | None = None,
) -> tuple[TaskRow, ...]:
    """The newest first; `unfinished` True or False for only those that are or are not."""
    query = select(schema.tasks).order_by(schema.tasks.c.created.desc(), schema.tasks.c.id).limit(limit)
    if unfinished is not None:
        among = schema.tasks.c.state.in_(UNFINISHED)
        query = query.where(among if unfinished else ~among)
    if subject:
        query = query.where(schema.tasks.c.subject == subject)
    if parent:
        query = query.where(schema.tasks.c.parent_id == parent)
    return _task_rows(db, query)


def task(db: Connection, id: str) -> TaskDetail:
    """All of one task; NotFound when there is none of that id."""
    row = db.execute(select(schema.tasks).where(schema.tasks.c.id == id)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no task {id}", hint="the tasks page lists all there are")
    steps = db.execute(
        select(schema.task_steps).where(schema.task_steps.c.task_id == id).order_by(schema.task_steps.c.number)
    ).mappings()
    parent = _task_rows(db, select(schema.tasks).where(schema.tasks.c.id == row["parent_id"]))
    return TaskDetail(
        row=_task_rows(db, select(schema.tasks).where(schema.tasks.c.id == id))[0],
        parent=parent[0] if parent else None,
        children=tasks(db, limit=200, parent=id)[::-1],
        steps=tuple(Step(**{name: step[name] for name in Step.__slots__}) for step in steps),
        runs=_runs(db, _run_query().where(schema.runs.c.task_id == id).order_by(schema.runs.c.created)),
    )


def runs_of(db: Connection, instance: str | None, *, limit: int) -> tuple[RunRow, ...]:
    """The newest first."""
    query = _run_query().where(schema.runs.c.instance_id == instance)
    return _runs(db, query.order_by(schema.runs.c.created.desc()).limit(limit))


def run(db: Connection, id: str) -> RunRow:
    found = _runs(db, _run_query().where(schema.runs.c.id == id))
    if not found:
        raise NotFound(f"there is no run {id}", hint="a server's page lists its runs")
    return found[0]


def audit(db: Connection, *, limit: int, subject: str = "", before: int | None = None) -> tuple[AuditEntry, ...]:
    """The newest first; `subject` matches anywhere in an entry's subject, `before` is the id to go on from."""
    query = select(schema.audit).order_by(schema.audit.c.id.desc()).limit(limit)
    if subject:
        query = query.where(schema.audit.c.subject.contains(subject, autoescape=True))
    if before is not None:
        query = query.where(schema.audit.c.id < before)
    return _audit_entries(db, query)


def audit_of(db: Connection, subject: str, *, limit: int) -> tuple[AuditEntry, ...]:
    """Of exactly this subject, the newest first."""
    query = select(schema.audit).where(schema.audit.c.subject == subject)
    return _audit_entries(db, query.order_by(schema.audit.c.id.desc()).limit(limit))


def dns_records(db: Connection) -> tuple[DnsRow, ...]:
    """By domain, then name: names are compared from their last label on."""
    found = db.execute(select(schema.dns_records)).mappings()
    rows = [
        DnsRow(
            name=row["name"],
            type=row["type"],
            values=tuple(str(value) for value in row["values"]),
            ttl_seconds=row["ttl_seconds"],
            deployment=row["deployment"],
        )
        for row in found
    ]
    return tuple(sorted(rows, key=lambda row: (row.name.split(".")[::-1], row.type)))


def images(db: Connection) -> tuple[ImageRow, ...]:
    found = db.execute(select(schema.images).order_by(schema.images.c.created.desc())).mappings()
    return tuple(
        ImageRow(**{name: row[name] if row[name] is not None else "" for name in ImageRow.__slots__}) for row in found
    )


def _task_rows(db: Connection, query: Select[Any]) -> tuple[TaskRow, ...]:
    rows = db.execute(query).mappings().all()
    present = [row["id"] for row in rows if row["state"] in UNFINISHED]
    running = db.execute(
        select(schema.task_steps.c.task_id, schema.task_steps.c.name)
        .where(schema.task_steps.c.task_id.in_(present), schema.task_steps.c.state == "running")
        .order_by(schema.task_steps.c.number)
    )
    steps: dict[str, str] = {step.task_id: step.name for step in running}
    columns = ("id", "kind", "title", "subject", "state", "who", "created", "finished", "error")
    return tuple(TaskRow(step=steps.get(row["id"], ""), **{name: row[name] for name in columns}) for row in rows)


def _run_query() -> Select[Any]:
    return (
        select(
            schema.runs,
            schema.servers.c.name.label("server_name"),
            schema.deployments.c.name.label("deployment_name"),
        )
        .join(schema.instances, schema.instances.c.id == schema.runs.c.instance_id)
        .outerjoin(schema.servers, schema.servers.c.id == schema.instances.c.server_id)
        .outerjoin(schema.deployments, schema.deployments.c.id == schema.servers.c.deployment_id)
    )


def _runs(db: Connection, query: Select[Any]) -> tuple[RunRow, ...]:
    return tuple(_run_row(row) for row in db.execute(query).mappings())


def _run_row(row: RowMapping) -> RunRow:
    return RunRow(
        id=row["id"],
        server=f"{row['deployment_name']}/{row['server_name']}" if row["server_name"] else "",
        instance=row["instance_id"],
        task_id=row["task_id"],
        phase=row["phase"],
        state=row["state"],
        detail=row["detail"],
        created=row["created"],
        finished=row["finished"],
        scripts=scripts_of(row["order"], row["results"]),
    )


def _audit_entries(db: Connection, query: Select[Any]) -> tuple[AuditEntry, ...]:
    rows: Iterable[RowMapping] = db.execute(query).mappings()
    return tuple(AuditEntry(**{name: row[name] for name in AuditEntry.__slots__}) for row in rows)
