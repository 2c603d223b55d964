"""The controller's side of the bus: who is connected, orders and their answers, reports (implements `ports.Agents`)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, MaxPayloadError, NoRespondersError
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeout

from relaunch.bus import subjects
from relaunch.bus.messages import (
    Accepted,
    Alive,
    AskRun,
    DatabaseReport,
    Hello,
    Output,
    Published,
    Refused,
    Retire,
    RunProgress,
    RunScripts,
    RunState,
    Stored,
    TakeRole,
    Welcome,
    Witnessed,
    decode,
    encode,
)
from relaunch.controller.agent_records import ENDED, AgentRecords, Beginning, Report
from relaunch.controller.bus import Bus
from relaunch.controller.group_commit import GroupCommit
from relaunch.controller.output_logs import OutputLogs
from relaunch.controller.waiting import Waiters
from relaunch.errors import BadInput, Conflict, Unavailable

log = logging.getLogger("relaunch.agents")

EVERYTHING = "v1.agent.*.*"  # one subscription, so that an agent's output and reports keep their order
PENDING_BYTES = 32_000_000  # what may wait here unread; output beyond is lost, reports are sent again
SILENT_SECONDS = 10.0
LOOK_SECONDS = 1.0
HELLO_SECONDS = 2.0  # a connection that speaks without having said hello in this time is closed
HEARTBEAT_SECONDS = 2.0
WRITE_SEEN_SECONDS = 10.0
ASK_AGAIN_SECONDS = 10.0
ROLE_MARGIN_SECONDS = 0.5
REPORTS_SETTLE_SECONDS = 0.01  # reports of many servers come together: one commit for those within a moment


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloSaid:
    """An agent has (re)connected."""

    instance: str
    hello: Hello


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLost:
    """Its connection ended, or it has been silent too long."""

    instance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TagsChanged:
    """It published or removed tags or outputs."""

    instance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChanged:
    instance: str
    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSeen:
    """What an agent sees of its own database server, or of others'."""

    instance: str
    seen: DatabaseReport | Witnessed


AgentEvent = HelloSaid | AgentLost | TagsChanged | RunChanged | DatabaseSeen


@dataclass(slots=True)
class _Link:
    """One connection of an agent that has said hello."""

    connection: int
    heard: float
    seen_written: bool = False


