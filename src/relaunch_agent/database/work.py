"""The database part of the agent put together: roles, reports, heartbeat, probes, lease."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, Callable, FrozenSet, Mapping

from relaunch.bus.messages import DatabaseReport, TakeRole
from relaunch.errors import Conflict
from relaunch_agent.database.heartbeat import Heartbeat
from relaunch_agent.database.kept import KeptRole
from relaunch_agent.database.lagging import lagging
from relaunch_agent.database.lease import Lease, hears_replica
from relaunch_agent.database.local_server import LocalServer
from relaunch_agent.database.reporting import Reporter
from relaunch_agent.database.roles import Roles
from relaunch_agent.database.witness import Witness
from relaunch_agent.link import Link
from relaunch_agent.places import Places

LEASE_LOOK_SECONDS = 0.5
LAG_LOOK_SECONDS = 1.0
READ_LAG_SECONDS = 30.0
LAST_LOOK_SECONDS = 0.3  # for the look after a role was tried, which the answer tells


class DatabaseWork:
    """Made in the event loop. A server that is no member of a group only watches those that are."""

    def __init__(self, places: Places, link: Link, too_far_behind: Callable[[FrozenSet[str]], object]) -> None:
        """`too_far_behind` is told the addresses of the replicas that are not to be read from."""
        self._link = link
        self._too_far_behind = too_far_behind
        self._lagging: FrozenSet[str] = frozenset()
        self._primary, self._read_lag = "", READ_LAG_SECONDS
        self._server = LocalServer(places)
        self._kept = kept = KeptRole(places)
        heartbeat = Heartbeat(self._server, kept, self._is_writable)
        self._heartbeat = heartbeat
        self._reporter = Reporter(self._server, kept, heartbeat, link.tell)
        self._roles = Roles(self._server, kept, self._reporter.look_now)
        self._witness = Witness(places, link.tell)
        self._lease = Lease(time.monotonic())
        self._tasks: list[asyncio.Future[None]] = []
        self._mode = ""
        self._is_member = False

    def take_view(self, view: Mapping[str, Any]) -> None:
        database: Mapping[str, Any] = view.get("database") or {}
        own: Mapping[str, Any] = view.get("server") or {}
        members = database.get("members") or ()
        self._mode = str(database.get("mode", ""))
        others = [each["address"] for each in members if each["instance"] != own.get("instance")]
        self._primary = str((database.get("primary") or {}).get("address") or "")
        self._witness.watch(others, int(database.get("epoch") or 0), primary=self._primary)
        self._read_lag = float(database.get("read_lag_seconds") or READ_LAG_SECONDS)
        if not self._tasks:
            self._begin(self._witness.say_for_ever())
            self._begin(self._judge_lag())
        if not self._is_member and any(each["instance"] == own.get("instance") for each in members):
            self._is_member = True
            self._reporter.start()
            self._roles.start()
            self._heartbeat.start()
            self._begin(self._reporter.report_for_ever())
            self._begin(self._keep_lease())

    async def take(self, order: TakeRole) -> DatabaseReport:
        if not self._is_member:
            raise Conflict("this server is in no database group, as far as it knows")
        if not self._server.joined:
            raise Conflict("this server has not joined its group yet")
        began = time.monotonic()
        await self._roles.take(order)
        return await self._reporter.fresh(max(LAST_LOOK_SECONDS, order.seconds - (time.monotonic() - began)))

    @property
    def report(self) -> DatabaseReport:
        return self._reporter.report()

    def failed(self) -> BaseException | None:
        return next((task.exception() for task in self._tasks if task.done()), None)

    @property
    def _is_primary(self) -> bool:
        return self._kept.order is not None and self._kept.order.role == "primary"

    def _begin(self, work: Any) -> None:
        self._tasks.append(asyncio.ensure_future(work))

    def _is_writable(self) -> bool:
        state = self._reporter.state
        return state is not None and not state.read_only

    async def _judge_lag(self) -> None:
        while True:
            await asyncio.sleep(LAG_LOOK_SECONDS)
            found = lagging(
                self._witness.beats(), self._primary, self._lagging, limit=self._read_lag, now=time.monotonic()
            )
            if found != self._lagging:
                print(f"database: too far behind to read from: {', '.join(sorted(found)) or 'nobody'}", file=sys.stderr)
                self._lagging = found
                self._too_far_behind(found)

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(LEASE_LOOK_SECONDS)
            state = self._reporter.state
            holds = self._mode == "sync" and self._is_primary and state is not None and not state.read_only
            over = self._lease.is_over(
                time.monotonic(), holds=holds, controller_heard=self._link.heard_at,
                acknowledged=hears_replica(state, waits=self._heartbeat.unheard),
            )  # fmt: skip
            if over:
                self._roles.fence("neither the controller nor a replica that acknowledges was heard for 6 s")
