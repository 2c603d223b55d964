"""Reconcile: every agent's view and every DNS name are what the store says, soon after it changed.

Views and names go separately, each agent's view by its own task: nobody waits for a server that does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from relaunch.bus.messages import SetView
from relaunch.dns.zone import RecordSet
from relaunch.errors import RelaunchError
from relaunch.servers.ports import Ports
from relaunch.sites.names import dns_records
from relaunch.sites.observed import Observed
from relaunch.sites.store import SiteStore
from relaunch.sites.view import view_for

log = logging.getLogger("relaunch.sites")

SETTLE_SECONDS = 0.02  # changes come in bursts: one look serves them
FALL_BACK_SECONDS = 5.0
AFTER_FAILURE_SECONDS = 1.0
ZONE_CHECK_SECONDS = 60.0


class SiteReconciler:
    """`poke` it at every change; without one it looks every five seconds.

    `lost`: the instances thought lost, now and later. It is asked anew at each look.
    """

    def __init__(self, ports: Ports, *, lost: Callable[[], Collection[str]] = tuple) -> None:
        self._ports = ports
        self._lost = lost
        self._store = SiteStore(ports.database)
        self._views = _Beat("views", self.reconcile_views)
        self._names = _Beat("names", self.reconcile_names)
        self._sent: dict[str, str] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._zone_checked: float | None = None

    def start(self) -> None:
        self._views.start()
        self._names.start()

    async def stop(self) -> None:
        await self._views.stop()
        await self._names.stop()
        sending = list(self._sending.values())
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)

    def poke(self) -> None:
        """Something may have changed; returns at once."""
        self._views.poke()
        self._names.poke()

    def forget_view(self, instance: str) -> None:
        """The agent has connected anew: whether it has its view still is not known, and one on its way may be lost."""
        self._sent.pop(instance, None)
        sending = self._sending.pop(instance, None)
        if sending is not None:
            sending.cancel()
        self.poke()

    async def reconcile_views(self) -> None:
        """Start sending every connected agent the view it should have and has not."""
        seen = set()
        for observed in self._store.observe():
            for server in observed.servers:
                if server.instance:
                    seen.add(server.instance)
                    self._offer(observed, server.name, server.instance)
        for gone in set(self._sent) - seen:
            del self._sent[gone]

    def _offer(self, observed: Observed, server: str, instance: str) -> None:
        if instance in self._sending or not self._ports.agents.connected(instance):
            return
        view = view_for(observed, server)
        text = json.dumps(view, sort_keys=True)
        if self._sent.get(instance) == text:
            return
        task = asyncio.create_task(self._send(instance, view, text), name=f"view of {server}")
        self._sending[instance] = task

    async def _send(self, instance: str, view: dict[str, Any], text: str) -> None:
        try:
            version = self._store.next_view_version(instance)
            await self._ports.agents.order(instance, SetView(version=version, view=view))
            # Until Python 3.12 a cancellation that comes together with the answer may be lost.
            if self._sending.get(instance) is asyncio.current_task():
                self._sent[instance] = text
        except RelaunchError as error:
            log.info("view of %s: %s", instance, error)
            return  # tried again at the next beat
        except Exception:  # outermost frame of this task
            log.exception("view of %s", instance)
            return
        finally:
            if self._sending.get(instance) is asyncio.current_task():
                del self._sending[instance]
        self._views.poke()  # it may have changed while this one was on its way

    async def reconcile_names(self) -> None:
        """Bring DNS to what the deployments want; names of nobody are removed."""
        present = self._store.names()
        wanted: dict[tuple[str, str], tuple[str, RecordSet | None]] = {}
        for observed in self._store.observe(self._lost()):
            for name in dns_records(observed, self._ports.zone.zones):
                wanted.setdefault((name.name, name.type), (observed.deployment.name, name.record))
        not_held = await self._not_held(present)
        stale = [key for key in present if key not in wanted]
        changed = [
            (owner, record)
            for key, (owner, record) in wanted.items()
            if record is not None and (key not in present or present[key][1] != record or key in not_held)
        ]
        # Removed first: a name's CNAME keeps its A record out.
        await _all(self._remove(*key) for key in stale)
        await _all(self._replace(owner, record) for owner, record in changed)

    async def _not_held(self, present: dict[tuple[str, str], tuple[str, RecordSet]]) -> set[tuple[str, str]]:
        """Now and then: what the zone does not hold although we have set it."""
        now = asyncio.get_running_loop().time()
        if self._zone_checked is not None and now - self._zone_checked < ZONE_CHECK_SECONDS:
            return set()
        held = {(record.name, record.type): set(record.values) for record in await self._ports.zone.records()}
        self._zone_checked = now
        return {key for key, (_, record) in present.items() if held.get(key) != set(record.values)}

    async def _replace(self, owner: str, record: RecordSet) -> None:
        await self._ports.zone.replace(record)
        self._store.put_name(owner, record)

    async def _remove(self, name: str, type: str) -> None:
        await self._ports.zone.remove(name, type)
        self._store.forget_name(name, type)


class _Beat:
    """Runs an act soon after each poke, at least every `FALL_BACK_SECONDS`, sooner after an error, which is logged."""

    def __init__(self, name: str, act: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._act = act
        self._poked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"reconcile {self._name}")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def poke(self) -> None:
        self._poked.set()

    async def _run(self) -> None:
        pause = FALL_BACK_SECONDS
        while True:
            # Not wait_for: until Python 3.12 it loses a cancellation that comes together with a poke.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._poked.wait()
                await asyncio.sleep(SETTLE_SECONDS)
            self._poked.clear()
            pause = AFTER_FAILURE_SECONDS
            try:
                await self._act()
                pause = FALL_BACK_SECONDS
            except RelaunchError as error:
                log.warning("%s: %s", self._name, error)
            except Exception:  # outermost frame of this loop: the next beat may go well
                log.exception("reconcile %s", self._name)


async def _all(acts: Any) -> None:
    """Do them at once; the first error is raised once all have ended."""
    for outcome in await asyncio.gather(*acts, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
