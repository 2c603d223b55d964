"""A task cancelled while the controller starts anew stops its script, though the agent is not connected yet."""

from __future__ import annotations

import asyncio

import pytest

from .scenarios import SCENARIOS
from .test_ends import not_back_yet
from .test_reconcile import eventually
from .world import World


class Every(set[str]):
    """The names of all scripts."""

    def __contains__(self, name: object) -> bool:
        return True


@pytest.mark.parametrize(
    "kind",
    ["run", "back-up", "restore", "restore-schema", "checksum", "import-dump"],
)
async def test_its_script_is_stopped(world: World, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    scenario = SCENARIOS[kind]
    await scenario.prepare(world, "d")
    world.agents.executed.clear()
    world.agents.hanging = Every()
    task = await scenario.start(world, "d")
    await eventually("it runs", lambda: world.agents.executed, within=5)
    run_id = world.agents.executed[-1][0]
    not_back_yet(world, monkeypatch, *(each.name for each in world.cloud._instances.values()))
    await world.end_and_make_anew()
    world.workflows.tasks.ask_cancel(task, "bob")
    world.agents.hanging = set()
    await world.workflows.start(world.ports)

    async with asyncio.timeout(10):
        assert (await world.ended(task))["state"] == "cancelled"

    stopped = world.agents._ended.get(run_id)
    assert stopped is not None and stopped.state == "cancelled"
