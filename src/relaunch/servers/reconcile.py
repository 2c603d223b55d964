"""Reconcile: what instances do by themselves is noticed, and followed where there is one right answer.

A reboot has its boot scripts run; a primary that says it holds data marks its group; an instance the cloud runs though
it was terminated is ended, and so is one whose end failed half-way. A lost instance is only marked: what to do about it
is an operator's decision.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from relaunch.bus.messages import Hello
from relaunch.clouds.cloud import Instance, InstanceState
from relaunch.errors import RelaunchError
from relaunch.servers.lifecycle import Event, State, after
from relaunch.servers.ports import Ports
from relaunch.servers.server_orders import reboot_args
from relaunch.servers.store import Row, Store
from relaunch.servers.terminate import end_in_cloud, record_end
from relaunch.workflows.durable import Workflows
from relaunch.workflows.tasks import WHO, Asked

log = logging.getLogger("relaunch.servers")

LOOK_SECONDS = 5.0
SILENT_SECONDS = 10.0
RUN_NO_BOOT_SCRIPTS = ("run", "power-off", "start", "cut-off", "reconnect")  # kinds of tasks
UP = (State.BOOTING, State.OPERATIONAL, State.STRANDED)
Start = Callable[[], Awaitable[None]]


class ServerWatch:
    """`lost` (the ports' own, so that all say the same) tells of each lost instance why it is thought so."""

    def __init__(self, ports: Ports, workflows: Workflows) -> None:
        self._ports = ports
        self._workflows = workflows
        self._store = Store(ports.database, ports.clock)
        self._unheard: dict[str, float] = {}
        self.lost = ports.lost
        self._loop: asyncio.Task[None] | None = None
        self._poked = asyncio.Event()
        self._started: dict[str, asyncio.Task[Any]] = {}

    def start(self) -> None:
        self._loop = asyncio.create_task(self._look_again_and_again(), name="server watch")

    async def stop(self) -> None:
        tasks = [task for task in (self._loop, *self._started.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def hello(self, instance: str, hello: Hello) -> None:
        """An agent has connected; from another boot than last time, its server has rebooted.

        The boot is stored once what follows from it is under way: a controller killed in between finds it news again.
        """
        self._unheard.pop(instance, None)
        if self.lost.pop(instance, None):
            self._workflows.changed()
        row = self._store.instance(instance)
        if row["boot_id"] == hello.boot_id or instance in self._started:
            return
        start = self._boot_scripts(row, hello.boot_id) if row["boot_id"] is not None else None
        if start is None:
            self._store.change_instance(instance, boot_id=hello.boot_id)
            return
        task = self._started[instance] = asyncio.create_task(self._start_then_store(start, instance, hello.boot_id))
        task.add_done_callback(lambda _: self._started.pop(instance, None))

    def poke(self) -> None:
        """An agent has gone quiet: look soon; returns at once."""
        self._poked.set()

    def tags_changed(self, instance: str) -> None:
        """A database that says it is the primary holds data from now on."""
        server = self._store.server_of(instance)
        if server is not None and self._store.instance(instance)["tags"].get("database") == "primary":
            self._store.set_initialised(server.id)

    async def _start_then_store(self, start: Start, instance: str, boot_id: str) -> None:
        await start()
        self._store.change_instance(instance, boot_id=boot_id)

    def _boot_scripts(self, row: Row, boot_id: str) -> Start | None:
        """The start of the workflow that runs them; None when there is nothing to do, or it is being done."""
        instance = row["id"]
        server = self._store.server_of(instance)
        if server is None or row["state"] not in UP:
            return None
        running = self._workflows.tasks.running_on(server.subject, besides=RUN_NO_BOOT_SCRIPTS)
        if running is not None and _sees_to_it(running, row):
            log.info("%s has rebooted while %s is under way", server.full_name, running["id"])
            return None
        after(State(row["state"]), Event.REBOOTED)
        asked = Asked(
            kind="reboot", title=f"{server.full_name} has rebooted: boot scripts", subject=server.subject, who=WHO
        )
        task = f"reboot-{instance}-{boot_id}"[:100]
        # One that has ended though the boot was not stored yet never began, or has given up on it.
        ended = self._workflows.tasks.count(task)
        args = reboot_args(server, row, ordered=False)
        return partial(self._workflows.start_workflow, asked, f"{task}-{ended + 1}" if ended else task, args)

    async def _look_again_and_again(self) -> None:
        while True:
            # Not wait_for: until Python 3.12 it loses a cancellation that comes together with a poke.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._poked.wait()
            self._poked.clear()
            try:
                await self.look()
            except RelaunchError as error:
                log.warning("the cloud could not be looked at: %s", error)
            except Exception:  # outermost frame of this loop: the next look may go well
                log.exception("server watch")

    async def look(self) -> None:
        """Once: who is lost, and what runs that should not."""
        in_cloud = {found.client_token: found for found in await self._ports.cloud.instances()}
        present = asyncio.get_running_loop().time()
        living = {row["id"]: row for row in self._store.living_instances()}
        lost = {
            instance: why
            for instance, row in living.items()
            if row["state"] in UP and (why := self._why_lost(instance, in_cloud.get(instance), present))
        }
        if lost != self.lost:
            self.lost.clear()
            self.lost.update(lost)
            self._workflows.changed()
        ended = [found for token, found in in_cloud.items() if token not in living and _is_up(found)]
        for found in ended:
            await self._end_leftover(found)
        for row in living.values():
            if row["state"] == State.DECOMMISSIONING and not self._is_seen_to(row):
                await self._go_on_ending(row["id"])

    def _why_lost(self, instance: str, found: Instance | None, present: float) -> str | None:
        if found is None or found.state is InstanceState.TERMINATED:
            return "the cloud has it no more"
        if found.state is InstanceState.STOPPED:
            return "it is powered off"
        if self._ports.agents.connected(instance):
            self._unheard.pop(instance, None)
            return None
        since = self._unheard.setdefault(instance, present)
        return "its agent is not heard" if present - since >= SILENT_SECONDS else None

    async def _end_leftover(self, found: Instance) -> None:
        """Only what our own books say is terminated: an instance they do not know is not ours to end."""
        known = self._store.instances([found.client_token])
        if found.client_token in known:
            log.warning("instance %s was terminated, yet the cloud runs it: ended again", found.client_token)
            try:
                await end_in_cloud(self._ports, found.client_token)
            except RelaunchError as error:  # the others are ended all the same, and this one at the next look
                log.warning("instance %s could not be ended: %s", found.client_token, error)

    def _is_seen_to(self, row: Row) -> bool:
        """Whether a task ends it, or somebody cancelled that: then it is kept until its end is ordered again."""
        subjects = [f"instance:{row['id']}"]
        subjects += [each.subject for each in self._store.servers() if each.id == row["server_id"]]
        tasks = self._workflows.tasks
        if any(tasks.running_on(subject) is not None for subject in subjects):
            return True
        ended = [tasks.last_on(subject, "terminate") for subject in subjects]
        return any(task is not None and task["state"] == "cancelled" for task in ended)

    async def _go_on_ending(self, instance: str) -> None:
        """It counts as ended only when the cloud has ended it: until then it may acknowledge."""
        log.warning("the end of instance %s failed half-way: ended again", instance)
        try:
            await end_in_cloud(self._ports, instance)
        except RelaunchError as error:  # the others are ended all the same, and this one at the next look
            log.warning("instance %s could not be ended: %s", instance, error)
            return
        record_end(self._ports, instance, "asked")
        self._workflows.changed()


def _sees_to_it(task: Row, row: Row) -> bool:
    """Whether this task at its server runs the boot scripts of an instance that has booted anew, or takes it away.

    One that launches or replaces is through with them once the instance is operational, but may go on for hours.
    """
    goes = task["kind"] in ("terminate", "set-aside") or task["id"].startswith(f"replace-{row['id']}-")
    return row["state"] != State.OPERATIONAL or task["kind"] == "reboot" or goes


def _is_up(found: Instance) -> bool:
    return found.state is not InstanceState.TERMINATED
