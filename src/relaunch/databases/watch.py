"""Reconcile: every database group has one primary that takes writes, and replicas that follow it.

Looks at a group whenever an agent says something new about it, whenever an order was answered, and four times a
second; `failover.decide` says what follows. What it changes is stored before anybody is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from relaunch.bus.messages import DatabaseReport, Hold, TakeRole, Witnessed
from relaunch.clouds.cloud import InstanceId, InstanceState
from relaunch.databases.alarm import Alarm
from relaunch.databases.failover import decide
from relaunch.databases.findings import findings
from relaunch.databases.group import PRESETS, Decision, Group, Page, Seen, Windows
from relaunch.databases.looking import Heard, in_short, look
from relaunch.databases.overtaken import OVERTAKEN
from relaunch.databases.positions import covers, parted
from relaunch.databases.repair import (
    end_those_kept_long_enough,
    launch_missing,
    replace_member,
    retry_unjoined,
    unlaunched,
)
from relaunch.databases.store import GroupStore, StoredGroup
from relaunch.errors import RelaunchError
from relaunch.servers.ports import Ports
from relaunch.workflows.durable import Workflows
from relaunch.workflows.tasks import WHO

log = logging.getLogger("relaunch.databases")

LOOK_SECONDS = 0.25
READ_AGAIN_SECONDS = 2.0  # what is stored, when nobody says that it changed
SAME_ORDER_SECONDS = 0.2  # the same order to the same member is not given more often
CLOUD_SECONDS = 0.5  # how often the cloud is asked about a member that is in doubt
HOLD_SECONDS = 4.0
TIDY_SECONDS = 10.0
STAYS_SECONDS = 20.0  # a page is one for so long before a person is told
MOST_TURNS = 20  # decisions after each other that each changed something: more is a fault of ours

Record = Callable[[str, str, str, str, dict[str, Any]], None]  # who, action, subject, result, detail


@dataclass(slots=True)
class _Given:
    order: TakeRole
    at: float
    task: asyncio.Task[None]


class DatabaseWatch:
    """`record` writes the audit trail, `changed` is told when a group's stored state has changed, `alarm` tells a
    person of failovers and of pages that stay."""

    def __init__(
        self,
        ports: Ports,
        workflows: Workflows,
        *,
        record: Record,
        changed: Callable[[], None],
        alarm: Alarm,
    ) -> None:
        self._ports = ports
        self._workflows = workflows
        self._record = record
        self._changed = changed
        self._alarm = alarm
        self._findings: dict[str, tuple[Page, ...]] = {}  # of each deployment, besides what its agents say
        self._store = GroupStore(ports.database)
        self._heard = Heard()
        self._stored: dict[str, StoredGroup] = {}
        self._stale = True
        self._read = 0.0
        self._maintenance: set[str] = set()
        self._orders: dict[str, _Given] = {}
        self._said: dict[str, tuple[TakeRole, str]] = {}  # why an order was not carried out, logged once
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._cutting: dict[str, asyncio.Task[None]] = {}
        self._holding: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, str] = {}  # why work failed the last time, logged once
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self._poked = asyncio.Event()
        self.decisions: dict[str, Decision] = {}  # the newest of each deployment

    def start(self) -> None:
        self._loop = asyncio.create_task(self._look_again_and_again(), name="database watch")

    async def stop(self) -> None:
        given = [each.task for each in self._orders.values()]
        tasks = [task for task in (self._loop, *given, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # what others tell

    def seen(self, instance: str, said: DatabaseReport | Witnessed) -> None:
        """An agent's word; looked at soon."""
        self._heard.take(instance, said)
        self._poked.set()

    def poke(self) -> None:
        """Something stored may have changed, or an agent come or gone."""
        self._stale = True
        self._poked.set()

    # what others ask

    def group(self, deployment: str) -> StoredGroup | None:
        self._read_again(always=True)
        return self._stored.get(deployment)

    def applies(self, instance: str) -> bool:
        """Whether a replica receives and applies, as its agent says; of one that has said nothing yet, that it does."""
        word, _ = self._heard.reports.get(instance, (None, 0.0))
        return word is None or (word.answers and word.receiving and word.applying)

    def seen_now(self, stored: StoredGroup) -> Seen:
        return self._seen(stored)

    def besides(self, stored: StoredGroup) -> tuple[Page, ...]:
        """What a person should know now besides what a look at the group says."""
        found = findings(self._ports.database, stored, self._ports.clock.now())
        return (*found, *unlaunched(self._workflows, stored, self._heard.reports.keys()))

    # the loop

    async def _look_again_and_again(self) -> None:
        while True:
            # Not wait_for: until Python 3.12 it loses a cancellation that comes together with a poke.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._poked.wait()
            self._poked.clear()
            try:
                self._read_again()
            except Exception:  # outermost frame of this loop: the next look may go well
                log.exception("reading the database groups")
                continue
            for deployment in list(self._stored):
                try:
                    self._look_at(deployment)
                except RelaunchError as error:
                    log.info("%s: %s", deployment, error)
                    self._stale = True
                except Exception:  # one group's fault must not stop the others
                    log.exception("looking at the database group of %s", deployment)

    def _read_again(self, *, always: bool = False) -> None:
        now = time.monotonic()
        if not (always or self._stale or now - self._read > READ_AGAIN_SECONDS):
            return
        self._stale, self._read = False, now
        self._stored = {each.deployment: each for each in self._store.groups() if not each.destroying}
        busy = {task["subject"] for task in self._workflows.tasks.unfinished() if _is_maintenance(task)}
        self._maintenance = {
            each.deployment
            for each in self._stored.values()
            if (primary := each.members.get(each.group.primary or "")) and f"server:{primary.server}" in busy
        }
        living = {
            instance for each in self._stored.values() for instance in (*each.members, *each.others)
        }  # fmt: skip
        self._heard.forget(living)
        self.decisions = {name: each for name, each in self.decisions.items() if name in self._stored}

    def _look_at(self, deployment: str) -> None:
        read = False
        for _ in range(MOST_TURNS):
            stored = self._stored.get(deployment)
            if stored is None:
                return
            seen = self._seen(stored)
            decision = decide(stored.group, seen, self._windows(stored), covers(seen), parted(seen))
            if decision.rule == OVERTAKEN and not read:  # is it only what was read that is old?
                self._read_again(always=True)
                read = True
                continue
            detail = in_short(stored, seen)
            if decision.group == stored.group:
                self._tell_pages(stored, decision, detail)
                self.decisions[deployment] = decision
                self._act(stored, decision)
                return
            try:
                self._put(stored, decision, detail)
            except SQLAlchemyError as error:  # its disk may be full: nobody is told what is not stored
                self._not_stored(stored, decision, error)
                return
            self._act(self._stored[deployment], decision)
        log.error("the group of %s changes without an end", deployment)

    def _not_stored(self, stored: StoredGroup, decision: Decision, error: SQLAlchemyError) -> None:
        why = str(getattr(error, "orig", None) or error)
        text = f"What was decided for {stored.group.name} ({decision.rule}) cannot be stored, and is not done: {why}."
        only = Decision(
            group=stored.group, rule="not stored", why=text, pages=(Page(rule="not stored", text=text), *decision.pages)
        )
        self._tell_pages(stored, only, {})
        self._stale = True
        self.decisions[stored.deployment] = only

    def _note(self, action: str, subject: str, result: str, detail: dict[str, Any]) -> None:
        """In the audit trail; a full disk does not stop what has to be done."""
        try:
            self._record(WHO, action, subject, result, detail)
        except (SQLAlchemyError, OSError) as error:
            log.error("not in the audit trail: %s %s %s: %s", action, subject, detail, error)

    def _seen(self, stored: StoredGroup) -> Seen:
        agents = self._ports.agents
        asked = self._ports.switchovers.get(stored.deployment)
        return look(
            stored,
            self._heard,
            now=self._ports.steady.now().timestamp(),
            connected={instance: agents.connected(instance) for instance in (*stored.members, *stored.others)},
            maintenance=stored.deployment in self._maintenance,
            wanted_primary=asked.to if asked and not asked.begun else None,
        )

    @staticmethod
    def _windows(stored: StoredGroup) -> Windows:
        return PRESETS[stored.preset]

    def _put(self, stored: StoredGroup, decision: Decision, detail: dict[str, Any]) -> None:
        """Store what was decided; the audit trail gets what a person would ask for later."""
        old, new = stored.group, decision.group
        self._store.put(stored, new)
        asked = self._ports.switchovers.get(stored.deployment)
        if asked and new.change and old.change is None:
            asked.begun = True
        self._read_again(always=True)
        action = _what_changed(old, new)
        log.warning("%s: %s (%s: %s)", stored.deployment, action, decision.rule, decision.why)
        self._note(
            action, f"database:{stored.deployment}", "done",
            {"rule": decision.rule, "why": decision.why, "epoch": new.epoch, "mode": str(new.mode), "seen": detail},
        )  # fmt: skip
        if action == "failover done":
            name = stored.members[new.primary or ""].server
            self._alarm.at_once(_subject(stored), f"failover: {name} is the primary now ({decision.why})")
        if decision.rule == OVERTAKEN:
            text = f"the controller's store is an older copy: {new.name} was taken as its servers say it is"
            self._alarm.at_once(_subject(stored), text)
        self._changed()

    # acting

    def _act(self, stored: StoredGroup, decision: Decision) -> None:
        for member, order in decision.orders.items():
            self._order(stored, member, order)
        for member in decision.cut_off:
            self._once(self._cutting, f"cut off {member}", self._cut_off(stored, member))
        for member in decision.replace:
            self._replace(stored, member)
        self._hold(stored, decision.hold)
        self._ask_cloud(stored)
        self._once(self._asking, f"tidy {stored.deployment}", self._tidy(stored))

    def _order(self, stored: StoredGroup, member: str, order: TakeRole) -> None:
        given = self._orders.get(member)
        if given is not None and given.order == order:
            if not given.task.done():
                return
            wait = given.at + SAME_ORDER_SECONDS - time.monotonic()
            if wait > 0:
                return
        if not self._ports.agents.connected(member):
            return
        task = asyncio.create_task(self._give(stored, member, order), name=f"{order.role} {member}")
        self._orders[member] = _Given(order, time.monotonic(), task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _give(self, stored: StoredGroup, member: str, order: TakeRole) -> None:
        name = stored.members[member].server
        try:
            self.seen(member, await self._ports.agents.take_role(member, order))
        except RelaunchError as error:
            if self._said.get(member) != (order, error.message):
                self._said[member] = order, error.message
                log.info("%s to be %s (epoch %s): %s", name, order.role, order.epoch, error)
        except Exception:  # outermost frame of this task
            log.exception("%s to be %s", name, order.role)

    def _once(self, running: dict[str, asyncio.Task[None]], key: str, work: Coroutine[Any, Any, None]) -> None:
        if key in running:
            work.close()
            return
        task = asyncio.create_task(self._try(key, work), name=f"databases {key}")
        running[key] = task
        self._tasks.add(task)

        def ended(_: asyncio.Task[None]) -> None:
            work.close()  # cancelled before it began
            self._tasks.discard(task)
            running.pop(key, None)
            self._poked.set()

        task.add_done_callback(ended)

    async def _try(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        """Whatever fails, perhaps at once, is not begun again without a pause."""
        try:
            await work
            self._failed.pop(key, None)
        except Exception as error:  # outermost frame of this task
            why = f"{type(error).__name__}: {getattr(error, 'orig', None) or error}"
            if self._failed.get(key) != why:
                self._failed[key] = why
                log.error("%s: %s", key, why, exc_info=not isinstance(error, RelaunchError | SQLAlchemyError))
            await asyncio.sleep(CLOUD_SECONDS)

    async def _cut_off(self, stored: StoredGroup, member: str) -> None:
        each = stored.members.get(member)
        if each is None or each.cloud_id is None or member in self._heard.cut_off:
            await asyncio.sleep(CLOUD_SECONDS)
            return
        try:
            await self._ports.cloud.cut_off(InstanceId(each.cloud_id), True)
        except RelaunchError as error:
            log.warning("%s could not be cut off: %s", each.server, error)
            await asyncio.sleep(CLOUD_SECONDS)
            return
        self._heard.cut_off[member] = time.monotonic()
        self._note("cut off", f"server:{each.server}", "done", {"instance": member})

    def _replace(self, stored: StoredGroup, member: str) -> None:
        each = stored.members.get(member)
        if each is not None:
            self._once(self._asking, f"replace {member}", self._start_replacing(each.server, member))

    async def _start_replacing(self, server: str, member: str) -> None:
        await replace_member(self._workflows, server, member, self._ports.clock.now())
        await asyncio.sleep(TIDY_SECONDS)

    async def _tidy(self, stored: StoredGroup) -> None:
        """The slow things, one at a time: members that are missing, instances kept aside long enough, findings."""
        now = self._ports.clock.now()
        self._findings[stored.deployment] = self.besides(stored)
        if not stored.group.paused:
            await launch_missing(self._workflows, stored, now)
            await retry_unjoined(self._workflows, self._ports, stored, self._heard.reports.keys(), now)
        await end_those_kept_long_enough(self._workflows, stored, now)
        await asyncio.sleep(TIDY_SECONDS)

    def _hold(self, stored: StoredGroup, hold: bool) -> None:
        for proxy in stored.front_ends:
            if hold != (proxy in self._heard.held) and self._ports.agents.connected(proxy):
                order = Hold(epoch=stored.group.epoch, seconds=HOLD_SECONDS if hold else 0.0)
                self._once(self._holding, proxy, self._tell_proxy(proxy, order))

    async def _tell_proxy(self, proxy: str, order: Hold) -> None:
        try:
            await self._ports.agents.order(proxy, order, timeout_seconds=1.0)
        except RelaunchError as error:
            log.info("%s does not hold connections: %s", proxy, error)
            await asyncio.sleep(LOOK_SECONDS)
            return
        finally:
            if not order.seconds:
                self._heard.held.discard(proxy)  # it lets go by itself after a while
        if order.seconds:
            self._heard.held.add(proxy)

    def _ask_cloud(self, stored: StoredGroup) -> None:
        """About members in doubt: the cloud's word shortens the wait for one that is surely gone."""
        for each in stored.members.values():
            report, said = self._heard.reports.get(each.id, (None, 0.0))
            sound = report is not None and report.answers and time.monotonic() - said < LOOK_SECONDS * 4
            if each.cloud_id is not None and not (sound and self._ports.agents.connected(each.id)):
                self._once(self._asking, each.id, self._ask_about(each.id, each.cloud_id))

    async def _ask_about(self, member: str, cloud_id: str) -> None:
        try:
            found = await self._ports.cloud.instance(InstanceId(cloud_id))
            running: bool | None = found.state in (InstanceState.RUNNING, InstanceState.PENDING)
        except RelaunchError:
            running = None
        self._heard.running[member] = (running, time.monotonic())
        await asyncio.sleep(CLOUD_SECONDS)

    def _tell_pages(self, stored: StoredGroup, decision: Decision, detail: dict[str, Any]) -> None:
        """A page is told once, when it begins and when it is over."""
        before = self.decisions.get(stored.deployment)
        old: set[Page] = set(before.pages) if before else set()
        rules = {page.rule for page in old}
        for page in decision.pages:
            if page.rule not in rules:
                log.warning("%s: %s: %s", stored.deployment, page.rule, page.text)
                self._note("page", f"database:{stored.deployment}", "failed", {page.rule: page.text, "seen": detail})
        for over in rules - {page.rule for page in decision.pages}:
            log.info("%s: over: %s", stored.deployment, over)
        wrong: dict[str, str] = {}
        for page in (*decision.pages, *self._findings.get(stored.deployment, ())):
            wrong[page.rule] = "; ".join(filter(None, (wrong.get(page.rule), page.text)))
        self._alarm.look(_subject(stored), wrong, time.monotonic(), stays=STAYS_SECONDS)


def _is_maintenance(task: Mapping[str, Any]) -> bool:
    """Somebody has ordered it: that one which has rebooted by itself runs its boot scripts is a task of ours."""
    return task["kind"] in ("reboot", "start") and task["who"] != WHO


def _subject(stored: StoredGroup) -> str:
    return f"database of {stored.deployment}"


def _what_changed(old: Group, new: Group) -> str:
    if new.change and (old.change is None or old.change.kind != new.change.kind):
        return f"{new.change.kind} begins"
    if old.change and new.change is None:
        return f"{old.change.kind} " + ("done" if new.primary != old.change.old else "given up")
    if old.change and new.change and old.change.step != new.change.step:
        return f"{new.change.kind}: {new.change.step}"
    if old.loss_allowed and not new.loss_allowed:
        return "no loss is allowed any more"
    if old.mode != new.mode:
        return f"mode {new.mode}"
    if old.sync_set != new.sync_set:
        return "sync set changed"
    return "group changed"
