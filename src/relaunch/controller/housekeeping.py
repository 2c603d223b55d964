"""What the controller does by itself all day is forgotten a month later: tasks that back up and prove, what their
scripts wrote, and the throw-away instances. That they were stays in the audit trail. Images that nobody has had for a
month go, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import datetime, timedelta

from sqlalchemy import delete, exists, or_, select

from relaunch.clouds.cloud import ImageId, InstanceState
from relaunch.controller.output_logs import OutputLogs
from relaunch.controller.times import stamp
from relaunch.errors import Conflict, RelaunchError
from relaunch.records.schema import enrolments, images, instances, runs
from relaunch.servers.lifecycle import State
from relaunch.servers.ports import Ports
from relaunch.servers.store import Store
from relaunch.workflows.durable import Workflows

log = logging.getLogger("relaunch")

KINDS = ("back-up", "prove", "prove-schemas")
KEPT = timedelta(days=30)
LOOK_SECONDS = 3600.0
AT_ONCE = 50  # in one transaction: the controller stands still meanwhile
PAUSE_SECONDS = 0.5  # after each
READ = 2000


async def keep_tidy(ports: Ports, workflows: Workflows, output: OutputLogs) -> None:
    while True:
        try:
            await forget_old(ports, workflows, output)
        except RelaunchError as error:
            log.info("old tasks are not forgotten: %s", error)
        except Exception:  # outermost frame of this loop: the next time it may go well
            log.exception("forgetting old tasks")
        await asyncio.sleep(LOOK_SECONDS)


async def forget_old(ports: Ports, workflows: Workflows, output: OutputLogs) -> None:
    before = ports.clock.now() - KEPT
    while old := workflows.tasks.old(KINDS, before, most=READ):
        for first in range(0, len(old), AT_ONCE):
            await _forget_tasks(old[first : first + AT_ONCE], ports, workflows, output)
            await asyncio.sleep(PAUSE_SECONDS)
    await _forget_instances(ports, before)
    await _forget_images(ports, workflows, before)


async def _forget_tasks(ids: list[str], ports: Ports, workflows: Workflows, output: OutputLogs) -> None:
    with ports.database.connect() as connection:
        theirs = list(connection.scalars(select(runs.c.id).where(runs.c.task_id.in_(ids))))
    for run in theirs:
        output.forget(run)
    with ports.database.begin() as connection:
        connection.execute(delete(runs).where(runs.c.id.in_(theirs)))
    await workflows.forget(ids)


async def _forget_instances(ports: Ports, before: datetime) -> None:
    """But for those the cloud still has: what it runs though it was terminated is ended only while we know it."""
    old = select(instances.c.id).where(
        instances.c.purpose == "prove",
        instances.c.state == State.TERMINATED,
        instances.c.ended < stamp(before),
        ~exists().where(runs.c.instance_id == instances.c.id),
    )
    with ports.database.connect() as connection:
        ids = list(connection.scalars(old))
    if not ids:
        return
    there = await ports.cloud.instances()
    kept = {each.client_token for each in there if each.state is not InstanceState.TERMINATED}
    ids = [each for each in ids if each not in kept]
    for first in range(0, len(ids), AT_ONCE):
        some = ids[first : first + AT_ONCE]
        with ports.database.begin() as connection:
            connection.execute(delete(enrolments).where(enrolments.c.instance_id.in_(some)))
            connection.execute(delete(instances).where(instances.c.id.in_(some)))
        await asyncio.sleep(PAUSE_SECONDS)


async def _forget_images(ports: Ports, workflows: Workflows, before: datetime) -> None:
    """Baked ones that no instance had since; the newest of each template stays, the others can be made anew."""
    with ports.database.connect() as connection:
        had = select(instances.c.image_id).where(or_(instances.c.ended.is_(None), instances.c.ended >= stamp(before)))
        kept = set(connection.scalars(had))
    templates: set[str] = set()
    for row in Store(ports.database, ports.clock).images():  # the newest first
        image, template = row["cloud_image_id"], row["name"].rpartition("-")[0]
        is_newest = row["state"] == "ready" and template not in templates
        templates |= {template} if is_newest else set()
        if is_newest or row["state"] != "ready" or image in kept or row["created"] >= stamp(before):
            continue
        if any(task["kind"] not in (*KINDS, "run") for task in workflows.tasks.unfinished()):
            return  # a launch may be about to use it
        with contextlib.suppress(Conflict):  # another one stands on it
            await ports.cloud.delete_image(ImageId(image))
            with ports.database.begin() as connection:
                gone = delete(images).where(images.c.key == row["key"], images.c.state == "ready")
                connection.execute(gone)  # unless somebody has found it gone, and bakes it anew
            log.info("image %s, which no server has had for long, is removed", row["name"])
