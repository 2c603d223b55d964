"""What the store keeps of agents: their runs, tags, outputs, and when they were last heard."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.engine import Engine

from relaunch.bus.messages import Hello, Published, RunScripts, RunState, ScriptResult
from relaunch.clock import Clock
from relaunch.controller.times import stamp
from relaunch.controller.tokens import digest
from relaunch.errors import Conflict, NotFound
from relaunch.records.schema import database_groups, deployments, instances, runs, servers
from relaunch.servers.lifecycle import State

log = logging.getLogger("relaunch.agents")

ENDED = ("succeeded", "failed", "cancelled")
KNOWN_RUNS = 4096


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
        state = self._state(instance)
        if state is None:
            raise NotFound(f"no instance {instance}")
        if state == State.TERMINATED or (phase == "boot" and state == State.DECOMMISSIONING):
            raise Conflict(f"the instance of {self.called(instance)} is {state}")

    def _state(self, instance: str) -> str | None:
        with self._database.connect() as connection:
            return connection.execute(select(instances.c.state).where(instances.c.id == instance)).scalar()

    def hello(self, instance: str, hello: Hello) -> None:
        """Not its boot: that is stored when what follows from a new one is under way (servers/reconcile.py)."""
        with self._database.begin() as connection:
            connection.execute(
                update(instances)
                .where(instances.c.id == instance)
                .values(agent_version=hello.agent_version, last_seen=stamp(self._clock.now()))
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
        with self._database.begin() as connection:
            present = connection.execute(select(runs.c.instance_id).where(runs.c.id == order.run_id)).scalar()
            if present is not None and present != instance:
                raise Conflict(f"run {order.run_id} belongs to another instance")
            if present is None:
                connection.execute(
                    insert(runs).values(
                        id=order.run_id,
                        instance_id=instance,
                        task_id=task,
                        phase=order.phase,
                        order=_without_values(order),
                        state="waiting",
                        results=[],
                        created=stamp(self._clock.now()),
                    )
                )

    def ended_run(self, run_id: str) -> RunState | None:
        """Its final state, None while it has none."""
        with self._database.connect() as connection:
            row = connection.execute(
                select(runs.c.state, runs.c.results, runs.c.detail).where(runs.c.id == run_id)
            ).first()
        if row is None or row[0] not in ENDED:
            return None
        results = [ScriptResult(**result) for result in row[1]]
        return RunState(run_id=run_id, state=row[0], results=results, detail=row[2])

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
        if run.state == "unknown":
            return False
        with self._database.begin() as connection:
            row = connection.execute(
                select(runs.c.instance_id, runs.c.state, runs.c.sequence).where(runs.c.id == run.run_id)
            ).first()
            if row is None or row[0] != instance:
                log.warning("%s reports run %s, which is none of its", self.called(instance), run.run_id)
                return False
            if row[1] in ENDED or (sequence is not None and sequence <= row[2]):
                return False
            values: dict[str, Any] = {
                "state": run.state,
                "results": [asdict(result) for result in run.results],
                "detail": run.detail,
            }
            if sequence is not None:
                values["sequence"] = sequence
            if run.state in ENDED:
                values["finished"] = stamp(self._clock.now())
            connection.execute(update(runs).where(runs.c.id == run.run_id).values(values))
        return True

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

    def may_write(self, instance: str) -> tuple[bool, int]:
        """Is it the present instance of its group's stored primary; and the group's epoch."""
        with self._database.connect() as connection:
            server = connection.execute(
                select(servers.c.id, servers.c.deployment_id, servers.c.instance_id, instances.c.state)
                .join(instances, instances.c.server_id == servers.c.id)
                .where(instances.c.id == instance)
            ).first()
            if server is None:
                return False, 0
            group = _group_of(connection, server.deployment_id, server.id)
        if group is None:
            return False, 0
        primary, epoch = group
        fenced = server.state in (State.SET_ASIDE, State.TERMINATED)
        return primary == server.id and server.instance_id == instance and not fenced, epoch


def _group_of(connection: Connection, deployment: str, server: str) -> tuple[str | None, int] | None:
    """(primary's server, epoch) of the group this server leads, else of the deployment's first."""
    g = database_groups.c
    rows = connection.execute(
        select(g.primary_server_id, g.epoch).where(g.deployment_id == deployment).order_by(g.name)
    ).all()
    mine = [row for row in rows if row[0] == server] or list(rows[:1])
    return (mine[0][0], mine[0][1]) if mine else None


def _without_values(order: RunScripts) -> dict[str, Any]:
    plain = asdict(order)
    for script in plain["scripts"]:
        script["inputs"] = dict.fromkeys(script["inputs"], "•••")
    return plain
