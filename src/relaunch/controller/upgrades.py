"""Every agent runs the program this controller hands out: one of another version is given it at its hello."""

from __future__ import annotations

import asyncio
import logging

from relaunch.bus.messages import Blob, UpgradeAgent
from relaunch.controller.agents import AgentEvent, AgentHub, HelloSaid
from relaunch.errors import RelaunchError

log = logging.getLogger("relaunch.agents")

ORDER_SECONDS = 60.0  # the agent fetches and tries the new program before it answers


class AgentUpgrades:
    def __init__(self, hub: AgentHub, program: Blob) -> None:
        self._hub = hub
        self._program = program
        self._tried: set[str] = set()  # once each: an agent that went back to its old program had a reason
        self._tasks: set[asyncio.Task[None]] = set()

    def heard(self, event: AgentEvent) -> None:
        if not isinstance(event, HelloSaid) or event.hello.agent_sha256 in ("", self._program.sha256):
            return
        if event.instance in self._tried:
            return
        self._tried.add(event.instance)
        task = asyncio.create_task(self._upgrade(event.instance), name=f"upgrade {event.instance}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _upgrade(self, instance: str) -> None:
        try:
            await self._hub.order(instance, UpgradeAgent(self._program), timeout_seconds=ORDER_SECONDS)
            log.info("the agent of %s was given the program %s", instance, self._program.sha256[:12])
        except RelaunchError as error:
            log.warning("the agent of %s was not upgraded: %s", instance, error)
