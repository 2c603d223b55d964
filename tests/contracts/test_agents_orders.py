"""AgentHub on a real bus: orders, runs that survive everything, what agents report."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from controller_at_work import AtWork, SimulatedAgent, controller_at_work, until
from sqlalchemy import select

from relaunch.bus.messages import (
    Accepted,
    AskRun,
    Blob,
    Published,
    Refused,
    RunProgress,
    RunScripts,
    RunState,
    ScriptResult,
    ScriptToRun,
    Stored,
)
from relaunch.controller.agent_records import Report
from relaunch.controller.agents import HelloSaid, TagsChanged
from relaunch.errors import Conflict, Unavailable
from relaunch.records.schema import instances, runs

SCRIPT = ScriptToRun("hello.sh", Blob("hello.sh", "0" * 64, 3), inputs={"PASSWORD": "hunter2hunter2"})


@pytest.fixture
async def at_work(tmp_path: Path) -> AsyncIterator[AtWork]:
    async with controller_at_work(tmp_path) as running:
        running.add_deployment()
        yield running


def order(run_id: str = "r1", phase: str = "boot") -> RunScripts:
    return RunScripts(run_id, phase, [SCRIPT])


def row_of(at_work: AtWork, table: Any, id: str) -> Any:
    with at_work.base.database.connect() as db:
        return db.execute(select(table).where(table.c.id == id)).mappings().one()


def ended(run_id: str = "r1", state: str = "succeeded") -> RunState:
    return RunState(run_id, state, [ScriptResult(0, state, 0, 0.1)])


async def test_an_order_to_an_absent_agent_is_unavailable_and_a_refusal_a_conflict_with_its_reason(
    at_work: AtWork,
) -> None:
    with pytest.raises(Unavailable, match="shop/front1"):
        await at_work.hub.order("front1", AskRun("r1"))

    agent = SimulatedAgent(at_work, "front1", obey=lambda _: Refused("the disk is full"))
    await agent.start()
    with pytest.raises(Conflict, match="the disk is full"):
        await at_work.hub.order("front1", AskRun("r1"))
    await agent.stop()


async def test_an_agent_that_does_not_answer_is_unavailable_in_time(at_work: AtWork) -> None:
    agent = SimulatedAgent(at_work, "front1", obey=lambda _: None)
    await agent.start()

    with pytest.raises(Unavailable, match=r"0\.3 s"):
        await at_work.hub.order("front1", AskRun("r1"), timeout_seconds=0.3)
    await agent.stop()


async def test_waiting_for_an_agent_ends_with_its_hello_or_names_it_when_time_is_over(at_work: AtWork) -> None:
    with pytest.raises(Unavailable, match="shop/front1"):
        await at_work.hub.wait_connected("front1", timeout_seconds=0.1)

    waiting = asyncio.create_task(at_work.hub.wait_connected("front1", timeout_seconds=5))
    agent = SimulatedAgent(at_work, "front1")
    await agent.start()
    await asyncio.wait_for(waiting, 1.0)
    await agent.stop()


async def test_a_run_ends_when_the_agent_says_so_and_no_inputs_value_is_kept(at_work: AtWork) -> None:
    agent = SimulatedAgent(at_work, "front1")
    await agent.start()
    running = asyncio.create_task(at_work.hub.run("front1", order(), task="t1"))
    await until(lambda: agent.orders, "the order has come")

    stored = await agent.report(RunProgress(ended(), 5))

    assert stored == Stored()
    assert await asyncio.wait_for(running, 1.0) == ended()
    row = row_of(at_work, runs, "r1")
    assert (row["state"], row["sequence"], row["task_id"]) == ("succeeded", 5, "t1")
    assert "hunter2" not in str(dict(row))
    await agent.stop()


async def test_a_late_copy_changes_nothing(at_work: AtWork) -> None:
    agent = SimulatedAgent(at_work, "front1")
    await agent.start()
    at_work.base.records.begin_run("front1", order(), task=None)

    await agent.report(RunProgress(RunState("r1", "running", [ScriptResult(0, "running", output_bytes=9)]), 3))
    await agent.report(RunProgress(RunState("r1", "running", [ScriptResult(0, "waiting")]), 2))
    assert row_of(at_work, runs, "r1")["results"][0]["state"] == "running"

    await agent.report(RunProgress(ended(), 4))
    await agent.report(RunProgress(RunState("r1", "running"), 5))
    assert row_of(at_work, runs, "r1")["state"] == "succeeded"
    await agent.stop()


async def test_reports_stored_in_one_transaction_count_one_after_the_other(at_work: AtWork) -> None:
    at_work.base.records.begin_run("front1", order(), task=None)
    told = [(RunState("r1", "running"), 1), (ended(), 2), (RunState("r1", "running"), 3), (ended("unheard-of"), 1)]

    news = at_work.base.records.store_runs([Report(instance="front1", run=run, sequence=n) for run, n in told])

    assert news == [True, True, False, False]
    row = row_of(at_work, runs, "r1")
    assert (row["state"], row["sequence"]) == ("succeeded", 2)
    assert row["finished"] is not None


async def test_a_run_that_ended_before_is_not_ordered_again(at_work: AtWork) -> None:
    at_work.base.records.begin_run("front1", order(), task=None)
    at_work.base.records.store_run("front1", ended(), 1)

    assert await at_work.hub.run("front1", order(), task=None) == ended()


async def test_a_report_of_an_unknown_run_is_answered_and_forgotten(at_work: AtWork) -> None:
    agent = SimulatedAgent(at_work, "front1")
    await agent.start()

    assert await agent.report(RunProgress(ended("never-heard-of"), 1)) == Stored()
    await agent.stop()


async def test_a_run_survives_the_agents_absence_and_is_given_again(at_work: AtWork) -> None:
    running = asyncio.create_task(at_work.hub.run("front1", order(), task=None))
    first = SimulatedAgent(at_work, "front1")
    await first.start()
    await until(lambda: first.orders, "the order has come")
    await first.stop()
    await until(lambda: not at_work.hub.connected("front1"), "it is gone")

    second = SimulatedAgent(at_work, "front1", obey=lambda _: Accepted(ended()))
    await second.start()

    assert await asyncio.wait_for(running, 3.0) == ended()
    assert [o.run_id for o in second.orders if isinstance(o, RunScripts)] == ["r1"]
    await second.stop()


async def test_a_run_that_ended_while_the_controller_was_dead_is_told_in_the_hello(at_work: AtWork) -> None:
    first = SimulatedAgent(at_work, "front1")
    await first.start()
    lost = asyncio.create_task(at_work.hub.run("front1", order(), task=None))
    await until(lambda: first.orders, "the order has come")
    lost.cancel()
    await first.stop()
    await at_work.end()
    await at_work.begin()

    resumed = asyncio.create_task(at_work.hub.run("front1", order(), task=None))
    again = SimulatedAgent(at_work, "front1")
    await again.start(runs=[ended()])

    assert await asyncio.wait_for(resumed, 3.0) == ended()
    assert not [o for o in again.orders if isinstance(o, RunScripts)], "nothing is run twice"
    await again.stop()


async def test_waiting_for_a_run_is_given_up_once_the_instance_is_terminated(
    at_work: AtWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relaunch.controller.agents.ASK_AGAIN_SECONDS", 0.1)
    running = asyncio.create_task(at_work.hub.run("front1", order(), task=None))
    await asyncio.sleep(0.15)
    assert not running.done()

    at_work.set_instance("front1", state="terminated")

    with pytest.raises(Conflict, match="terminated"):
        await asyncio.wait_for(running, 2.0)


async def test_tags_and_outputs_are_kept_and_told(at_work: AtWork) -> None:
    events: list[Any] = []
    at_work.hub.subscribe(events.append)
    agent = SimulatedAgent(at_work, "front1")
    await agent.start()

    await agent.report(Published(tags={"app": "8000", "old": "1"}, outputs={"URL": "x"}))
    await agent.report(Published(removed_tags=["old"]))

    row = row_of(at_work, instances, "front1")
    assert (row["tags"], row["outputs"]) == ({"app": "8000"}, {"URL": "x"})
    assert [type(event) for event in events] == [HelloSaid, TagsChanged, TagsChanged]
    await agent.stop()


async def test_a_message_that_cannot_be_read_is_refused_and_the_next_one_is_taken(at_work: AtWork) -> None:
    agent = SimulatedAgent(at_work, "front1")
    await agent.start()
    assert agent.client
    reply = await agent.client.request("v1.agent.front1.report", b"\xff not json", timeout=2)

    assert b"Refused" in reply.data
    assert await agent.report(Published()) == Stored()
    await agent.stop()
