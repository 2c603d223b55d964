"""Whatever goes wrong in a look at the server, the next look is made."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from agent_stand import until

from relaunch.databases.dialect import ServerState
from relaunch.errors import Unavailable
from relaunch_agent.database import reporting
from relaunch_agent.database.reporting import Reporter

STATE = ServerState(version="11.8.3-MariaDB", server_id=1, read_only=True, executed="", received="")
CUT = UnicodeDecodeError("utf-8", b"\xd0", 0, 1, "unexpected end of data")


class Server:
    """`errors` are raised by the looks, one each; the first `untold` times it cannot say what its process does."""

    name, joined, started, folder = "mariadb", True, "once", ""

    def __init__(self, *errors: Exception, untold: int = 0) -> None:
        self._errors = list(errors)
        self._untold = untold
        self.opened = 0

    def open(self, **_: Any) -> Any:
        self.opened += 1
        return SimpleNamespace(socket=None, close=lambda: None)

    def state(self, _: Any) -> ServerState:
        if self._errors:
            raise self._errors.pop(0)
        return STATE

    def trouble(self, _: object) -> str:
        self._untold -= 1
        if self._untold >= 0:
            raise CUT
        return "stopped"

    def is_full(self, _: Any) -> bool:
        return False


async def looked_at(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The troubles that were told until it answers."""
    told: list[str] = []
    monkeypatch.setattr(reporting, "dialect_of", lambda _: server)
    monkeypatch.setattr(reporting, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    heartbeat = SimpleNamespace(explain=lambda *_: None, seen=lambda: None, unacknowledged=False)
    kept: Any = SimpleNamespace(done=None)
    reporter = Reporter(server, kept, heartbeat, lambda said: told.append(said.trouble))  # type: ignore[arg-type]
    telling = asyncio.ensure_future(reporter.report_for_ever())
    reporter.start()
    await until(lambda: reporter.state is not None, "it answers", timeout=3)
    telling.cancel()
    return told


async def test_an_answer_that_cannot_be_read_is_told_and_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(CUT, CUT, CUT)

    told = await looked_at(server, monkeypatch)

    assert any("cannot be looked at: UnicodeDecodeError" in trouble for trouble in told)
    assert server.opened >= 4, "each time with a new session"
    assert capsys.readouterr().err.count("cannot be looked at") == 1


async def test_nor_does_it_end_when_it_cannot_be_told_why_there_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    await looked_at(Server(Unavailable("gone"), Unavailable("gone"), untold=1), monkeypatch)
