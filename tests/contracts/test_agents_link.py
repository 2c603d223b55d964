"""The agent's own link and the controller's bus understand each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from controller_at_work import AtWork, controller_at_work, until
from sqlalchemy import select

from relaunch.bus.messages import (
    Accepted,
    AskRun,
    Hello,
    Output,
    Published,
    RunProgress,
    RunScripts,
    RunState,
    Stored,
)
from relaunch.controller import agents
from relaunch.controller.agents import HELLO_SECONDS, AgentEvent, AgentLost, HelloSaid
from relaunch.errors import BadInput
from relaunch.records.schema import instances
from relaunch_agent.enrolment import Credential
from relaunch_agent.https import trusting
from relaunch_agent.link import Link
from relaunch_agent.places import Places
from relaunch_agent.publishing import Publisher


def front1(at_work: AtWork, obey: Callable[[Any], Awaitable[Any]]) -> Link:
    return Link(
        Credential("front1", "secret of front1", at_work.settings.bus_url),
        trusting(at_work.settings.ca_file),
        hello=lambda: Hello("0.1.0", "", "boot-1", 0),
        obey=obey,
    )


async def obey_nothing(order: Any) -> Any:
    raise AssertionError(order)


async def test_the_agents_link_says_hello_obeys_reports_streams_and_comes_back_after_the_controller(
    tmp_path: Path,
) -> None:
    async with controller_at_work(tmp_path) as at_work:
        at_work.add_deployment()
        obeyed: list[Any] = []

        async def obey(order: Any) -> Any:
            obeyed.append(order)
            return Accepted(RunState(order.run_id, "running"))

        link = front1(at_work, obey)
        keeping = asyncio.create_task(link.keep())
        await at_work.hub.wait_connected("front1", timeout_seconds=5)
        running = asyncio.create_task(at_work.hub.run("front1", RunScripts("r1", "boot"), task=None))
        await until(lambda: obeyed, "the order has come")

        await link.send(Output("r1", 0, 0, "said\n"))
        stored = await link.report(RunProgress(RunState("r1", "succeeded"), 1))

        assert stored == Stored()
        assert (await asyncio.wait_for(running, 2)).state == "succeeded"
        assert at_work.base.output.tail("r1", 0) == "said\n", "output is there before the run's end is told"

        await at_work.end()
        await asyncio.sleep(1.0)
        await at_work.begin()
        await at_work.hub.wait_connected("front1", timeout_seconds=8)
        assert (await at_work.hub.order("front1", AskRun("r1"))).run is not None
        keeping.cancel()


async def test_one_that_is_refused_first_is_connected_soon_after_it_is_known(tmp_path: Path) -> None:
    """Found with ./demo: the bus refuses whoever comes before its controller has begun to answer for it."""
    async with controller_at_work(tmp_path) as at_work:
        keeping = asyncio.create_task(front1(at_work, obey_nothing).keep())
        await asyncio.sleep(1.0)
        assert not at_work.hub.connected("front1")

        at_work.add_deployment()

        await at_work.hub.wait_connected("front1", timeout_seconds=4)
        keeping.cancel()


async def test_agents_whose_connections_went_on_while_the_controllers_own_broke_are_taken_back(tmp_path: Path) -> None:
    async with controller_at_work(tmp_path) as at_work:
        at_work.add_deployment()
        keeping = asyncio.create_task(front1(at_work, obey_nothing).keep())
        await at_work.hub.wait_connected("front1", timeout_seconds=5)
        await asyncio.sleep(HELLO_SECONDS)

        await at_work.bus.disconnect(at_work.bus.connection.client_id)
        await until(lambda: not at_work.hub.connected("front1"), "the loss is noticed")

        await at_work.hub.wait_connected("front1", timeout_seconds=5)
        keeping.cancel()


async def test_one_that_was_silent_for_a_while_is_taken_back_when_it_speaks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with controller_at_work(tmp_path) as at_work:
        at_work.add_deployment()
        events: list[AgentEvent] = []
        at_work.hub.subscribe(events.append)
        keeping = asyncio.create_task(front1(at_work, obey_nothing).keep())
        await at_work.hub.wait_connected("front1", timeout_seconds=5)

        with monkeypatch.context() as impatient:
            impatient.setattr(agents, "SILENT_SECONDS", 0.5)
            await until(lambda: not at_work.hub.connected("front1"), "it is found silent")

        await at_work.hub.wait_connected("front1", timeout_seconds=5)
        await asyncio.sleep(2 * HELLO_SECONDS)
        assert at_work.hub.connected("front1")
        assert [type(event) for event in events] == [HelloSaid, AgentLost, HelloSaid]
        keeping.cancel()


async def test_all_that_was_published_while_away_is_stored_and_nothing_too_large_is_sent(tmp_path: Path) -> None:
    """The bus ends the connection of whoever sends it more than 1 MB at once."""
    values = {f"report{number}": f"{number}:".ljust(64 * 1024, "x") for number in range(17)}
    async with controller_at_work(tmp_path) as at_work:
        at_work.add_deployment()
        events: list[AgentEvent] = []
        at_work.hub.subscribe(events.append)
        link = front1(at_work, obey_nothing)
        publisher = Publisher(Places(tmp_path / "root"), link)
        publishing = asyncio.create_task(publisher.publish_for_ever())
        stored = [publisher.output(name, value) for name, value in values.items()]
        keeping = asyncio.create_task(link.keep())
        await asyncio.wait_for(asyncio.gather(*stored), 10)

        with at_work.base.database.connect() as db:
            assert db.execute(select(instances.c.outputs).where(instances.c.id == "front1")).scalar_one() == values
        with pytest.raises(BadInput, match="the bus takes 1048576 at most"):
            await link.report(Published(outputs=values))
        assert await link.report(Published(outputs={"last": "x"})) == Stored()
        assert not [event for event in events if isinstance(event, AgentLost)]
        keeping.cancel()
        publishing.cancel()
