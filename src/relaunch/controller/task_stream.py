"""What a task and its children are doing, as server-sent events: from the beginning, then live, until it has ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.engine import Engine

from relaunch.controller.activity import Activity
from relaunch.controller.output_logs import OutputLogs
from relaunch.records.schema import deployments, instances, runs, servers, task_steps, tasks
from relaunch.workflows.tasks import ENDED

HEARTBEAT_SECONDS = 10.0
LOOK_SECONDS = 1.0  # at least so often, whatever was or was not told
REST_SECONDS = 0.05  # a burst of changes is one look


class TaskStream:
    """One viewer. Each look compares the store with what was sent, so that nothing is sent twice or missed."""

    def __init__(self, database: Engine, output: OutputLogs, activity: Activity, task: str) -> None:
        self._database = database
        self._output = output
        self._activity = activity
        self._task = task
        self._sent: dict[tuple[Any, ...], Any] = {}
        self._offsets: dict[tuple[str, int], int] = {}
        self._runs_done: set[str] = set()
        self._names: dict[str, str] = {}

    async def events(self) -> AsyncIterator[str]:
        """Each a whole event, ready for the wire."""
        told = time.monotonic()
        with self._activity.watch() as woken:
            while not self._activity.ending:
                woken.clear()
                ended = False
                for name, data in self._look():
                    told = time.monotonic()
                    ended = ended or (name == "task" and data["state"] in ENDED)
                    yield f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
                if ended:
                    return
                if time.monotonic() - told >= HEARTBEAT_SECONDS:
                    told = time.monotonic()
                    yield ": still here\n\n"
                try:
                    await asyncio.wait_for(woken.wait(), LOOK_SECONDS)
                    await asyncio.sleep(REST_SECONDS)
                except TimeoutError:
                    pass

    def _look(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What is new: steps and output before the end of the task they belong to."""
        with self._database.connect() as connection:
            family = _family(connection, self._task)
            by_id = {task["id"]: task for task in family}
            steps = _steps(connection, list(by_id))
            followed = [row for row in _runs(connection, list(by_id)) if row["id"] not in self._runs_done]
            for row in followed:
                self._name(connection, row["instance_id"])
        for step in steps:
            key = ("step", step["task_id"], step["number"])
            if self._changed(key, (step["state"], step["detail"], step["started"])):
                yield "step", {**step, "task": step["task_id"], "server": _subject_name(by_id[step["task_id"]])}
        for run in followed:
            yield from self._new_output(run)
        for task in family:
            if self._changed(("task", task["id"]), (task["state"], task["error"])):
                yield ("task" if task["id"] == self._task else "child"), task

    def _new_output(self, run: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        for index, script in enumerate(run["order"]["scripts"]):
            key = (run["id"], index)
            while True:
                piece = self._output.read(run["id"], index, self._offsets.get(key, 0))
                if piece.next_offset == piece.offset:
                    break
                self._offsets[key] = piece.next_offset
                yield (
                    "output",
                    {
                        "server": self._names[run["instance_id"]],
                        "script": script["name"],
                        "run": run["id"],
                        "index": index,
                        "text": piece.text,
                    },
                )
        if run["state"] in ENDED:
            self._runs_done.add(run["id"])

    def _changed(self, key: tuple[Any, ...], value: Any) -> bool:
        if self._sent.get(key) == value:
            return False
        self._sent[key] = value
        return True

    def _name(self, connection: Connection, instance: str) -> None:
        if instance in self._names:
            return
        row = connection.execute(
            select(deployments.c.name, servers.c.name)
            .join(servers, servers.c.deployment_id == deployments.c.id)
            .join(instances, instances.c.server_id == servers.c.id)
            .where(instances.c.id == instance)
        ).first()
        self._names[instance] = f"{row[0]}/{row[1]}" if row else instance


def _family(connection: Connection, task: str) -> list[dict[str, Any]]:
    """The task and all below it, children first, so that its own end is told last."""
    levels: list[list[dict[str, Any]]] = []
    wanted = tasks.c.id == task
    while True:
        level = [dict(row) for row in connection.execute(select(tasks).where(wanted)).mappings()]
        if not level:
            return [row for each in reversed(levels) for row in each]
        levels.append(level)
        wanted = tasks.c.parent_id.in_([row["id"] for row in level])


def _steps(connection: Connection, family: list[str]) -> list[dict[str, Any]]:
    query = select(task_steps).where(task_steps.c.task_id.in_(family))
    rows = connection.execute(query.order_by(task_steps.c.started, task_steps.c.number)).mappings()
    return [dict(row) for row in rows]


def _runs(connection: Connection, family: list[str]) -> list[dict[str, Any]]:
    c = runs.c
    query = select(c.id, c.instance_id, c.order, c.state).where(c.task_id.in_(family)).order_by(c.created)
    return [dict(row) for row in connection.execute(query).mappings()]


def _subject_name(task: dict[str, Any]) -> str:
    """shop/front1 of server:shop/front1."""
    return str(task["subject"]).partition(":")[2]
