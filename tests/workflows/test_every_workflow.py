"""Every registered workflow: each step done twice; broken after each step's effect; killed there and resumed.

Afterwards every launch is finished or undone, nothing is orphaned and nothing was launched twice.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from relaunch.errors import Failed
from relaunch.workflows.durable import REGISTRY

from .scenarios import SCENARIOS, start_again
from .world import World


def test_every_workflow_has_a_scenario() -> None:
    assert set(SCENARIOS) == set(REGISTRY)


async def steps_of(world: World, kind: str) -> int:
    """How many steps it takes when all goes well."""
    counted: dict[str, int] = defaultdict(int)

    def count(of: str, task: str, number: int, name: str) -> None:
        if of == kind:
            counted[task] = max(counted[task], number)

    scenario = SCENARIOS[kind]
    await scenario.prepare(world, "dry")
    world.after_effect = count
    await world.ended(await scenario.start(world, "dry"))
    world.after_effect = None
    await settled(world)
    assert scenario.done(world, "dry")
    return max(counted.values())


async def settled(world: World) -> None:
    """Until no task runs."""
    async with asyncio.timeout(20):
        while unfinished := world.workflows.tasks.unfinished():
            await world.workflows.wait(unfinished[0]["id"])


@pytest.mark.parametrize("kind", sorted(SCENARIOS))
async def test_each_step_may_be_done_twice(world: World, kind: str) -> None:
    scenario = SCENARIOS[kind]
    await scenario.prepare(world, "twice")
    world.after_effect = lambda of, task, number, name: of == kind

    await world.succeeds(await scenario.start(world, "twice"))

    world.after_effect = None
    await settled(world)
    assert scenario.done(world, "twice")
    world.check_invariant()


@pytest.mark.parametrize("kind", sorted(SCENARIOS))
async def test_broken_after_each_steps_effect(world: World, kind: str) -> None:
    scenario = SCENARIOS[kind]
    steps = await steps_of(world, kind)
    for step in range(1, steps + 1):
        d = f"broken{step}"
        await scenario.prepare(world, d)
        broken: list[str] = []

        def break_once(
            of: str, task: str, number: int, name: str, step: int = step, broken: list[str] = broken
        ) -> None:
            if of == kind and number == step and not broken:
                broken.append(name)
                raise Failed(f"broken after {name}")

        world.after_effect = break_once
        await world.ended(await scenario.start(world, d))
        world.after_effect = None
        await settled(world)
        assert broken, f"{kind} has no step {step}"
        await start_again(world, kind, d)
        await settled(world)
        assert scenario.done(world, d), f"{kind} broken after {broken[0]}"
    world.check_invariant()


@pytest.mark.parametrize("kind", sorted(SCENARIOS))
async def test_killed_after_each_steps_effect_it_goes_on_where_it_was(world: World, kind: str) -> None:
    scenario = SCENARIOS[kind]
    steps = await steps_of(world, kind)
    names = {step: f"killed{step}" for step in range(1, steps + 1)}
    for d in names.values():
        await scenario.prepare(world, d)
    started: dict[str, str] = {}
    for step, d in names.items():
        reached = asyncio.Event()
        before = set(started)

        async def hang(
            of: str, task: str, number: int, name: str, step: int = step, reached: asyncio.Event = reached,
            before: set[str] = before,
        ) -> None:  # fmt: skip
            if of == kind and number == step and task not in before:
                started[task] = name
                reached.set()
                await asyncio.Event().wait()

        world.after_effect = hang
        await scenario.start(world, d)
        async with asyncio.timeout(10):
            await reached.wait()
    world.after_effect = None

    await world.restart()

    await settled(world)
    failed = {name: row["error"] for task, name in started.items() if (row := world.workflows.tasks.get(task))["error"]}
    assert failed == {}
    for step, d in names.items():
        assert scenario.done(world, d), f"{kind} killed after step {step}"
    world.check_invariant()