class AgentHub:
    def __init__(self, bus: Bus, records: AgentRecords, output: OutputLogs, *, version: str) -> None:
        self._bus = bus
        self._records = records
        self._output = output
        self._version = version
        self._links: dict[str, _Link] = {}
        self._admitted: dict[str, int] = {}  # the newest connection of each agent
        self._hello_due: dict[str, float] = {}  # until when that one may speak without a hello
        self._waiters = Waiters()
        self._listeners: list[Callable[[AgentEvent], None]] = []
        self._clock_task: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._answering: set[asyncio.Task[None]] = set()
        self._beginnings = GroupCommit(records.begin_runs, settle_seconds=0.0)
        self._reports = GroupCommit(self._store_reports, settle_seconds=REPORTS_SETTLE_SECONDS)

    def subscribe(self, listener: Callable[[AgentEvent], None]) -> None:
        """Called in the event loop at each event; must return at once."""
        self._listeners.append(listener)

    async def start(self) -> None:
        self._bus.watch(self)
        await self._bus.connection.subscribe(EVERYTHING, cb=self._on_message, pending_bytes_limit=PENDING_BYTES)
        await self._bus.connection.flush()
        self._clock_task = asyncio.create_task(self._tick(), name="agents seen")

    async def stop(self) -> None:
        for task in (self._clock_task, *self._closing):
            if task:
                task.cancel()
        self._reports.flush()
        self._write_seen()

    # what workflows ask for

    def connected(self, instance: str) -> bool:
        return instance in self._links

    def connected_count(self) -> int:
        return len(self._links)

    async def wait_connected(self, instance: str, *, timeout_seconds: float) -> None:
        """Until the agent has said hello on its present connection; Unavailable names it when time is over."""
        end = time.monotonic() + timeout_seconds
        with self._waiters.waiting(instance) as waiter:
            while not self.connected(instance):
                self._records.refuse_gone(instance)
                remaining = end - time.monotonic()
                if remaining <= 0:
                    raise Unavailable(
                        f"the agent of {self._records.called(instance)} has not connected in {timeout_seconds:g} s",
                        hint="its console shows how far it came: relaunch server console NAME",
                    )
                await waiter.woken(min(remaining, ASK_AGAIN_SECONDS))

    async def order(self, instance: str, message: object, *, timeout_seconds: float = 5.0) -> Accepted:
        """Unavailable when no such agent is connected, Conflict with its reason when it refuses."""
        answer = await self._ask(instance, message, timeout_seconds)
        if not isinstance(answer, Accepted):
            raise BadInput(f"{instance} answered {type(message).__name__} with {type(answer).__name__}")
        return answer

    async def take_role(self, instance: str, role: TakeRole) -> DatabaseReport:
        """What the database server is then; errors as of `order`."""
        answer = await self._ask(instance, role, role.seconds + ROLE_MARGIN_SECONDS)
        if not isinstance(answer, DatabaseReport):
            raise BadInput(f"{instance} answered TakeRole with {type(answer).__name__}")
        return answer

    async def _ask(self, instance: str, message: object, timeout_seconds: float) -> object:
        name = self._records.called(instance)
        if not self.connected(instance):
            raise Unavailable(f"the agent of {name} is not connected")
        try:
            reply = await self._bus.connection.request(
                subjects.order(instance), encode(message), timeout=timeout_seconds
            )
        except MaxPayloadError:
            raise BadInput(f"the order for {name} is larger than 1 MB", hint="shorten its inputs") from None
        except (NoRespondersError, ConnectionClosedError):
            raise Unavailable(f"the agent of {name} is not connected") from None
        except NatsTimeout:
            raise Unavailable(f"the agent of {name} did not answer in {timeout_seconds:g} s") from None
        except NatsError as error:
            raise Unavailable(f"the bus did not carry the order for {name}: {error}") from None
        answer: object = decode(reply.data)
        if isinstance(answer, Refused):
            raise Conflict(f"{name} refuses {type(message).__name__}: {answer.reason}")
        return answer

    async def run(self, instance: str, order: RunScripts, *, task: str | None) -> RunState:
        """Give the order (again, if need be: the agent knows the run_id) and wait until it ended; stored meanwhile."""
        given_on: int | None = None
        with self._waiters.waiting(instance, order.run_id) as waiter:
            waiter.ended = await self._beginnings.put(Beginning(instance=instance, order=order, task=task))
            while waiter.ended is None:
                link = self._links.get(instance)
                if link is not None and given_on != link.connection:
                    if await self._give(instance, order):
                        given_on = link.connection
                        continue
                elif not await waiter.woken(ASK_AGAIN_SECONDS):
                    waiter.ended = self._records.ended_run(order.run_id)
                    if link is not None and not await self._still_knows(instance, order.run_id):
                        given_on = None
                if waiter.ended is None:
                    self._records.refuse_gone(instance, phase=order.phase)
            return waiter.ended

    def last_output(self, run: str, index: int, *, last_bytes: int = 2000) -> str:
        """The end of what a script wrote, as far as it has arrived; "" when nothing has."""
        return self._output.tail(run, index, limit=last_bytes)

    async def _give(self, instance: str, order: RunScripts) -> bool:
        try:
            accepted = await self.order(instance, order)
        except Unavailable:
            await asyncio.sleep(0.2)
            return False
        except (Conflict, BadInput) as error:
            self._records.fail_run(order.run_id, error.message)
            raise
        if accepted.run is not None and accepted.run.state != "running":  # that it runs is told again, or its end is
            self._store_run(instance, accepted.run)
        return True

    async def _still_knows(self, instance: str, run_id: str) -> bool:
        """No news for a while: ask. False when the agent has never heard of this run."""
        try:
            answer = await self.order(instance, AskRun(run_id=run_id))
        except (Unavailable, Conflict):
            return True
        if answer.run is None or answer.run.state == "unknown":
            return False
        self._store_run(instance, answer.run)
        return True

    # what the bus tells

    def agent_admitted(self, agent: str, connection: int) -> None:
        self._admitted[agent] = connection
        self._hello_due[agent] = time.monotonic() + HELLO_SECONDS

    def agent_gone(self, agent: str, connection: int) -> None:
        """Only the newest connection counts: an old one may be found dead after the agent has come back."""
        if self._admitted.get(agent) == connection:
            self._admitted.pop(agent, None)
            self._hello_due.pop(agent, None)
            self._lose(agent)

    def bus_lost(self) -> None:
        """Our own connection ended, perhaps with the bus: every agent has to say hello again.

        Those whose connections go on are made to when they speak: what the bus calls them is still needed.
        """
        for agent in list(self._links):
            self._lose(agent)

    async def _on_message(self, message: Msg) -> None:
        agent, kind = subjects.agent_of(message.subject), message.subject.rpartition(".")[2]
        if kind == "order":
            return
        try:
            answer = self._answer(agent, decode(message.data))
        except BadInput as error:
            log.warning("%s sent what cannot be read: %s", agent, error.message)
            answer = Refused(error.message)
        except Exception:  # outermost frame of the bus: one message must not end the subscription
            log.exception("a message of %s could not be handled", agent)
            return  # unanswered: the agent sends it again
        if isinstance(answer, asyncio.Future):
            answer.add_done_callback(lambda stored: self._stored(message, stored))
        elif message.reply and answer is not None:
            await message.respond(encode(answer))

    def _stored(self, message: Msg, stored: asyncio.Future[bool]) -> None:
        if message.reply and not stored.cancelled() and stored.exception() is None:  # else it is sent again
            task = asyncio.ensure_future(message.respond(encode(Stored())))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    def _answer(self, agent: str, message: Any) -> object | None:
        link = self._links.get(agent)
        if link is not None:
            link.heard, link.seen_written = time.monotonic(), False
        elif not isinstance(message, Hello):
            self._ask_for_hello(agent)
        match message:
            case Alive():
                return None
            case Output():
                if self._records.owns_run(agent, message.run_id):
                    self._output.append(message)
                return None
            case Hello():
                return self._hello(agent, message)
            case RunProgress():
                return self._store_run(agent, message.run, message.sequence)
            case Published():
                self._records.publish(agent, message)
                self._tell(TagsChanged(instance=agent))
                return Stored()
            case DatabaseReport() | Witnessed():
                self._tell(DatabaseSeen(instance=agent, seen=message))
                return None
            case _:
                raise BadInput(f"{type(message).__name__} is not for the controller")

    def _hello(self, agent: str, hello: Hello) -> object:
        if self._records.is_gone(agent):
            self._retire(agent)
            return Refused("this instance is terminated")
        self._records.hello(agent, hello)
        self._links[agent] = _Link(self._admitted.get(agent, 0), time.monotonic())
        for run in hello.runs:
            self._store_run(agent, run)
        self._reports.flush()
        self._waiters.wake(agent)
        log.info("%s is connected (agent %s)", self._records.called(agent), hello.agent_version)
        self._tell(HelloSaid(instance=agent, hello=hello))
        return Welcome(controller_version=self._version, heartbeat_seconds=HEARTBEAT_SECONDS)

    def _ask_for_hello(self, agent: str) -> None:
        """It counts as lost though its connection goes on, and says hello only on a new one: close this one."""
        connection, present = self._admitted.get(agent), time.monotonic()
        if connection is None or present < self._hello_due[agent]:
            return
        self._hello_due[agent] = present + HELLO_SECONDS
        log.info("%s has to connect again: it was taken for lost", self._records.called(agent))
        self._close(self._bus.disconnect(connection), f"disconnect {agent}")

    def _retire(self, agent: str) -> None:
        self._close(self.retire(agent, "this instance is terminated"), f"retire {agent}")

    def _close(self, closing: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(closing, name=name)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def retire(self, instance: str, reason: str) -> None:
        """Tell the agent, if it listens, to stop for good; then close its connection."""
        try:
            await self._bus.connection.request(subjects.order(instance), encode(Retire(reason)), timeout=2.0)
        except NatsError:
            log.info("%s did not hear that it is retired", instance)
        connection = self._admitted.get(instance)
        if connection is not None:
            await self._bus.disconnect(connection)

    def _store_run(self, agent: str, run: RunState, sequence: int | None = None) -> asyncio.Future[bool]:
        """Done once it is stored, with whether it was news."""
        stored = self._reports.put(Report(instance=agent, run=run, sequence=sequence))
        stored.add_done_callback(_log_unstored)
        return stored

    def _store_reports(self, reports: Sequence[Report]) -> list[bool]:
        changed = self._records.store_runs(reports)
        for report in [report for report, news in zip(reports, changed, strict=True) if news]:
            ended = report.run if report.run.state in ENDED else None
            self._waiters.wake(report.instance, report.run.run_id, ended)
            self._tell(RunChanged(instance=report.instance, run=report.run.run_id))
        return changed

    def _lose(self, agent: str) -> None:
        if self._links.pop(agent, None) is not None:
            self._tell(AgentLost(instance=agent))
            log.info("%s is not connected any more", self._records.called(agent))

    def _tell(self, event: AgentEvent) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # a listener's fault must not become the agent's
                log.exception("a listener failed on %s", event)

    def _lose_silent(self, now: float) -> None:
        for agent in [a for a, link in self._links.items() if now - link.heard > SILENT_SECONDS]:
            self._lose(agent)

    async def _tick(self) -> None:
        written = time.monotonic()
        while True:
            due = time.monotonic() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            try:
                if now - due < LOOK_SECONDS:  # else we stood still: what agents said is not read yet
                    self._lose_silent(now)
                if now - written >= WRITE_SEEN_SECONDS:
                    written = now
                    self._write_seen()
            except Exception:  # a locked database now is no reason never to look or write again
                log.exception("agents seen")

    def _write_seen(self) -> None:
        fresh = [agent for agent, link in self._links.items() if not link.seen_written]
        self._records.seen(fresh)
        for agent in fresh:
            self._links[agent].seen_written = True


def _log_unstored(stored: asyncio.Future[bool]) -> None:
    if not stored.cancelled() and stored.exception() is not None:
        log.error("a report could not be stored: %s", stored.exception())
