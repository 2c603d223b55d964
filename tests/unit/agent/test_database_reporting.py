"""What looks at the server say of it; whatever goes wrong in one, the next is made."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from agent_stand import until

from relaunch.bus.messages import TakeRole
from relaunch.databases.dialect import ServerState
from relaunch.databases.mariadb import MariaDB
from relaunch.errors import Unavailable
from relaunch_agent.database import heartbeat, reporting
from relaunch_agent.database.heartbeat import Heartbeat
from relaunch_agent.database.reporting import Reporter

STATE = ServerState(version="11.8.3-MariaDB", server_id=1, read_only=True, executed="", received="")
CUT = UnicodeDecodeError("utf-8", b"\xd0", 0, 1, "unexpected end of data")


class Server:
    """`errors` are raised by the looks, one each; the first `untold` times it cannot say what its process does."""

    name, joined, folder = "mariadb", True, ""

    def __init__(self, *errors: Exception, untold: int = 0) -> None:
        self._errors = list(errors)
        self._untold = untold
        self.opened = 0
        self.received = ""
        self.started = "once"

    def open(self, **_: Any) -> Any:
        self.opened += 1
        return SimpleNamespace(socket=None, close=lambda: None)

    def state(self, _: Any) -> ServerState:
        if self._errors:
            raise self._errors.pop(0)
        return dataclasses.replace(STATE, received=self.received)

    def covers(self, position: str, other: str) -> bool:
        return MariaDB().covers(position, other)

    def replication_starts(self) -> None:
        self.started += " again"

    def trouble(self, _: object) -> str:
        self._untold -= 1
        if self._untold >= 0:
            raise CUT
        return "stopped"

    def is_full(self, _: Any) -> bool:
        return False


def reporter_of(server: Server, monkeypatch: pytest.MonkeyPatch, told: list[str]) -> Reporter:
    monkeypatch.setattr(reporting, "dialect_of", lambda _: server)
    monkeypatch.setattr(reporting, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    beats: Any = SimpleNamespace(
        explain=lambda *_: None, seen=lambda: None, stood_still=lambda: None, unacknowledged=False
    )
    kept: Any = SimpleNamespace(done=None)
    return Reporter(server, kept, beats, lambda said: told.append(said.trouble))  # type: ignore[arg-type]


async def looked_at(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The troubles that were told until it answers."""
    told: list[str] = []
    reporter = reporter_of(server, monkeypatch, told)
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


async def test_what_was_received_and_is_gone_again_counts_as_a_new_start(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    reporter = reporter_of(server, monkeypatch, [])

    async def after(received: str) -> str:
        server.received = received
        reporter._look()
        await until(lambda: reporter.report().received == received, f"it has {received}", timeout=3)
        return reporter.report().started

    assert [await after(each) for each in ("0-1-8", "0-1-10", "0-1-10,1-2-3")] == ["once"] * 3
    assert await after("0-1-10,1-2-2") == "once again"
    assert await after("0-1-11,1-2-3") == "once again"
    server.started = "twice"  # with another process it may be anything
    assert await after("0-1-9") == "twice"


class Over(Exception): ...


class Pauses:
    """In place of a reporter's event: each takes as long as it is to by the clock, the first one by `more`; a minute
    later there are no more."""

    def __init__(self, clock: list[float], more: float) -> None:
        self._clock, self._more, self._end = clock, more, clock[0] + 60

    def wait(self, seconds: float) -> None:
        if self._clock[0] >= self._end:
            raise Over
        self._clock[0] += seconds + self._more
        self._more = 0.0

    def clear(self) -> None: ...


@pytest.mark.parametrize(("stood", "seconds"), [(0.0, 60.0), (60.0, 0.0)])
@pytest.mark.parametrize("waits", [False, True])
async def test_while_its_machine_stands_still_a_primary_is_not_late_with_its_writes(
    monkeypatch: pytest.MonkeyPatch, stood: float, seconds: float, waits: bool
) -> None:
    """As when it is saved and goes on; all others had stood still with it, and a failover began at once."""
    clock, primary = [1000.0], TakeRole(epoch=1, role="primary")
    for module in (heartbeat, reporting):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    server: Any = Server()
    monkeypatch.setattr(server, "state", lambda _: dataclasses.replace(STATE, read_only=False))
    monkeypatch.setattr(reporting, "dialect_of", lambda _: server)
    kept: Any = SimpleNamespace(order=primary, done=primary, epoch=1)
    beats: Any = Heartbeat(server, kept, lambda: True)
    monkeypatch.setattr(beats, "explain", lambda *_: None)
    beats._committed, beats._began = clock[0], clock[0] if waits else None
    reporter: Any = Reporter(server, kept, beats, lambda _: None)
    reporter._wake = Pauses(clock, stood)
    with pytest.raises(Over):
        await asyncio.to_thread(reporter._look_for_ever)
    await until(lambda: reporter._answered >= 1060, "the last look is told", timeout=3)

    said = reporter.report()

    assert said.answers
    assert said.write_seconds == pytest.approx(seconds, abs=1)
    assert said.stall == ("unexplained" if waits and not stood else "")
