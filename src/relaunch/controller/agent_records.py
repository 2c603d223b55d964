"""What the store keeps of agents: their runs, tags, outputs, and when they were last heard."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.engine import Engine

from relaunch.bus.messages import Hello, Published, RunScripts, RunState, ScriptResult
from relaunch.clock import Clock
from relaunch.controller.times import stamp
from relaunch.controller.tokens import digest
from relaunch.errors import Conflict, NotFound, RelaunchError
from relaunch.records.schema import deployments, instances, runs, servers
from relaunch.servers.lifecycle import State

log = logging.getLogger("relaunch.agents")

ENDED = ("succeeded", "failed", "cancelled")
KNOWN_RUNS = 4096


STORE = (
    update(runs)
    .where(runs.c.id == bindparam("run"))
    .values(
        state=bindparam("new_state"), detail=bindparam("new_detail"), results=bindparam("new_results"),
        sequence=bindparam("new_sequence"), finished=bindparam("new_finished"),
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """A run that is to be ordered."""

    instance: str
    order: RunScripts
    task: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an agent says of a run; unnumbered when it is an answer."""

    instance: str
    run: RunState
    sequence: int | None


class AgentRecords:
    def __init__(self, database: Engine, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._names: dict[str, str] = {}
        self._owners: dict[str, str] = {}  # run → instance, read once each

    # who they are

    def may_connect(self, agent: str, secret: str) -> bool:
        """Is this the agent's own secret, and its instance not terminated?"""
        with self._database.connect() as connection:
            row = connection.execute(
                select(instances.c.agent_secret_sha256, instances.c.state).where(instances.c.id == agent)
            ).first()
        if row is None or not row[0] or row[1] == State.TERMINATED:
            return False
        return hmac.compare_digest(str(row[0]), digest(secret))

    def called(self, instance: str) -> str:
        """deployment/server for people, else the instance's id."""
        if instance not in self._names:
            query = (
                select(deployments.c.name, servers.c.name)
                .join(servers, servers.c.deployment_id == deployments.c.id)
                .join(instances, instances.c.server_id == servers.c.id)
                .where(instances.c.id == instance)
            )
            with self._database.connect() as connection:
                row = connection.execute(query).first()
            if row is None:
                return instance
            self._names[instance] = f"{row[0]}/{row[1]}"
        return self._names[instance]

    def is_gone(self, instance: str) -> bool:
        return self._state(instance) in (None, State.TERMINATED)

    def refuse_gone(self, instance: str, *, phase: str = "") -> None:
        """Conflict when there is nothing to wait for any more."""
        gone = self._gone(instance, self._state(instance), phase)
        if gone is not None:
            raise gone

    def _gone(self, instance: str, state: str | None, phase: str) -> RelaunchError | None:
        if state is None:
            return NotFound(f"no instance {instance}")
        if state == State.TERMINATED or (phase == "boot" and state == State.DECOMMISSIONING):
            return Conflict(f"the instance of {self.called(instance)} is {state}")
        return None

    def _state(self, instance: str) -> str | None:
        with self._database.connect() as connection:
            return connection.execute(select(instances.c.state).where(instances.c.id == instance)).scalar()

    def hello(self, instance: str, hello: Hello) -> None:
        """Not its boot: that is stored when what follows from a new one is under way (servers/reconcile.py).

        Its view may be of a later version than a store knows that was put back from an older copy. The next is newer.
        """
        with self._database.begin() as connection:
            connection.execute(
                update(instances)
                .where(instances.c.id == instance)
                .values(
                    agent_version=hello.agent_version,
                    last_seen=stamp(self._clock.now()),
                    view_version=func.max(instances.c.view_version, hello.view_version),
                )
            )

    def seen(self, agents: Sequence[str]) -> None:
        """One write for all that were heard since the last."""
        if not agents:
            return
        now = stamp(self._clock.now())
        with self._database.begin() as connection:
            connection.execute(
                update(instances).where(instances.c.id == bindparam("agent")).values(last_seen=now),
                [{"agent": agent} for agent in agents],
            )

    # runs

    def begin_run(self, instance: str, order: RunScripts, *, task: str | None) -> None:
        """The row of this run, without the inputs' values; nothing when it is there already."""
        found = self.begin_runs([Beginning(instance=instance, order=order, task=task)])[0]
        if isinstance(found, Exception):
            raise found

    def begin_runs(self, beginnings: Sequence[Beginning]) -> list[RunState | Exception | None]:
        """The rows of these runs, in one transaction; for each its final state if it has ended, or why it cannot be."""
        now = stamp(self._clock.now())
        answers: list[RunState | Exception | None] = []
        new: list[dict[str, Any]] = []
        with self._database.begin() as connection:
            states = _by_id(connection, instances, (instances.c.state,), {each.instance for each in beginnings})
            columns = (runs.c.instance_id, runs.c.state, runs.c.results, runs.c.detail)
            present = _by_id(connection, runs, columns, {each.order.run_id for each in beginnings})
            for each in beginnings:
                run_id, row = each.order.run_id, present.get(each.order.run_id)
                if row is not None and row.instance_id != each.instance:
                    answers.append(Conflict(f"run {run_id} belongs to another instance"))
                elif row is not None and row.state in ENDED:
                    answers.append(_ended(row))
                else:
                    state = states[each.instance].state if each.instance in states else None
                    answers.append(self._gone(each.instance, state, each.order.phase))
                    if row is None and answers[-1] is None:
                        new.append(
                            {
                                "id": run_id,
                                "instance_id": each.instance,
                                "task_id": each.task,
                                "phase": each.order.phase,
                                "order": _without_values(each.order),
                                "state": "waiting",
                                "results": [],
                                "created": now,
                            }
                        )
            if new:
                connection.execute(insert(runs), new)
        return answers

    def ended_run(self, run_id: str) -> RunState | None:
        """Its final state, None while it has none."""
        with self._database.connect() as connection:
            columns = (runs.c.state, runs.c.results, runs.c.detail)
            row = _by_id(connection, runs, columns, {run_id}).get(run_id)
        return None if row is None else _ended(row)

    def owns_run(self, instance: str, run_id: str) -> bool:
        """An agent may write output only to runs it was given."""
        if run_id not in self._owners:
            with self._database.connect() as connection:
                owner = connection.execute(select(runs.c.instance_id).where(runs.c.id == run_id)).scalar()
            if owner is None:
                return False
            if len(self._owners) >= KNOWN_RUNS:
                self._owners.clear()
            self._owners[run_id] = owner
        return self._owners[run_id] == instance

    def store_run(self, instance: str, run: RunState, sequence: int | None) -> bool:
        """Keep it unless it is late, ended already, or not this instance's; did anything change?"""
        return self.store_runs([Report(instance=instance, run=run, sequence=sequence)])[0]

    def store_runs(self, reports: Sequence[Report]) -> list[bool]:
        """The same for many, in their order and in one transaction."""
        now = stamp(self._clock.now())
        changed: list[bool] = []
        values: list[dict[str, Any]] = []
        with self._database.begin() as connection:
            columns = (runs.c.instance_id, runs.c.state, runs.c.sequence, runs.c.finished)
            rows = _by_id(connection, runs, columns, {each.run.run_id for each in reports})
            known = {run_id: dict(row._mapping) for run_id, row in rows.items()}
            for each in reports:
                run, row = each.run, known.get(each.run.run_id)
                changed.append(self._is_news(each, row))
                if row is None or not changed[-1]:
                    continue
                row["state"] = run.state
                row["sequence"] = row["sequence"] if each.sequence is None else each.sequence
                row["finished"] = now if run.state in ENDED else row["finished"]
                values.append(
                    {
                        "run": run.run_id,
                        "new_state": run.state,
                        "new_detail": run.detail,
                        "new_results": [asdict(result) for result in run.results],
                        "new_sequence": row["sequence"],
                        "new_finished": row["finished"],
                    }
                )
            if values:
                connection.execute(STORE, values)
        return changed

    def _is_news(self, report: Report, row: Mapping[str, Any] | None) -> bool:
        if report.run.state == "unknown":
            return False
        if row is None or row["instance_id"] != report.instance:
            log.warning("%s reports run %s, which is none of its", self.called(report.instance), report.run.run_id)
            return False
        late = report.sequence is not None and report.sequence <= row["sequence"]
        return row["state"] not in ENDED and not late

    def fail_run(self, run_id: str, why: str) -> None:
        with self._database.begin() as connection:
            connection.execute(
                update(runs)
                .where(runs.c.id == run_id, runs.c.state.not_in(ENDED))
                .values(state="failed", detail=why, finished=stamp(self._clock.now()))
            )

    # what scripts tell

    def publish(self, instance: str, news: Published) -> None:
        with self._database.begin() as connection:
            row = connection.execute(
                select(instances.c.tags, instances.c.outputs).where(instances.c.id == instance)
            ).one()
            tags = {name: value for name, value in row[0].items() if name not in news.removed_tags}
            connection.execute(
                update(instances)
                .where(instances.c.id == instance)
                .values(tags=tags | news.tags, outputs=row[1] | news.outputs)
            )


def _ended(row: Any) -> RunState | None:
    if row.state not in ENDED:
        return None
    results = [ScriptResult(**result) for result in row.results]
    return RunState(run_id=row.id, state=row.state, results=results, detail=row.detail)


def _by_id(connection: Connection, table: Any, columns: Sequence[Any], ids: Collection[str]) -> dict[str, Any]:
    rows = connection.execute(select(table.c.id, *columns).where(table.c.id.in_(ids)))
    return {row.id: row for row in rows}


def _without_values(order: RunScripts) -> dict[str, Any]:
    plain = asdict(order)
    for script in plain["scripts"]:
        script["inputs"] = dict.fromkeys(script["inputs"], "•••")
    return plain
