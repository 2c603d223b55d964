"""What is forgotten once it is old, and what is not."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select, update

from relaunch.bus.messages import Output
from relaunch.clouds.cloud import ImageId, InstanceState
from relaunch.controller import housekeeping
from relaunch.controller.housekeeping import forget_old
from relaunch.controller.output_logs import OutputLogs
from relaunch.records.schema import audit, images, instances, runs, task_steps, tasks

from .scenarios import SCENARIOS, backed_up
from .world import World


def moved_back(world: World, days: float) -> None:
    """Everything so far was so much earlier."""
    by = timedelta(days=days)

    def earlier(moment: str | None) -> str | None:
        return moment and (datetime.fromisoformat(moment) - by).isoformat(timespec="microseconds")

    with world.ports.database.begin() as connection:
        for table, columns in (
            (tasks, ("created", "finished")), (runs, ("created",)), (instances, ("ended",)), (images, ("created",)),
        ):  # fmt: skip
            key = next(iter(table.primary_key))
            for row in connection.execute(select(table)).mappings().all():
                values = {name: earlier(row[name]) for name in columns}
                connection.execute(update(table).where(key == row[key.name]).values(values))


def known(world: World) -> set[str]:
    """Ids of tasks that anything knows: our rows, their steps and DBOS."""
    with world.ports.database.connect() as connection:
        found = set(connection.scalars(select(tasks.c.id))) | set(connection.scalars(select(task_steps.c.task_id)))
    with closing(sqlite3.connect(world.folder / "workflows.db")) as connection:
        for table in ("workflow_status", "workflow_input", "workflow_output", "operation_outputs"):
            found |= {row[0] for row in connection.execute(f"SELECT workflow_uuid FROM {table}")}
    return found


async def test_what_the_controller_does_all_day_is_forgotten_after_a_month(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten sites are backed up half a million times a year: without this some 10 GB, read again and again."""
    monkeypatch.setattr(housekeeping, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(housekeeping, "AT_ONCE", 2)
    await backed_up(world, "shop")
    output = OutputLogs(world.folder / "logs")
    made: list[str] = []
    for days in (1, 1, 31, 1):
        moved_back(world, days)
        for kind in ("back-up", "prove"):
            made.append(await SCENARIOS[kind].start(world, "shop"))
            await world.succeeds(made[-1])
    with world.ports.database.connect() as connection:
        of_task = {row.id: row.task_id for row in connection.execute(select(runs.c.id, runs.c.task_id))}
        throw_away = {
            row.task_id: row.instance_id for row in connection.execute(select(runs)) if "prove" in row.task_id
        }
        before = len(list(connection.scalars(select(audit.c.id))))
    for run in of_task:
        output.append(Output(run, 0, 0, "said"))
    forgotten, others = made[:4], known(world) - set(made[:4])
    left = next(each for each in await world.cloud.instances() if each.client_token == throw_away[forgotten[1]])
    world.cloud._instances[left.id] = replace(left, state=InstanceState.RUNNING)

    await forget_old(world.ports, world.workflows, output)

    assert known(world) == others, "and what people have ordered, and launches, stay"
    with world.ports.database.connect() as connection:
        assert {task for run, task in of_task.items() if task in forgotten} == set(forgotten)
        kept = {run for run, task in of_task.items() if task not in forgotten}
        assert set(connection.scalars(select(runs.c.id))) == kept
        there = set(connection.scalars(select(instances.c.id)))
        assert len(list(connection.scalars(select(audit.c.id)))) == before
    assert {each.name for each in (world.folder / "logs").iterdir()} == kept
    assert throw_away[forgotten[3]] not in there
    assert throw_away[forgotten[1]] in there, "the cloud runs it: the server watch ends only what it knows"
    assert {throw_away[made[5]], throw_away[made[7]]} <= there

    moved_back(world, 400)
    await forget_old(world.ports, world.workflows, output)
    assert known(world) == others - set(made[4:6]), "the newest of each tells how that ended"
    await world.restart()
    assert world.workflows.tasks.unfinished() == []


async def test_images_go_that_no_server_has_had_for_a_month_but_not_a_templates_newest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change of a template's scripts bakes one of its own, of up to a gigabyte."""
    monkeypatch.setattr(housekeeping, "PAUSE_SECONDS", 0.0)
    output, install = OutputLogs(world.folder / "logs"), world.folder / "templates/web/scripts/install.sh"

    async def baked() -> list[str]:
        """Those that are there, the oldest first, once what is old is forgotten."""
        await forget_old(world.ports, world.workflows, output)
        rows = list(reversed(world.store.images()))
        there = {each.id for each in await world.cloud.images()}
        assert [row["cloud_image_id"] for row in rows if row["cloud_image_id"] in there] == [
            row["cloud_image_id"] for row in rows
        ]
        assert {row["image_id"] for row in world.store.living_instances()} <= there
        return [row["name"] for row in rows]

    await world.apply()
    for number in (2, 3):
        moved_back(world, 40)
        install.write_text(install.read_text() + f"# {number}\n")
        await world.succeeds(await world.orders.act("shop/front1", "relaunch", who="ann"))
    names = await baked()
    first, _, third = names

    moved_back(world, 31)
    assert await baked() == [first, third], "front2 has the first still"
    world.agents.hanging.add("configure")
    task = await world.orders.act("shop/front2", "relaunch", who="ann")
    await world.comes_to("shop/front2", "booting")
    moved_back(world, 31)
    assert await baked() == [first, third], "a launch may be about to use it"
    world.agents.hanging.clear()
    await world.succeeds(task)
    moved_back(world, 31)
    assert await baked() == [third]
    await world.succeeds(await world.orders.destroy("shop", who="ann", yes=True))
    moved_back(world, 31)
    await forget_old(world.ports, world.workflows, output)
    assert [row["name"] for row in world.store.images()] == [third], "the next launch need not wait for it"


async def test_an_image_that_is_wanted_again_while_it_goes_is_baked_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, install = OutputLogs(world.folder / "logs"), world.folder / "templates/web/scripts/install.sh"
    await world.apply()
    before = install.read_text()
    moved_back(world, 40)
    install.write_text(f"{before}# 2\n")
    for server in ("front1", "front2"):
        await world.succeeds(await world.orders.act(f"shop/{server}", "relaunch", who="ann"))
    moved_back(world, 40)
    delete_image, wanted = world.cloud.delete_image, []

    async def slowly(image: ImageId) -> None:
        """As removing a gigabyte is."""
        await delete_image(image)
        install.write_text(before)
        wanted.append(await world.orders.act("shop/front1", "relaunch", who="ann"))
        for _ in range(500):
            if any(row["state"] == "baking" for row in world.store.images()):
                return
            await asyncio.sleep(0.01)
        pytest.fail("it is not baked")

    monkeypatch.setattr(world.cloud, "delete_image", slowly)

    await forget_old(world.ports, world.workflows, output)

    assert len(wanted) == 1
    await world.succeeds(wanted[0])
    assert [row["state"] for row in world.store.images()] == ["ready", "ready"]
