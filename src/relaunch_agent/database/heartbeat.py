"""A row each second on the primary: whether writes end, and if not, why."""

from __future__ import annotations

import threading
import time
from typing import Callable, Optional, Tuple

from relaunch.bus.messages import NO_ACKNOWLEDGEMENT, UNEXPLAINED
from relaunch.databases.dialect import ServerState
from relaunch.errors import RelaunchError
from relaunch_agent.database.data_disk import room
from relaunch_agent.database.kept import KeptRole
from relaunch_agent.database.local_server import AnyDialect, LocalServer
from relaunch_agent.database.session import LocalSession
from relaunch_agent.database.stalls import Progress, WriteSeen, stall

BEAT_SECONDS = 1.0
LATE_SECONDS = 1.0  # in flight for longer: look why
ACKNOWLEDGED_SECONDS = 1.5  # between two looks a primary under load commits something
WAIT_SECONDS = 86400.0  # a commit may wait that long for its acknowledgement; one session waits, not one a second
BEAT = """INSERT INTO relaunch.heartbeat (server_id, epoch, at) VALUES (@@server_id, %s, UTC_TIMESTAMP(3))
 ON DUPLICATE KEY UPDATE epoch = VALUES(epoch), at = VALUES(at)"""


class Heartbeat:
    def __init__(self, server: LocalServer, kept: KeptRole, is_writable: Callable[[], bool]) -> None:
        self._server = server
        self._kept = kept
        self._is_writable = is_writable
        self._session: Optional[LocalSession] = None
        self._began: Optional[float] = None  # of the write in flight
        self._committed: Optional[float] = None
        self._counts_from = float("-inf")
        self._why = ""
        self._error = ""
        self._progress = Progress()

    def start(self) -> None:
        threading.Thread(target=self._beat_for_ever, name="database heartbeat", daemon=True).start()

    def seen(self) -> Optional[Tuple[float, str]]:
        """Seconds since the last row was committed, and why no newer one is; None when none was begun."""
        began, now = self._began, time.monotonic()
        since = self._committed if self._committed is not None else began
        if since is None:
            return None
        late = began is not None and now - max(began, self._counts_from) > LATE_SECONDS
        return round(now - max(since, self._counts_from), 3), (self._why or UNEXPLAINED) if late else self._error

    def stood_still(self) -> None:
        """This machine did, or we: nothing could be committed meanwhile, and that says nothing about the server."""
        self._counts_from = time.monotonic()

    @property
    def unacknowledged(self) -> bool:
        """By the last look, the write in flight waits for an acknowledgement."""
        return self._why == NO_ACKNOWLEDGEMENT

    @property
    def unheard(self) -> bool:
        """That write has been waiting, and nobody else's has been acknowledged either: it is not only slow."""
        return self.unacknowledged and not self._progress.commits(time.monotonic(), within=ACKNOWLEDGED_SECONDS)

    def explain(self, dialect: AnyDialect, session: LocalSession, state: ServerState) -> None:
        """Called by whoever looks at the server anyway: why is the write in flight not done?"""
        writing, began = self._session, self._began
        self._progress.look(time.monotonic(), state.executed, self._server.written_bytes)
        if writing is None or began is None or time.monotonic() - began < LATE_SECONDS:
            self._why = ""
            return
        own, others = "", []
        for each in dialect.processes(session):
            if each.id == writing.thread_id:
                own = each.state
            elif each.command in ("Query", "Execute"):
                others.append((each.seconds, each.state))
        disk = room(self._server.folder)
        self._why = stall(
            WriteSeen(
                state=own, required=state.required, waiting_commits=state.waiting_commits, others=others,
                free_bytes=disk.free_bytes if disk else None, read_only_disk=disk is not None and disk.read_only,
                works=self._progress.works(time.monotonic()), commits=self._progress.commits(time.monotonic()),
            )
        )  # fmt: skip

    def _beat_for_ever(self) -> None:
        while True:
            if self._kept.order and self._kept.order.role == "primary" and self._is_writable():
                self._beat()
            else:
                self._committed, self._error = None, ""
            time.sleep(BEAT_SECONDS)

    def _beat(self) -> None:
        try:
            if self._session is None:
                self._session = self._server.open(answer_seconds=WAIT_SECONDS)
            self._began = time.monotonic()
            self._session.run(BEAT, self._kept.epoch)
            self._committed, self._error = time.monotonic(), ""
        except Exception as error:  # outermost frame of this thread: it must go on whatever happens
            said = error.message if isinstance(error, RelaunchError) else repr(error)
            self._error = said if self._committed is not None else ""
            if self._session is not None:
                self._session.close()
            self._session = None
        finally:
            self._began = None
