"""Every agent runs the program this controller hands out: one of another version is given it at its hello.

An agent that keeps its old program reaches a person through the alarm.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from relaunch.bus.messages import Blob, UpgradeAgent
from relaunch.controller.agents import AgentEvent, AgentHub, HelloSaid
from relaunch.databases.alarm import Alarm
from relaunch.errors import RelaunchError, Unavailable

log = logging.getLogger("relaunch.agents")

ORDER_SECONDS = 60.0  # the agent fetches and tries the new program before it answers
AGAIN_SECONDS = 30.0  # an agent gives a new program as long to reach us; it refuses one that did not work
TRIES = 3  # of programs it accepted


class AgentUpgrades:
    """`called`: deployment/server of an instance."""

    def __init__(self, hub: AgentHub, program: Blob, called: Callable[[str], str], alarm: Alarm) -> None:
        self._hub = hub
        self._program = program
        self._called = called
        self._alarm = alarm
        self._ordered_at: dict[str, float] = {}  # by instance, as the next three
        self._accepted: Counter[str] = Counter()
        self._kept_old: set[str] = set()
        self._later: dict[str, asyncio.Task[None]] = {}  # looks at those that were back too soon
        self._tasks: set[asyncio.Task[None]] = set()

    def heard(self, event: AgentEvent) -> None:
        if not isinstance(event, HelloSaid) or event.hello.agent_sha256 == "":
            return
        if event.hello.agent_sha256 == self._program.sha256:
            self._is_ours(event.instance)
        else:
            self._is_old(event.instance)

    def _is_old(self, instance: str) -> None:
        """Given ours, at once or when the last time is long enough ago; it may say hello no more until then."""
        pause = self._ordered_at.get(instance, float("-inf")) + AGAIN_SECONDS - time.monotonic()
        if pause > 0:
            if instance not in self._later:
                self._later[instance] = self._begin(self._look_again(instance, pause), f"look again at {instance}")
            return
        self._ordered_at[instance] = time.monotonic()
        if self._accepted[instance] >= TRIES:
            self._keeps_old(instance, f"it was given the new one {TRIES} times and went back to it")
            return
        self._begin(self._upgrade(instance), f"upgrade {instance}")

    async def _look_again(self, instance: str, pause: float) -> None:
        await asyncio.sleep(pause)
        del self._later[instance]
        if self._hub.connected(instance):  # else it says hello when it is back
            self._is_old(instance)

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _upgrade(self, instance: str) -> None:
        try:
            await self._hub.order(instance, UpgradeAgent(self._program), timeout_seconds=ORDER_SECONDS)
            self._accepted[instance] += 1
            log.info("the agent of %s was given the program %s", self._called(instance), self._program.sha256[:12])
        except Unavailable as error:
            log.warning("the agent of %s was not upgraded: %s", self._called(instance), error)
            if self._hub.connected(instance):
                self._is_old(instance)
        except RelaunchError as error:
            self._keeps_old(instance, str(error))

    def _is_ours(self, instance: str) -> None:
        del self._accepted[instance]
        if (later := self._later.pop(instance, None)) is not None:
            later.cancel()
        if instance in self._kept_old:
            self._kept_old.discard(instance)
            self._tell(instance, {})

    def _keeps_old(self, instance: str, why: str) -> None:
        self._kept_old.add(instance)
        self._tell(instance, {"old": f"it keeps its old program: {why}"})

    def _tell(self, instance: str, wrong: dict[str, str]) -> None:
        self._alarm.look(f"agent of {self._called(instance)}", wrong, time.monotonic(), stays=0.0)
