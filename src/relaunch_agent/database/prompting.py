"""Brings an acknowledgement that got lost on its way: without, every commit would wait for it for ever."""

from __future__ import annotations

import sys
import threading
import time
from typing import Optional

from relaunch.databases.dialect import ServerState
from relaunch.databases.mysql import MySQL
from relaunch.errors import RelaunchError
from relaunch_agent.database.local_server import AnyDialect, LocalServer
from relaunch_agent.database.session import LocalSession

FIRST_SECONDS = 1.0  # between a prompt and the next, doubled each time: each leaves a session that waits
LONGEST_SECONDS = 60.0
ANSWER_SECONDS = 5.0


class Prompter:
    """Told at every look how the server is; what it writes, it writes in a thread of its own."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self._pause = FIRST_SECONDS
        self._next = 0.0
        self._thread: Optional[threading.Thread] = None

    def look(self, dialect: AnyDialect, state: ServerState, *, stuck: bool) -> None:
        """`stuck`: a write of our own has been waiting for an acknowledgement for longer than one takes."""
        now = time.monotonic()
        if not (stuck and is_lost(dialect, state)):
            self._pause, self._next = FIRST_SECONDS, 0.0
            return
        if now < self._next or (self._thread is not None and self._thread.is_alive()):
            return
        self._next, self._pause = now + self._pause, min(self._pause * 2, LONGEST_SECONDS)
        print("database: commits wait, a replica acknowledges: prompting it", file=sys.stderr, flush=True)
        self._thread = threading.Thread(target=self._prompt, name="database prompt", daemon=True)
        self._thread.start()

    def _prompt(self) -> None:
        session: Optional[LocalSession] = None
        try:
            session = self._server.open(answer_seconds=ANSWER_SECONDS)
            MySQL().prompt(session)
        except RelaunchError as error:
            print(f"database: the prompt was not answered: {error.message}", file=sys.stderr, flush=True)
        finally:
            if session is not None:
                session.close()


def is_lost(dialect: AnyDialect, state: ServerState) -> bool:
    """Whether commits wait although somebody acknowledges. For MariaDB there is no prompt: 0008-mariadb.md says why."""
    waits = not state.read_only and state.required and state.waiting_commits > 0
    return waits and bool(state.acknowledgers) and isinstance(dialect, MySQL)
