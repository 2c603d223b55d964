"""What the runtime itself promises, beyond what every workflow is tested for."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError

from relaunch.controller.unstored import watch_unstored
from relaunch.databases.alarm import Alarm
from relaunch.errors import BadInput, Conflict, Failed, FormatError, RelaunchError, Unavailable
from relaunch.records.schema import audit, task_steps
from relaunch.workflows.durable import REGISTRY, Run, workflow
from relaunch.workflows.tasks import Asked

from .scenarios import applied, without_instance
from .world import World

ASKED = Asked(kind="probe", title="probe", subject="test", who="ann")


@pytest.fixture
def probe() -> Any:
    """A workflow whose body the test sets; gone afterwards."""
    body: dict[str, Any] = {}

    @workflow("probe")
    async def run_probe(run: Run, args: dict[str, Any]) -> Any:
        return await body["does"](run, args)

    yield body
    del REGISTRY["probe"]


@contextmanager
def full(*starts: str) -> Iterator[None]:
    """Every database refuses statements that start so, as one does whose disk is full."""

    def refuse(_1: Any, _2: Any, statement: str, *_3: Any) -> None:
        if statement.startswith(starts):
            raise OperationalError(statement, {}, sqlite3.OperationalError("database or disk is full"))

    event.listen(Engine, "before_cursor_execute", refuse)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", refuse)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  what is looked at tells nobody
            await asyncio.sleep(0.01)


async def hang_after(world: World, step: str) -> asyncio.Event:
    reached = asyncio.Event()

    async def hang(kind: str, task: str, number: int, name: str) -> None:
        if name == step:
            reached.set()
            await asyncio.Event().wait()

    world.after_effect = hang
    return reached


async def test_a_cancel_is_kept_when_the_controller_is_killed_before_it_acts(world: World) -> None:
    await without_instance(world, "shop")
    reached = await hang_after(world, "launch in the cloud")
    task = await world.orders.act("shop/one", "launch", who="ann")
    await asyncio.wait_for(reached.wait(), 10)
    world.workflows.cancel(task, "bob")
    world.after_effect = None

    await world.restart()

    assert (await world.ended(task))["state"] == "cancelled"
    world.check_invariant()


async def test_a_reboot_killed_in_the_midst_does_not_reboot_again(world: World) -> None:
    await applied(world, "shop")
    reached = await hang_after(world, "reboot in the cloud")
    task = await world.orders.act("shop/one", "reboot", who="ann")
    await asyncio.wait_for(reached.wait(), 10)
    world.after_effect = None

    await world.restart()

    await world.succeeds(task)
    assert len(world.cloud.rebooted) == 1


async def test_a_recorded_step_is_not_done_again(world: World, probe: Any) -> None:
    done: list[str] = []

    async def body(run: Run, args: dict[str, Any]) -> Any:
        first = await run.step("first", lambda: done.append("first") or len(done))
        await run.step("second", lambda: done.append("second"))
        return first

    probe["does"] = body
    reached = await hang_after(world, "second")
    await world.workflows.start_workflow(ASKED, "probe-1", {})
    await asyncio.wait_for(reached.wait(), 10)
    world.after_effect = None

    await world.restart()

    assert (await world.succeeds("probe-1"))["result"] == 1
    assert done == ["first", "second", "second"]


async def test_the_same_id_is_the_same_workflow(world: World, probe: Any) -> None:
    done: list[str] = []

    async def body(run: Run, args: dict[str, Any]) -> None:
        await run.step("once", done.append, "once")

    probe["does"] = body
    for _ in range(3):
        await world.workflows.start_workflow(ASKED, "probe-1", {})

    await world.succeeds("probe-1")
    await world.workflows.start_workflow(ASKED, "probe-1", {})
    await asyncio.sleep(0.05)
    assert done == ["once"]


async def test_an_error_comes_out_of_a_step_as_it_went_in_also_after_a_restart(world: World, probe: Any) -> None:
    seen: list[tuple[type, str, str]] = []

    def fails() -> None:
        raise Conflict("taken", hint="choose another")

    async def body(run: Run, args: dict[str, Any]) -> None:
        try:
            await run.step("fails", fails)
        except Conflict as error:
            seen.append((type(error), error.message, error.hint))
        await run.step("after", lambda: None)

    probe["does"] = body
    reached = await hang_after(world, "after")
    await world.workflows.start_workflow(ASKED, "probe-1", {})
    await asyncio.wait_for(reached.wait(), 10)
    world.after_effect = None
    await world.restart()
    await world.succeeds("probe-1")

    assert seen == [(Conflict, "taken", "choose another")] * 2


@pytest.mark.parametrize(
    ("error", "comes_out"),
    [(FormatError("bad", file="f", line=2), BadInput), (ValueError("odd"), Failed)],
)
async def test_errors_that_cannot_travel_come_out_as_the_nearest_kind(
    world: World, probe: Any, error: Exception, comes_out: type
) -> None:
    def fails() -> None:
        raise error

    async def body(run: Run, args: dict[str, Any]) -> str:
        try:
            await run.step("fails", fails)
        except comes_out as found:
            return str(found)
        return "nothing came out"

    probe["does"] = body
    await world.workflows.start_workflow(ASKED, "probe-1", {})

    assert str(error) in (await world.succeeds("probe-1"))["result"]


async def test_a_step_that_says_try_again_is_tried_again(world: World, probe: Any) -> None:
    tries: list[int] = []

    def busy() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise Unavailable("busy")
        return len(tries)

    async def body(run: Run, args: dict[str, Any]) -> Any:
        return await run.step("busy", busy)

    probe["does"] = body
    await world.workflows.start_workflow(ASKED, "probe-1", {})

    assert (await world.succeeds("probe-1"))["result"] == 3


async def test_steps_are_seen_while_they_run_and_the_end_is_audited(world: World, probe: Any) -> None:
    go = asyncio.Event()

    async def slow(run: Run) -> None:
        run.note("half of it")
        await go.wait()
        raise Failed("it broke")

    async def body(run: Run, args: dict[str, Any]) -> None:
        await run.step("slow", slow, run)

    def steps() -> list[tuple[Any, ...]]:
        with world.ports.database.connect() as connection:
            columns = (task_steps.c.name, task_steps.c.state, task_steps.c.detail)
            return [tuple(row) for row in connection.execute(select(*columns))]

    probe["does"] = body
    await world.workflows.start_workflow(ASKED, "probe-1", {})
    for _ in range(100):
        if steps():
            break
        await asyncio.sleep(0.01)
    assert steps() == [("slow", "running", "half of it")]
    go.set()

    assert (await world.ended("probe-1"))["error"] == "it broke"
    assert steps() == [("slow", "failed", "it broke")]
    with world.ports.database.connect() as connection:
        trail = [tuple(row) for row in connection.execute(select(audit.c.who, audit.c.action, audit.c.result))]
    assert trail == [("ann", "probe begun", "done"), ("ann", "probe", "failed")]


async def test_a_fault_in_a_body_ends_its_task_as_failed(world: World, probe: Any) -> None:
    async def body(run: Run, args: dict[str, Any]) -> None:
        raise KeyError("forgotten")

    probe["does"] = body
    await world.workflows.start_workflow(ASKED, "probe-1", {})

    assert "KeyError" in (await world.ended("probe-1"))["error"]


async def test_a_task_whose_workflow_never_began_is_ended_at_the_next_start(world: World) -> None:
    world.workflows.tasks.begin("probe-1", ASKED)

    await world.restart()

    assert (await world.ended("probe-1"))["state"] == "failed"


@pytest.mark.parametrize(("again", "ends"), [(True, "succeeded"), (False, "failed")])
async def test_a_child_that_had_not_begun_is_started_again_by_its_parent_or_ends_with_it(
    world: World, probe: Any, again: bool, ends: str
) -> None:
    reached = asyncio.Event()

    async def until_killed(run: Run) -> None:
        world.workflows.tasks.begin("child", Asked(kind="probe", title="", subject="", who="ann", parent=run.task))
        reached.set()
        await asyncio.Event().wait()

    async def start(run: Run) -> None:
        if again:
            await run.start_child("probe", "child", {}, title="", subject="")

    async def body(run: Run, args: dict[str, Any]) -> None:
        if run.task == "parent":
            await run.step("start", start if reached.is_set() else until_killed, run)

    probe["does"] = body
    await world.workflows.start_workflow(ASKED, "parent", {})
    await asyncio.wait_for(reached.wait(), 10)

    await world.restart()

    await world.succeeds("parent")
    assert (await world.ended("child"))["state"] == ends


async def test_an_ended_task_cannot_be_cancelled(world: World) -> None:
    await applied(world, "shop")
    row = await world.succeeds(await world.orders.act("shop/one", "cut-off", who="ann"))

    with pytest.raises(Conflict, match="has ended"):
        world.workflows.cancel(row["id"], "bob")


@pytest.mark.parametrize(("fails", "ends"), [(False, "succeeded"), (True, "failed")])
async def test_an_end_that_cannot_be_stored_is_stored_later_and_only_then_told(
    world: World, probe: Any, fails: bool, ends: str
) -> None:
    stepped: list[str] = []

    async def child(run: Run) -> None:
        await run.step("last", stepped.append, run.task)
        if fails:
            raise Failed("it broke")

    async def parent(run: Run) -> Any:
        async def start() -> None:
            await run.start_child("probe", "child", {}, title="child", subject="child")

        async def state() -> str:
            (ended,) = await run.wait_for(["child"])
            return str(ended["state"])

        await run.step("start", start)
        return await run.step("wait", state, waits=True)

    async def body(run: Run, args: dict[str, Any]) -> Any:
        return await (child(run) if run.task == "child" else parent(run))

    probe["does"] = body
    with full("UPDATE tasks "):
        await world.workflows.start_workflow(ASKED, "parent", {})
        await until(lambda: stepped == ["child"])
        await asyncio.sleep(1.5)
        assert world.workflows.tasks.get("child")["state"] == "running"

    assert (await world.succeeds("parent"))["result"] == ends
    assert world.workflows.tasks.get("child")["state"] == ends


async def test_a_person_is_told_of_a_task_that_waits_for_the_store_and_when_it_does_no_more(
    world: World, probe: Any
) -> None:
    said: asyncio.Queue[tuple[str, str, tuple[str, ...]]] = asyncio.Queue()

    async def tell(*what: Any) -> None:
        said.put_nowait(what)  # type: ignore[arg-type]

    async def body(run: Run, args: dict[str, Any]) -> None:
        await run.step("only", lambda: None)

    probe["does"] = body
    alarm = Alarm(tell)
    watching = [
        asyncio.create_task(alarm.tell_for_ever()),
        asyncio.create_task(watch_unstored(world.workflows, alarm, every=0.05, stays=1.5)),
    ]
    with full("UPDATE tasks "):
        began = time.monotonic()
        await world.workflows.start_workflow(ASKED, "probe-1", {})
        subject, state, reasons = await asyncio.wait_for(said.get(), 5)
        assert time.monotonic() - began >= 1.5, "what is over soon is told to nobody"

    assert (subject, state) == ("tasks", "alert")
    assert "task probe-1 waits" in reasons[0] and "database or disk is full" in reasons[0]
    await world.succeeds("probe-1")
    assert (await asyncio.wait_for(said.get(), 5))[:2] == ("tasks", "over")
    for each in watching:
        each.cancel()


async def test_an_end_that_was_not_stored_before_the_controller_stopped_is_stored_afterwards(
    world: World, probe: Any
) -> None:
    stepped: list[str] = []

    async def body(run: Run, args: dict[str, Any]) -> None:
        await run.step("only", stepped.append, "only")

    probe["does"] = body
    with full("UPDATE tasks "):
        await world.workflows.start_workflow(ASKED, "probe-1", {})
        await until(lambda: stepped == ["only"])
        await asyncio.sleep(0.1)
        await world.restart()

    await world.succeeds("probe-1")
    assert stepped == ["only"]


async def test_an_ended_task_does_nothing_more_when_only_its_workflow_could_not_be_ended(
    world: World, probe: Any
) -> None:
    done: list[str] = []

    async def body(run: Run, args: dict[str, Any]) -> None:
        done.append("begun")

    probe["does"] = body
    with full("UPDATE main.workflow_status SET status"):
        await world.workflows.start_workflow(ASKED, "probe-1", {})
        await world.succeeds("probe-1")
        await asyncio.sleep(0.1)

    await world.restart()
    probe["does"] = body
    await asyncio.sleep(2)

    assert done == ["begun"]


async def test_a_task_whose_workflow_cannot_be_started_has_failed(world: World, probe: Any) -> None:
    with full("INSERT INTO main.workflow_status "), pytest.raises(OperationalError):
        await world.workflows.start_workflow(ASKED, "probe-1", {})

    ended = await world.ended("probe-1")
    assert ended["state"] == "failed"
    assert "disk is full" in ended["error"]


async def test_a_workflow_whose_asker_is_cancelled_is_started_all_the_same(world: World, probe: Any) -> None:
    async def body(run: Run, args: dict[str, Any]) -> None:
        return None

    probe["does"] = body
    asker = asyncio.create_task(world.workflows.start_workflow(ASKED, "probe-1", {}))
    await asyncio.sleep(0)
    asker.cancel()

    await world.succeeds("probe-1")


async def test_one_that_begins_while_the_controller_stops_goes_on_afterwards(world: World, probe: Any) -> None:
    async def steps(run: Run, args: dict[str, Any]) -> Any:
        for number in range(3):
            await run.step(f"step {number}", asyncio.sleep, 0.01)

    probe["does"] = steps
    tasks = [f"begins-{number}" for number in range(5)]
    for task in tasks:
        await world.workflows.start_workflow(ASKED, task, {})
        await world.restart()

    assert [(await world.ended(task))["error"] for task in tasks] == [""] * len(tasks)


async def test_a_task_that_nothing_works_on_is_ended_by_cancelling_it(world: World) -> None:
    world.workflows.tasks.begin("probe-1", ASKED)

    world.workflows.cancel("probe-1", "bob")

    assert (await world.ended("probe-1"))["error"] == "cancelled by bob"


async def test_progress_that_cannot_be_stored_fails_no_work(world: World, probe: Any) -> None:
    async def noted(run: Run) -> int:
        run.note("half of it")
        return 1

    async def body(run: Run, args: dict[str, Any]) -> Any:
        return await run.step("noted", noted, run)

    probe["does"] = body
    with full("INSERT INTO task_steps", "DELETE FROM task_steps", "UPDATE task_steps"):
        await world.workflows.start_workflow(ASKED, "probe-1", {})

        assert (await world.succeeds("probe-1"))["result"] == 1


def saga(done: list[str], *steps: str) -> Callable[[Run, dict[str, Any]], Any]:
    """Those steps, one after the other, and two that undo them."""

    async def body(run: Run, args: dict[str, Any]) -> None:
        try:
            for step in steps:
                await run.step(step, done.append, step)
        except RelaunchError:
            with run.undoing():
                await run.step("undo: first", done.append, "undone first")
                await run.step("undo: second", done.append, "undone second")
            raise

    return body


async def test_what_was_done_and_cannot_be_recorded_counts(world: World, probe: Any) -> None:
    done: list[str] = []
    probe["does"] = saga(done, "act", "and act")

    with full("INSERT INTO main.operation_outputs "):
        await world.workflows.start_workflow(ASKED, "probe-1", {})
        await world.succeeds("probe-1")

    assert done == ["act", "and act"]


async def test_what_cannot_be_looked_up_is_undone_though_that_cannot_be_recorded_either(
    world: World, probe: Any
) -> None:
    done: list[str] = []
    probe["does"] = saga(done, "act", "never")

    async def fill(kind: str, task: str, number: int, name: str) -> None:
        if name == "act":
            filled.enter_context(full("SELECT main.operation_outputs.", "INSERT INTO main.operation_outputs "))

    with ExitStack() as filled:
        world.after_effect = fill
        await world.workflows.start_workflow(ASKED, "probe-1", {})
        ended = await world.ended("probe-1")

    assert ended["state"] == "failed"
    assert "never: it could not be looked up" in ended["error"]
    assert "disk is full" in ended["error"]
    assert done == ["act", "undone first", "undone second"]


async def test_an_undo_waits_until_the_store_takes_it(world: World, probe: Any) -> None:
    acted: list[str] = []

    def pause(state: str) -> None:
        world.store.put_image("key", name="image", state=state, changelog="", detail="")

    def fail() -> None:
        acted.append("act")
        raise Failed("no")

    async def body(run: Run, args: dict[str, Any]) -> None:
        try:
            await run.step("act", fail)
        except RelaunchError:
            with run.undoing():
                await run.step("undo", pause, "undone")
            raise

    probe["does"] = body
    await world.workflows.start_workflow(ASKED, "probe-1", {})
    with full("INSERT", "UPDATE", "DELETE"):
        await until(lambda: acted == ["act"])
        await asyncio.sleep(1.5)

    assert (await world.ended("probe-1"))["error"] == "no"
    assert (world.store.image("key") or {})["state"] == "undone"


@pytest.mark.parametrize(
    "newer", [("act", "act otherwise", "last"), ("look first", "act", "last"), ("look first", "act", "more", "last")]
)
async def test_a_workflow_whose_steps_are_others_after_a_restart_is_undone(
    world: World, probe: Any, newer: tuple[str, ...]
) -> None:
    done: list[str] = []
    probe["does"] = saga(done, "act", "act more", "act on", "last")
    reached = await hang_after(world, "last")
    await world.workflows.start_workflow(ASKED, "probe-1", {})
    await asyncio.wait_for(reached.wait(), 10)
    world.after_effect = None
    probe["does"] = saga(done, *newer)

    await world.restart()

    ended = await world.ended("probe-1")
    assert ended["state"] == "failed"
    assert "begun by a version of relaunch" in ended["error"]
    assert done == ["act", "act more", "act on", "last", "undone first", "undone second"]


async def test_an_undo_whose_steps_are_others_after_a_restart_is_done(world: World, probe: Any) -> None:
    done: list[str] = []

    def fails() -> None:
        raise Failed("it broke")

    def undone_by(*steps: str) -> Any:
        async def body(run: Run, args: dict[str, Any]) -> None:
            try:
                await run.step("fails", fails)
            except RelaunchError:
                with run.undoing():
                    for step in steps:
                        await run.step(step, done.append, step)
                raise

        return body

    probe["does"] = undone_by("undo: this", "undo: that")
    reached = await hang_after(world, "undo: that")
    await world.workflows.start_workflow(ASKED, "probe-1", {})
    await asyncio.wait_for(reached.wait(), 10)
    world.after_effect = None
    probe["does"] = undone_by("undo: other", "undo: that", "undo: more")

    await world.restart()

    assert (await world.ended("probe-1"))["error"] == "it broke"
    assert done == ["undo: this", "undo: that", "undo: other", "undo: that", "undo: more"]
