"""Which agents are given our program, how often, and when a person is told."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

import pytest

from relaunch.bus.messages import Accepted, Blob, Hello
from relaunch.controller import upgrades
from relaunch.controller.agents import AgentHub, HelloSaid
from relaunch.controller.upgrades import TRIES, AgentUpgrades
from relaunch.databases.alarm import Alarm
from relaunch.errors import Conflict, Unavailable

PROGRAM = Blob(name="relaunch-agent.pyz", sha256="a" * 64, size_bytes=1000)
OLD = "b" * 64


class Hub:
    """Its agents answer an order with `answer`."""

    def __init__(self) -> None:
        self.answer: Accepted | Exception = Accepted()
        self.ordered = 0
        self.there = True

    def connected(self, instance: str) -> bool:
        return self.there

    async def order(self, instance: str, message: object, *, timeout_seconds: float) -> Accepted:
        self.ordered += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class World:
    def __init__(self) -> None:
        self.hub = Hub()
        self.said: list[Any] = []
        self._alarm = Alarm(self._tell)
        self._upgrades = AgentUpgrades(cast(AgentHub, self.hub), PROGRAM, lambda instance: "shop/db1", self._alarm)

    async def _tell(self, *what: object) -> None:
        self.said.append(what)

    async def hello(self, sha256: str) -> None:
        self._upgrades.heard(HelloSaid(instance="i-1", hello=Hello("0.1.0", sha256, "boot-1", 0)))
        await self.told()

    async def told(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._alarm.tell_for_ever(), 0.02)


async def test_an_agent_that_refuses_our_program_is_told_of_until_it_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrades, "AGAIN_SECONDS", 0.0)
    world = World()
    world.hub.answer = Conflict("shop/db1 refuses UpgradeAgent: this version was tried here")
    await world.hello(OLD)
    await world.hello(OLD)

    text = "it keeps its old program: shop/db1 refuses UpgradeAgent: this version was tried here"
    assert world.said == [("agent of shop/db1", "alert", (text,))]
    await world.hello(PROGRAM.sha256)
    await world.hello(PROGRAM.sha256)
    assert world.said[1:] == [("agent of shop/db1", "over", (text,))]


async def test_one_that_goes_while_it_is_asked_is_nobodys_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.hub.answer, world.hub.there = Unavailable("the agent of shop/db1 is not connected"), False
    await world.hello(OLD)

    assert world.hub.ordered == 1 and world.said == []


async def test_one_that_comes_back_with_its_old_program_is_given_ours_again_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    await world.hello(OLD)
    await world.hello(OLD)
    assert world.hub.ordered == 1, "it was back too soon to have tried"

    monkeypatch.setattr(upgrades, "AGAIN_SECONDS", 0.0)
    for _ in range(TRIES - 1):
        await world.hello(OLD)
    assert world.hub.ordered == TRIES and world.said == []

    await world.hello(OLD)
    assert world.hub.ordered == TRIES
    assert [state for _, state, _ in world.said] == ["alert"]
    await world.hello(PROGRAM.sha256)
    await world.hello(OLD)
    assert world.hub.ordered == TRIES + 1


@pytest.mark.parametrize("answer", [Accepted(), Unavailable("no answer in 60 s")])
async def test_one_that_stays_connected_with_its_old_program_is_given_ours_again(
    monkeypatch: pytest.MonkeyPatch, answer: Accepted | Exception
) -> None:
    monkeypatch.setattr(upgrades, "AGAIN_SECONDS", 0.3)
    world = World()
    world.hub.answer = answer
    await world.hello(OLD)
    if answer == Accepted():
        await world.hello(OLD)  # it died at its start: seconds later the old one is back, and stays
    assert world.hub.ordered == 1

    world.hub.answer = Conflict("this version was tried here")
    await asyncio.sleep(0.5)
    await world.told()

    assert world.hub.ordered == 2
    assert world.said == [("agent of shop/db1", "alert", ("it keeps its old program: this version was tried here",))]


async def test_one_that_has_ours_meanwhile_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrades, "AGAIN_SECONDS", 0.2)
    world = World()
    for program in (OLD, OLD, PROGRAM.sha256):
        await world.hello(program)

    await asyncio.sleep(0.4)

    assert world.hub.ordered == 1
