"""What people see of workflows: the tables tasks and task_steps, and one audit entry at each start and end."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, delete, func, insert, select, update
from sqlalchemy.engine import Engine

from relaunch.clock import Clock
from relaunch.errors import NotFound
from relaunch.records.schema import audit, task_steps, tasks

WHO = "relaunch"  # ordered what the controller does by itself, in tasks and the audit trail
ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked, by whom, about what; plain enough to travel in a workflow's stored arguments."""

    kind: str
    title: str
    subject: str
    who: str
    parent: str | None = None


class TaskList:
    """Reads and writes the rows of tasks; every write can be repeated."""

    def __init__(self, database: Engine, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def _now(self) -> str:
        return self._clock.now().isoformat(timespec="microseconds")

    def begin(self, task: str, asked: Asked) -> dict[str, Any]:
        """The row, new with its audit entry unless it has begun already."""
        with self._database.begin() as connection:
            this = select(tasks).where(tasks.c.id == task)
            if (row := connection.execute(this).mappings().first()) is not None:
                return dict(row)
            connection.execute(
                insert(tasks).values(
                    id=task, kind=asked.kind, title=asked.title, subject=asked.subject, parent_id=asked.parent,
                    state="running", who=asked.who, created=self._now(),
                )
            )  # fmt: skip
            self._audit(connection, asked, f"{asked.kind} begun", "done", {"task": task, "title": asked.title})
            return dict(connection.execute(this).mappings().one())

    def end(self, task: str, asked: Asked, state: str, *, error: str = "", result: Any = None) -> None:
        """Nothing when it has ended already."""
        with self._database.begin() as connection:
            ended = connection.execute(
                update(tasks)
                .where(tasks.c.id == task, tasks.c.state.not_in(ENDED))
                .values(state=state, finished=self._now(), error=error, result=result)
            )
            if not ended.rowcount:
                return
            detail = {"task": task, "state": state} | ({"error": error} if error else {})
            self._audit(connection, asked, asked.kind, "done" if state == "succeeded" else "failed", detail)

    def _audit(self, connection: Any, asked: Asked, action: str, result: str, detail: dict[str, Any]) -> None:
        connection.execute(
            insert(audit).values(
                at=self._now(), who=asked.who, action=action, subject=asked.subject, result=result, detail=detail
            )
        )

    def step_started(self, task: str, number: int, name: str) -> None:
        with self._database.begin() as connection:
            connection.execute(delete(task_steps).where(task_steps.c.task_id == task, task_steps.c.number == number))
            connection.execute(
                insert(task_steps).values(
                    task_id=task, number=number, name=name, state="running", started=self._now(), detail=""
                )
            )

    def step_ended(self, task: str, number: int, state: str, *, seconds: float, detail: str = "") -> None:
        with self._database.begin() as connection:
            connection.execute(
                update(task_steps)
                .where(task_steps.c.task_id == task, task_steps.c.number == number)
                .values(state=state, seconds=seconds, detail=detail)
            )

    def step_detail(self, task: str, number: int, detail: str) -> None:
        """What the running step is at, in words."""
        with self._database.begin() as connection:
            connection.execute(
                update(task_steps)
                .where(task_steps.c.task_id == task, task_steps.c.number == number)
                .values(detail=detail)
            )

    def get(self, task: str) -> dict[str, Any]:
        with self._database.connect() as connection:
            row = connection.execute(select(tasks).where(tasks.c.id == task)).mappings().first()
        if row is None:
            raise NotFound(f"no task {task}", hint="`relaunch task list` shows what there is")
        return dict(row)

    def unfinished(self) -> list[dict[str, Any]]:
        with self._database.connect() as connection:
            rows = connection.execute(select(tasks).where(tasks.c.state.not_in(ENDED)).order_by(tasks.c.created))
            return [dict(row) for row in rows.mappings()]

    def running_on(self, subject: str, *, besides: Collection[str] = ()) -> dict[str, Any] | None:
        """The unfinished task about this subject, the oldest if several; those of the kinds `besides` do not count."""
        with self._database.connect() as connection:
            query = select(tasks).where(
                tasks.c.subject == subject, tasks.c.state.not_in(ENDED), tasks.c.kind.not_in(besides)
            )
            row = connection.execute(query.order_by(tasks.c.created)).mappings().first()
        return dict(row) if row else None

    def last_on(self, subject: str, kind: str) -> dict[str, Any] | None:
        """The newest task of this kind about this subject, ended or not."""
        with self._database.connect() as connection:
            query = select(tasks).where(tasks.c.subject == subject, tasks.c.kind == kind)
            row = connection.execute(query.order_by(tasks.c.created.desc())).mappings().first()
        return dict(row) if row else None

    def children(self, task: str) -> list[str]:
        with self._database.connect() as connection:
            return list(connection.scalars(select(tasks.c.id).where(tasks.c.parent_id == task)))

    def count(self, prefix: str) -> int:
        """How many tasks have an id that starts so."""
        with self._database.connect() as connection:
            query = select(func.count()).select_from(tasks).where(tasks.c.id.startswith(prefix, autoescape=True))
            return int(connection.scalar(query) or 0)

    def tries(self, prefix: str) -> list[dict[str, Any]]:
        """The tasks called PREFIX-NUMBER, without what these have begun; the first one first."""
        with self._database.connect() as connection:
            query = select(tasks).where(tasks.c.id.startswith(f"{prefix}-", autoescape=True))
            rows = [dict(row) for row in connection.execute(query).mappings()]
        numbered = [(row["id"].removeprefix(f"{prefix}-"), row) for row in rows]
        return [row for _, row in sorted((int(number), row) for number, row in numbered if number.isdecimal())]

    def old(self, kinds: Collection[str], before: datetime, *, most: int) -> list[str]:
        """Those of these kinds that ended before then, the oldest first; never the newest of a kind about a subject."""
        newest = select(tasks.c.kind, tasks.c.subject, func.max(tasks.c.created).label("created"))
        last = newest.where(tasks.c.kind.in_(kinds)).group_by(tasks.c.kind, tasks.c.subject).subquery()
        query = (
            select(tasks.c.id)
            .join(last, and_(last.c.kind == tasks.c.kind, last.c.subject == tasks.c.subject))
            .where(tasks.c.finished < before.isoformat(timespec="microseconds"), tasks.c.created < last.c.created)
            .order_by(tasks.c.created)
            .limit(most)
        )
        with self._database.connect() as connection:
            return list(connection.scalars(query))

    def forget(self, ended: Collection[str]) -> None:
        with self._database.begin() as connection:
            connection.execute(delete(task_steps).where(task_steps.c.task_id.in_(ended)))
            connection.execute(delete(tasks).where(tasks.c.id.in_(ended)))

    def ask_cancel(self, task: str, who: str) -> None:
        """Kept in the row, so that a controller killed meanwhile still cancels it."""
        with self._database.begin() as connection:
            connection.execute(
                update(tasks)
                .where(tasks.c.id == task, tasks.c.state.not_in(ENDED))
                .values(result={"cancel_asked_by": who})
            )
