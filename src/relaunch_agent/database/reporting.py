"""Says how the database server is: at once when something changed, twice a second anyway."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
import threading
import time
from typing import Callable, Optional

from relaunch.bus.messages import DatabaseReport, TakeRole
from relaunch.databases.dialect import ServerState
from relaunch.errors import RelaunchError, Unavailable
from relaunch_agent.database.data_disk import RoomWatch
from relaunch_agent.database.heartbeat import Heartbeat
from relaunch_agent.database.kept import KeptRole
from relaunch_agent.database.local_server import AnyDialect, LocalServer, dialect_of
from relaunch_agent.database.prompting import Prompter
from relaunch_agent.database.session import LocalSession

LOOK_SECONDS = 0.5  # its end is noticed at once all the same
REPLICA_LOOK_SECONDS = 0.25  # when its source was last heard is known to this
DEAD_LOOK_SECONDS = 0.1
REPORT_SECONDS, LATEST_SECONDS = 0.4, 0.6  # told again with the first look so long after, or without one
CONNECTIONS_LOOK_SECONDS, FULL_SECONDS = 2.0, 5.0  # between two looks whether it is full; how long that is told
SILENT_SECONDS = 1.2  # without an answer, the server counts as one that does not
STOOD_SECONDS = 5.0  # a pause that ends so much later: this machine stood still, or we did
UNCHANGED = ("executed", "history", "received", "lag_seconds", "received_seconds", "write_seconds", "trouble_seconds",
             "free_bytes", "disk_bytes")  # fmt: skip


class Reporter:
    """One thread looks, the event loop tells. `tell` sends a report, if there is somebody to send it to."""

    def __init__(
        self, server: LocalServer, kept: KeptRole, heartbeat: Heartbeat, tell: Callable[[DatabaseReport], object]
    ) -> None:
        self._server = server
        self._kept = kept
        self._heartbeat = heartbeat
        self._prompter = Prompter(server)
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._wake = threading.Event()
        self._news = asyncio.Event()
        self._looked = asyncio.Event()  # a new one for every look
        self._state: Optional[ServerState] = None
        self._dialect = ""
        self._done = kept.done  # as it was before the newest state was asked for
        self._answered = 0.0  # when the newest state was asked for
        self._trouble = "starting"
        self._trouble_since = time.monotonic()
        self._started = ""
        self._failed_at = 0.0
        self._arrived = ""
        self._arrived_at: Optional[float] = None
        self._connections = Connections()
        self._room = RoomWatch(lambda: server.folder)
        self._session: Optional[LocalSession] = None  # of the thread
        self._spoken: Optional[AnyDialect] = None  # in it
        self._received = ("", "")  # in it: during which start of the server it was asked for, and what had come
        self._watched: Optional[LocalSession] = None  # silent: its end is the server's

    def start(self) -> None:
        threading.Thread(target=self._look_for_ever, name="database state", daemon=True).start()
        self._room.start()

    def look_now(self) -> None:
        """From any thread."""
        self._wake.set()

    @property
    def state(self) -> Optional[ServerState]:
        """None while the server does not answer."""
        return None if self._trouble else self._state

    async def fresh(self, seconds: float) -> DatabaseReport:
        """The report of a look that begins after this call; of the last one when there is none in time."""
        asked, end = time.monotonic(), time.monotonic() + seconds
        self._wake.set()
        while self._answered < asked and self._failed_at < asked and time.monotonic() < end:
            looked = self._looked
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(looked.wait(), max(0.01, end - time.monotonic()))
        return self.report()

    async def report_for_ever(self) -> None:
        said: Optional[DatabaseReport] = None
        said_at = 0.0
        while True:
            due = said_at + LATEST_SECONDS
            if not self._trouble:
                due = min(due, self._answered + SILENT_SECONDS)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), min(max(0.05, due - time.monotonic()), LATEST_SECONDS))
            self._news.clear()
            if not self._trouble and time.monotonic() - self._answered > SILENT_SECONDS:
                self._fail(self._server.trouble(None), since=self._answered)
            if not self._server.joined:
                said_at = time.monotonic()
                continue  # what it has is not the group's: there is nothing to say of a member yet
            report, now = self._report(joined=True), time.monotonic()
            if said is None or _is_news(said, report) or now - said_at >= REPORT_SECONDS:
                self._tell(report)
                said, said_at = report, now

    def report(self) -> DatabaseReport:
        return self._report(joined=self._server.joined)

    def _report(self, *, joined: bool) -> DatabaseReport:
        now = time.monotonic()
        trouble = self._trouble or ("" if joined else "has not joined its group")
        head = DatabaseReport(
            dialect=self._dialect or "mariadb", epoch=self._done.epoch if self._done else 0,
            role=self._done.role if self._done else "",
            answers=not trouble, trouble=trouble,
            trouble_seconds=round(now - self._trouble_since, 3) if self._trouble else 0.0,
        )  # fmt: skip
        state = self._state
        if state is None:
            return head
        head = dataclasses.replace(head, started=self._started)
        disk = self._room.newest
        writes = self._heartbeat.seen() if head.role == "primary" and not state.read_only else None
        return dataclasses.replace(
            head, version=state.version, read_only=state.read_only, executed=state.executed, history=state.history,
            received=state.received, source=state.source, receiving=state.receiving, applying=state.applying,
            error=state.error, lag_seconds=state.lag_seconds, delayed=state.delayed,
            received_seconds=None if self._arrived_at is None else round(now - self._arrived_at, 3),
            acknowledging=state.acknowledging, required=state.required, acknowledgers=list(state.acknowledgers),
            write_seconds=writes[0] if writes else None, stall=writes[1] if writes else "",
            full=self._connections.was_full(now),
            free_bytes=disk.free_bytes if disk else None, disk_bytes=disk.size_bytes if disk else None,
        )  # fmt: skip

    # in the event loop

    def _seen(self, state: ServerState, asked: float, dialect: str, done: Optional[TakeRole], started: str) -> None:
        if self._trouble and asked < self._failed_at:
            return  # asked before it ended
        self._state, self._answered, self._dialect = state, asked, dialect
        self._done, self._started = done, started
        self._trouble = ""
        if state.arrived != self._arrived:
            self._arrived, self._arrived_at = state.arrived, time.monotonic() if state.arrived else None
        self._tell_all()

    def _fail(self, trouble: str, since: Optional[float] = None) -> None:
        """`since`: when it was last asked with success, where only the lack of an answer tells."""
        self._failed_at = time.monotonic()
        if not self._trouble:
            self._trouble_since = self._failed_at if since is None else since
        self._trouble = trouble
        self._tell_all()

    def _tell_all(self) -> None:
        self._news.set()
        looked, self._looked = self._looked, asyncio.Event()
        looked.set()

    def _watch(self, session: LocalSession) -> None:
        """Notice the end of the silent connection, and so of the server, as soon as the kernel does."""
        self._unwatch()
        if session.socket is not None:
            self._watched = session
            self._loop.add_reader(session.socket.fileno(), self._ended, session)

    def _unwatch(self) -> None:
        session, self._watched = self._watched, None
        if session is not None and session.socket is not None:
            self._loop.remove_reader(session.socket.fileno())
            session.close()

    def _ended(self, session: LocalSession) -> None:
        self._unwatch()
        self._fail(self._server.trouble(Unavailable("the connection ended")))
        self._wake.set()

    # the thread

    def _look_for_ever(self) -> None:
        said = ""
        while True:
            try:
                pause, said = self._look(), ""
            except Exception as error:  # outermost frame of this thread: it must go on whatever happens
                self._drop()
                pause, trouble = LOOK_SECONDS, f"cannot be looked at: {error!r}"
                self._call(self._fail, trouble)
                if trouble != said:
                    print(f"database: {trouble}", file=sys.stderr, flush=True)
                    said = trouble
            due = time.monotonic() + pause
            self._wake.wait(pause)
            self._wake.clear()
            if time.monotonic() - due > STOOD_SECONDS:
                self._heartbeat.stood_still()

    def _look(self) -> float:
        """For how long to pause then."""
        asked = time.monotonic()
        try:
            session, dialect = self._session, self._spoken
            if session is None or dialect is None:
                session = self._session = self._server.open(answer_seconds=2.0)
                dialect = self._spoken = dialect_of(session)
                self._call(self._watch, self._server.open())
            done, started = self._kept.done, self._server.started
            state = dialect.state(session)
            if self._discarded(dialect, state.received, started):
                self._server.replication_starts()
                started = self._server.started
            self._received = (started, state.received)
            self._heartbeat.explain(dialect, session, state)
            if self._connections.is_due(asked):
                self._connections.look(asked, dialect.is_full(session))
            self._prompter.look(dialect, state, stuck=self._heartbeat.unacknowledged)
            self._call(self._seen, state, asked, dialect.name, done, started)
            return REPLICA_LOOK_SECONDS if state.source else LOOK_SECONDS
        except RelaunchError as error:
            self._drop()
            self._call(self._fail, self._server.trouble(error))
            return DEAD_LOOK_SECONDS

    def _discarded(self, dialect: AnyDialect, received: str, started: str) -> bool:
        """Whether it no longer has something that this same start of it had received: a receiver that was changed by
        hand, or by a script, may have thrown away what was not applied, and what it acknowledged with that."""
        since, before = self._received
        return since == started and before != received and not dialect.covers(received, before)

    def _drop(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None

    def _call(self, what: Callable[..., None], *values: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and so do we
            self._loop.call_soon_threadsafe(what, *values)


class Connections:
    """Whether the server has had no connection left lately. Moments of the monotonic clock."""

    def __init__(self) -> None:
        self._looked = self._was_full = float("-inf")

    def is_due(self, now: float) -> bool:
        return now - self._looked >= CONNECTIONS_LOOK_SECONDS

    def look(self, now: float, full: bool) -> None:
        self._looked = now
        if full:
            self._was_full = now

    def was_full(self, now: float) -> bool:
        return now - self._was_full < FULL_SECONDS


def _is_news(old: DatabaseReport, new: DatabaseReport) -> bool:
    same = {name: getattr(old, name) for name in UNCHANGED}
    return dataclasses.replace(new, **same) != old
