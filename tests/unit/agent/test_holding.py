"""New connections to the primary are held, and let go whatever becomes of the agent or of a command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from relaunch.bus.messages import Accepted, Hold, Refused
from relaunch_agent import holding
from relaunch_agent.holding import Holding
from relaunch_agent.places import Places

HELD, GO = Hold(epoch=1, seconds=4.0), Hold(epoch=1, seconds=0.0)


class HAProxy:
    """As much of its admin socket as is needed here; the next `deaf` commands are not answered."""

    def __init__(self) -> None:
        self.limits = {"db-primary": "2000", "db-replica": "2000"}
        self.deaf = 0

    async def ask(self, command: str) -> str:
        if self.deaf:
            self.deaf -= 1
            raise ConnectionRefusedError("nobody listens")
        if command.startswith("show stat"):
            rows = [f"{name},FRONTEND,{limit}" for name, limit in self.limits.items()]
            return "\n".join(("# pxname,svname,slim", *rows, "", ""))
        if command == "show info":
            return "Name: HAProxy\nMaxconn: 4000\nHard_maxconn: 4000\n\n"
        name, limit = command.removeprefix("set maxconn frontend ").split()
        self.limits[name] = limit
        return "\n"


class Views:
    view: ClassVar = {
        "proxy": {"listeners": [{"name": "db-primary"}, {"name": "db-replica"}]},
        "database": {"epoch": 1},
    }

    async def apply_now(self) -> None:
        pass


def agent(places: Places, haproxy: HAProxy) -> Holding:
    views: Any = Views()
    asked: Any = haproxy
    return Holding(places, asked, views)


async def is_so(what: Callable[[], bool]) -> bool:
    for _ in range(100):
        if what():
            return True
        await asyncio.sleep(0.01)
    return False


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


async def test_held_and_let_go(places: Places) -> None:
    haproxy = HAProxy()
    ours = agent(places, haproxy)

    for _ in range(2):
        assert await ours.take(HELD) == Accepted()
        assert haproxy.limits == {"db-primary": "0", "db-replica": "2000"}
    assert await ours.take(GO) == Accepted()

    assert haproxy.limits == {"db-primary": "2000", "db-replica": "2000"}


async def test_nobody_is_held_for_longer_than_was_ordered(places: Places) -> None:
    haproxy = HAProxy()
    await agent(places, haproxy).take(Hold(epoch=1, seconds=0.05))

    assert await is_so(lambda: haproxy.limits["db-primary"] == "2000")


async def test_what_an_agent_held_when_it_ended_is_let_go_by_the_next(places: Places) -> None:
    haproxy = HAProxy()
    await agent(places, haproxy).take(HELD)

    again = agent(places, haproxy)
    assert await is_so(lambda: haproxy.limits["db-primary"] == "2000")

    haproxy.limits["db-primary"] = "3000"
    await again.take(HELD)
    await again.take(GO)
    agent(places, haproxy)
    await asyncio.sleep(0.05)
    assert haproxy.limits["db-primary"] == "3000", "what was let go is remembered no more"


async def test_a_limit_of_none_is_nobodys_own(places: Places) -> None:
    """Left by an agent that knew no better: it gets what HAProxy gives to a listener without a limit."""
    haproxy = HAProxy()
    haproxy.limits["db-primary"] = "0"
    ours = agent(places, haproxy)

    await ours.take(HELD)
    await ours.take(GO)

    assert haproxy.limits["db-primary"] == "4000"


async def test_a_release_that_is_not_answered_is_tried_again(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "AGAIN_SECONDS", 0.02)
    haproxy = HAProxy()
    ours = agent(places, haproxy)
    await ours.take(HELD)

    haproxy.deaf = 3
    await ours.take(GO)

    assert await is_so(lambda: haproxy.limits["db-primary"] == "2000")


async def test_what_cannot_be_remembered_is_not_held(places: Places) -> None:
    haproxy = HAProxy()
    places.socket.parent.parent.mkdir(parents=True)
    places.socket.parent.write_text("no folder")

    assert isinstance(await agent(places, haproxy).take(HELD), Refused)
    assert haproxy.limits["db-primary"] == "2000"
