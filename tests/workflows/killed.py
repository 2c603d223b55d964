"""A controller's process for test_killed_process: `kill` and `kill-starting` end themselves by SIGKILL in the midst,
`resume` goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import select

from relaunch.records.schema import tasks
from relaunch.workflows.durable import Workflows
from relaunch.workflows.tasks import Asked

from .scenarios import SCENARIOS
from .world import World

KINDS = ("launch", "bake", "apply", "relaunch", "prove", "restore")
STEPS = 6  # a kind with fewer is killed at its last


async def kill(folder: Path) -> None:
    """Start each kind once for each of its steps, let each hang after that step's effect, then die."""
    world = await World.create(folder)
    cases = [(kind, step, f"{kind}{step}") for kind in KINDS for step in range(1, STEPS + 1)]
    for kind, _, d in cases:
        await SCENARIOS[kind].prepare(world, d)
    hung: dict[str, str] = {}
    for kind, step, d in cases:
        done = asyncio.Event()

        async def hang(of: str, task: str, number: int, name: str, kind: str = kind, step: int = step,
                       d: str = d, done: asyncio.Event = done) -> None:  # fmt: skip
            if of == kind and number == step and not done.is_set():
                hung[d] = name
                done.set()
                await asyncio.Event().wait()

        world.after_effect = hang
        task = await SCENARIOS[kind].start(world, d)
        ending = asyncio.ensure_future(world.workflows.wait(task))
        await asyncio.wait(
            {ending, asyncio.ensure_future(done.wait())}, return_when=asyncio.FIRST_COMPLETED, timeout=10
        )
    world.save(folder / "saved")
    (folder / "hung.json").write_text(json.dumps(hung))
    os.kill(os.getpid(), signal.SIGKILL)


async def kill_starting(folder: Path, kind: str, child: str) -> None:
    """Start this kind; die when the row of such a child is written and its workflow has not begun."""
    world = await World.create(folder)
    d = f"{kind}1"
    await SCENARIOS[kind].prepare(world, d)
    start = Workflows._start

    async def dies(self: Workflows, workflow_id: str, asked: Asked, args: dict[str, Any]) -> None:
        if asked.kind == child:
            world.save(folder / "saved")
            (folder / "hung.json").write_text(json.dumps({d: workflow_id}))
            os.kill(os.getpid(), signal.SIGKILL)
        await start(self, workflow_id, asked, args)

    Workflows._start = dies  # type: ignore[method-assign]
    await world.ended(await SCENARIOS[kind].start(world, d))


async def resume(folder: Path) -> None:
    """Start on what is there, wait until nothing runs, check what must hold."""
    world = await World.create(folder, resume=folder / "saved")
    async with asyncio.timeout(30):
        while unfinished := world.workflows.tasks.unfinished():
            await world.workflows.wait(unfinished[0]["id"])
    for d in json.loads((folder / "hung.json").read_text()):
        kind = d.rstrip("0123456789")
        assert SCENARIOS[kind].done(world, d), d
    with world.ports.database.connect() as connection:
        assert connection.execute(select(tasks.c.id, tasks.c.error).where(tasks.c.state != "succeeded")).all() == []
    world.check_invariant()
    await world.stop()


if __name__ == "__main__":
    what, at, *more = sys.argv[1:]
    asyncio.run({"kill": kill, "kill-starting": kill_starting, "resume": resume}[what](Path(at), *more))
