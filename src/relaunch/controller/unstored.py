"""Telling a person of tasks that wait for the controller's store: nothing that is kept there could say so."""

from __future__ import annotations

import asyncio
import time

from relaunch.databases.alarm import Alarm
from relaunch.workflows.durable import Workflows

LOOK_SECONDS = 5.0
TELL_AFTER = 60.0  # a full disk or a locked database is mostly over by then


async def watch_unstored(
    workflows: Workflows, alarm: Alarm, *, every: float = LOOK_SECONDS, stays: float = TELL_AFTER
) -> None:
    while True:
        wrong = {
            task: f"task {task} waits until the controller's store takes what it did: {why}. Mend that, on a full disk "
            "make room; then it goes on by itself, also after a restart"
            for task, why in workflows.not_stored.items()
        }
        alarm.look("tasks", wrong, time.monotonic(), stays=stays)
        await asyncio.sleep(every)
