"""What the controller does by itself all day is forgotten a month later: tasks that back up and prove, what their
scripts wrote, and the throw-away instances. That they were stays in the audit trail.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta

from sqlalchemy import delete, exists, select

from relaunch.clouds.cloud import InstanceState
from relaunch.controller.output_logs import OutputLogs
from relaunch.controller.times import stamp
from relaunch.errors import RelaunchError
from relaunch.records.schema import enrolments, instances, runs
from relaunch.servers.lifecycle import State
from relaunch.servers.ports import Ports
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
