"""The bus as it really is (a real nats-server): an agent has its own subjects and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from controller_at_work import AtWork, SimulatedAgent, controller_at_work, until
from nats.errors import Error as NatsError
from nats.errors import NoServersError

from relaunch.bus import subjects
from relaunch.bus.messages import Accepted, Hello, Output, Published, Refused, RunState, Welcome, encode
from relaunch.controller.bus import Bus
from relaunch.controller.foundation import bus_place


@pytest.fixture
async def at_work(tmp_path: Path) -> AsyncIterator[AtWork]:
    async with controller_at_work(tmp_path) as running:
        running.add_deployment()
        yield running


async def test_an_agent_that_says_hello_is_connected_and_leaves_at_once_when_its_connection_ends(
    at_work: AtWork,
) -> None:
    agent = SimulatedAgent(at_work, "front1")

    assert isinstance(await agent.start(), Welcome)
    assert at_work.hub.connected("front1")

    await agent.stop()
    await until(lambda: not at_work.hub.connected("front1"), "the agent is gone", seconds=1.0)


@pytest.mark.parametrize("who, secret", [("front1", "wrong"), ("nobody", "secret of nobody"), ("*", "x"), ("a.b", "x")])
async def test_a_wrong_secret_or_name_is_not_admitted(at_work: AtWork, who: str, secret: str) -> None:
    with pytest.raises((NatsError, NoServersError)):
        await at_work.connect(who, secret=secret, connect_timeout=2)


async def test_a_terminated_instances_agent_is_refused(at_work: AtWork) -> None:
    at_work.set_instance("front1", state="terminated")

    with pytest.raises((NatsError, NoServersError)):
        await at_work.connect("front1", connect_timeout=2)


async def test_an_agent_of_an_instance_that_was_terminated_while_connected_is_retired_and_disconnected(
    at_work: AtWork,
) -> None:
    agent = SimulatedAgent(at_work, "front1")
    await agent.start()
    at_work.set_instance("front1", state="terminated")

    answer = await agent.report(Hello("0.1.0", "", "boot-1", 0))

    assert isinstance(answer, Refused)
    await until(lambda: agent.orders, "it is told to retire")
    assert agent.client
    await until(lambda: agent.client is None or not agent.client.is_connected, "its connection is closed")
    await agent.stop()


async def test_an_agent_can_neither_read_nor_order_nor_speak_for_another(at_work: AtWork) -> None:
    victim = SimulatedAgent(at_work, "front1")
    await victim.start()
    violations: list[str] = []

    async def note(error: Exception) -> None:
        violations.append(str(error).lower())

    thief = await at_work.connect("front2", error_cb=note)
    overheard: list[bytes] = []

    async def hear(message: object) -> None:
        overheard.append(b"something")

    for subject in (subjects.order("front1"), "v1.agent.*.order", "v1.>", ">", "_INBOX.>", "$SYS.>", "_INBOX.front1.>"):
        await thief.subscribe(subject, cb=hear)
    for subject in (subjects.order("front1"), subjects.alive("front1"), "_INBOX.anything", "$SYS.REQ.USER.AUTH"):
        await thief.publish(subject, b"{}")
    await thief.publish(subjects.report("front1"), encode(Published(tags={"database": "primary"})))
    await thief.flush()
    accepted = await at_work.hub.order("front1", Hello("", "", "", 0))
    await until(lambda: len(violations) >= 12, "every one of the 7 + 5 attempts is refused")

    assert isinstance(accepted, Accepted)
    assert len(victim.orders) == 1
    assert overheard == []
    assert all("permissions violation" in each for each in violations)
    await thief.close()
    await victim.stop()


async def test_an_agent_may_answer_an_order_but_once(at_work: AtWork) -> None:
    agent = SimulatedAgent(at_work, "front1", obey=lambda order: None)
    await agent.start()
    replies: list[bytes] = []
    inbox = at_work.bus.connection.new_inbox()

    async def collect(message: object) -> None:
        replies.append(b"")

    await at_work.bus.connection.subscribe(inbox, cb=collect)
    await at_work.bus.connection.publish(subjects.order("front1"), encode(Hello("", "", "", 0)), reply=inbox)
    await until(lambda: agent.orders, "the order has come")
    assert agent.client
    for _ in range(3):
        await agent.client.publish(inbox, encode(Accepted()))
    await agent.client.flush()
    await until(lambda: replies, "the answer has come")
    await asyncio.sleep(0.2)

    assert len(replies) == 1
    await agent.stop()


async def test_a_killed_bus_is_started_again_and_agents_can_come_back(at_work: AtWork) -> None:
    agent = SimulatedAgent(at_work, "front1")
    await agent.start()
    first = at_work.bus.pid
    assert first

    os.kill(first, signal.SIGKILL)
    await until(lambda: not at_work.hub.connected("front1"), "the loss is noticed")
    await until(lambda: at_work.bus.pid not in (None, first), "the bus runs again")
    await until(lambda: at_work.bus.connection.is_connected, "the controller is connected again")
    await agent.stop()
    again = SimulatedAgent(at_work, "front1")

    assert isinstance(await again.start(), Welcome)
    assert await at_work.hub.order("front1", Hello("", "", "", 0)) == Accepted()
    await again.stop()


async def test_the_bus_a_killed_controller_left_behind_is_ended_at_the_next_start(tmp_path: Path) -> None:
    async with controller_at_work(tmp_path) as first:
        left_behind = first.bus.pid
        assert left_behind
        second = Bus(bus_place(first.settings), first.base.records.may_connect)

        await second.start()

        assert second.pid not in (None, left_behind)
        await second.stop()


async def test_output_of_a_run_that_is_not_its_own_is_dropped(at_work: AtWork) -> None:
    from relaunch.bus.messages import RunScripts

    owner, liar = SimulatedAgent(at_work, "front1"), SimulatedAgent(at_work, "front2")
    await owner.start()
    await liar.start()
    at_work.base.records.begin_run("front1", RunScripts("r1", "boot"), task=None)

    await liar.publish(Output("r1", 0, 0, "lies"))
    assert isinstance(await liar.report(Published()), object)
    await owner.publish(Output("r1", 0, 0, "truth"))
    await until(lambda: at_work.base.output.tail("r1", 0), "output has come")

    assert at_work.base.output.tail("r1", 0) == "truth"
    assert not at_work.base.records.store_run("front2", RunState("r1", "succeeded"), 9)
    await owner.stop()
    await liar.stop()
