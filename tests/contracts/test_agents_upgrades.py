"""Agents of another program than the controller's are given it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from controller_at_work import AtWork, SimulatedAgent, controller_at_work, obedient, until

from relaunch.bus.messages import AskRun, Blob, Refused, UpgradeAgent, Welcome
from relaunch.controller.upgrades import AgentUpgrades
from relaunch.databases.alarm import Alarm

PROGRAM = Blob(name="relaunch-agent.pyz", sha256="a" * 64, size_bytes=1000)
OLD = "b" * 64


def upgrades_of(at_work: AtWork) -> AgentUpgrades:
    upgrades = AgentUpgrades(at_work.hub, PROGRAM, at_work.base.records.called, Alarm(None))
    at_work.hub.subscribe(upgrades.heard)
    return upgrades


def upgrades_told(agent: SimulatedAgent) -> list[Any]:
    return [order for order in agent.orders if isinstance(order, UpgradeAgent)]


async def nothing_more(at_work: AtWork, agent: SimulatedAgent, *, wanted: int) -> None:
    """Orders keep their sequence: what stands before an answered one has arrived."""
    await at_work.hub.order(agent.instance, AskRun("none"))
    assert len(upgrades_told(agent)) == wanted


async def test_an_agent_of_another_program_is_given_ours_and_one_of_ours_is_left_alone(tmp_path: Path) -> None:
    async with controller_at_work(tmp_path) as at_work:
        at_work.add_deployment("shop", "old", "same", "unknown")
        upgrades = upgrades_of(at_work)
        old, same, unknown = (SimulatedAgent(at_work, name) for name in ("old", "same", "unknown"))

        assert isinstance(await old.start(agent_sha256=OLD), Welcome)
        await same.start(agent_sha256=PROGRAM.sha256)
        await unknown.start(agent_sha256="")  # runs from a checkout
        await until(lambda: upgrades_told(old), "the order to upgrade")

        assert upgrades_told(old) == [UpgradeAgent(PROGRAM)]
        await nothing_more(at_work, same, wanted=0)
        await nothing_more(at_work, unknown, wanted=0)
        for agent in (old, same, unknown):
            await agent.stop()
        await upgrades.stop()


async def test_an_agent_that_came_back_with_its_old_program_is_not_upgraded_over_and_over(tmp_path: Path) -> None:
    async with controller_at_work(tmp_path) as at_work:
        at_work.add_deployment()
        upgrades = upgrades_of(at_work)
        agent = SimulatedAgent(at_work, "front1")
        for _ in range(3):
            await agent.start(agent_sha256=OLD)
            await until(lambda: upgrades_told(agent), "the order to upgrade")
            await nothing_more(at_work, agent, wanted=1)
            await agent.stop()
            await until(lambda: not at_work.hub.connected("front1"), "the agent is gone")

        await upgrades.stop()


async def test_an_agent_that_refuses_works_on_and_a_new_controller_tries_again(tmp_path: Path) -> None:
    def refusing(order: Any) -> Any:
        return Refused("a run is not finished") if isinstance(order, UpgradeAgent) else obedient(order)

    async with controller_at_work(tmp_path) as at_work:
        at_work.add_deployment()
        upgrades = upgrades_of(at_work)
        agent = SimulatedAgent(at_work, "front1", refusing)
        await agent.start(agent_sha256=OLD)
        await until(lambda: upgrades_told(agent), "the order to upgrade")
        await nothing_more(at_work, agent, wanted=1)
        await upgrades.stop()
        await agent.stop()

        await at_work.end()
        await at_work.begin()
        upgrades = upgrades_of(at_work)
        await agent.start(agent_sha256=OLD)
        await until(lambda: len(upgrades_told(agent)) == 2, "the order of the new controller")
        await agent.stop()
        await upgrades.stop()


async def test_an_order_on_its_way_does_not_hold_up_the_controllers_end(tmp_path: Path) -> None:
    async with controller_at_work(tmp_path) as at_work:
        at_work.add_deployment()
        upgrades = upgrades_of(at_work)
        agent = SimulatedAgent(at_work, "front1", lambda order: None)  # never answers; an order waits a minute
        await agent.start(agent_sha256=OLD)
        await until(lambda: upgrades_told(agent), "the order to upgrade")

        await asyncio.wait_for(upgrades.stop(), 2)
        await agent.stop()
