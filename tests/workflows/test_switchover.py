"""What a switchover waits for before it begins."""

from __future__ import annotations

import asyncio

from relaunch.workflows.tasks import Asked

from .scenarios import one_is_primary, switch_over
from .world import World

BACKUP = Asked(kind="back-up", title="full backup of shop/two", subject="backups:shop", who="relaunch")


async def test_a_backup_ends_first(world: World) -> None:
    await one_is_primary(world, "shop")
    world.workflows.tasks.begin("back-up-1", BACKUP)

    task = await switch_over(world, "shop")
    await asyncio.sleep(0.5)
    meanwhile = world.workflows.tasks.get(task)["state"]
    world.workflows.tasks.end("back-up-1", BACKUP, "succeeded")

    assert meanwhile == "running"
    await world.succeeds(task)
