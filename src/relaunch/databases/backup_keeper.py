"""Reconcile: backups are made and proven when they are due, what retention lets go is removed, red is said out loud."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from relaunch.databases.alarm import Alarm
from relaunch.databases.backup_catalogue import Catalogue, retention_of, schedule_of, subject
from relaunch.databases.backup_colour import Colours
from relaunch.databases.backup_key import opens
from relaunch.databases.backup_members import Members
from relaunch.databases.backup_orders import BackupOrders
from relaunch.databases.backup_pruning import Pruning
from relaunch.databases.backup_schemas import due_schema, no_backup, red_schemas, schemas_to_go, unproven
from relaunch.databases.backup_shown import shown_backups, shown_known, shown_schedule, shown_schemas
from relaunch.databases.backups import (
    NEVER_SHIPPED,
    NO_BACKUP,
    NO_PROOF,
    YOUNG,
    Backup,
    Kind,
    Known,
    Schedule,
    begun,
    chain,
    due,
    newest,
    status,
    to_go,
)
from relaunch.errors import RelaunchError
from relaunch.servers.ports import Ports
from relaunch.servers.store import Store
from relaunch.workflows.durable import Workflows
from relaunch.workflows.tasks import WHO

log = logging.getLogger("relaunch.backups")

LOOK_SECONDS = 15.0
OBJECTS_A_SECOND = 200.0  # that are looked at: a year of backups is tens of thousands, a look at them takes seconds
AGAIN_AFTER = timedelta(minutes=5)  # a failed one is not tried again before


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """At the store: what was found counts until that moment (monotonic), of this history and while this task runs."""

    lineage: str
    task: str
    until: float
    known: Known


class BackupKeeper:
    """Looks at every deployment with a database. `orders`: what people may have done, too. `pruning`: by retention.

    `alarm` reaches a person when backups stay red. `applies`: as of `BackupOrders`.
    """

    def __init__(self, ports: Ports, workflows: Workflows, alarm: Alarm, applies: Callable[[str], bool]) -> None:
        self._ports = ports
        self._applies = applies
        self._workflows = workflows
        self.members = Members(ports)
        self.orders = BackupOrders(ports, workflows, self.members, applies)
        self.pruning = Pruning(ports, workflows, self.members)
        self._store = Store(ports.database, ports.clock)
        self._colours = Colours(ports.database, ports.clock, alarm)
        self._tried: dict[str, datetime] = {}
        self._dumped: dict[str, dict[str, datetime]] = {}  # of each deployment's schemas, when a backup was last begun
        self._looked: dict[str, _Looked] = {}
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.create_task(self._look_again_and_again(), name="backup keeper")

    async def stop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        await self.pruning.stop()

    async def shown(self, deployment: str) -> dict[str, Any]:
        """Everything about a deployment's backups, plain; the store is asked now."""
        catalogue, spec, now = (
            self.members.catalogue(deployment),
            self.members.spec(deployment),
            self._ports.clock.now(),
        )
        lineage = self.members.lineage(deployment)
        wrong = self.members.alarming(deployment, lineage)
        try:
            lineages = await catalogue.lineages()
            await catalogue.refresh(lineages)
            known = await catalogue.known(lineage or "", now)
        except RelaunchError as error:
            wrong = (*wrong, f"the backups cannot be looked at: {error.message}")
            known = catalogue.remembered(lineage or "", now)
            lineages = tuple(sorted({each.lineage for each in catalogue.backups()}))
        schedule, wanted = schedule_of(spec.backups), self.members.schemas(deployment)
        verdict = status(known, schedule, now)
        unknown = () if known.shipping else (NEVER_SHIPPED,) * bool(wrong)  # nobody could look
        reasons = (
            *wrong,
            *self.pruning.left_over(deployment),
            *(each for each in verdict.reasons if each not in unknown),
        )
        reasons += (*self._sealed(known), *red_schemas(known, wanted, schedule, now))
        retention = retention_of(spec.backups)
        every, proofs = catalogue.backups(), catalogue.proofs()
        older = []
        for each in reversed(lineages):
            if each != lineage:
                theirs = [one for one in every if one.lineage == each]
                gone = to_go(theirs, proofs, retention, now)
                older.append({"lineage": each, "backups": shown_backups(theirs, proofs, gone)})
        return {
            "deployment": deployment,
            "lineage": lineage,
            "green": not reasons,
            "reasons": list(reasons),
            "schedule": shown_schedule(schedule),
            "newest": verdict.newest,
            "newest_proven": verdict.newest_proven,
            **shown_known(known, to_go(known.backups, known.proofs, retention, now), now),
            "older": older,
            "schemas": shown_schemas(known, schemas_to_go(known.schemas, known.schema_proofs, retention, now)),
        }

    def _sealed(self, known: Known) -> tuple[str, ...]:
        """The first link of the newest chain that was encrypted to a key which is not here."""
        best = newest(known.backups)
        links = chain(known.backups, best.id) if best is not None else ()
        closed = {each for each in {link.recipient for link in links} if not opens(self._ports.vault, each)}
        shut = [each for each in links if each.recipient in closed]
        return tuple(f"{each.id} is encrypted to {each.recipient}, which no key here opens" for each in shut[:1])

    async def _look_again_and_again(self) -> None:
        while True:
            try:
                names = [row["name"] for row in self._store.deployments()]
                for gone in self._looked.keys() - set(names):
                    del self._looked[gone]
                for name in names:
                    await self._look_at(name)
            except Exception:  # outermost frame of this loop: the next look may go well
                log.exception("backup keeper")
            await asyncio.sleep(LOOK_SECONDS)

    async def _look_at(self, deployment: str) -> None:
        try:
            spec = self._store.applied_spec(deployment)
            if spec is not None and spec.database is not None:
                await self.look(deployment)
        except RelaunchError as error:
            log.info("backups of %s: %s", deployment, error)
        except Exception:  # one deployment's fault must not keep the others from being backed up
            log.exception("backups of %s", deployment)

    async def look(self, deployment: str) -> None:
        """Once: start what is due, say what is wrong. While no primary can be told, nothing is started."""
        members, now = self.members.connected(deployment), self._ports.clock.now()
        leads, lineage = any(role == "primary" for _, _, role in members), self.members.lineage(deployment)
        if lineage is None and not leads:
            return
        wrong = (*self.members.alarming(deployment, lineage), *self.pruning.left_over(deployment))
        if lineage is None:
            self._colours.say(deployment, wrong)
            return
        catalogue, spec = self.members.catalogue(deployment), self.members.spec(deployment)
        schedule = schedule_of(spec.backups)
        try:
            known = await self._known(deployment, catalogue, lineage, now)
        except RelaunchError as error:
            self._colours.say(deployment, (*wrong, f"the backups cannot be looked at: {error.message}"))
            return
        except Exception as error:
            self._colours.say(deployment, (*wrong, f"the backups cannot be looked at: {error!r}"))
            raise
        schemas = self.members.schemas(deployment)
        young = abs(now - begun(lineage)) < YOUNG
        not_yet = (NO_BACKUP, NO_PROOF, NEVER_SHIPPED, *map(no_backup, schemas)) if young else ()
        reasons = (*wrong, *status(known, schedule, now).reasons, *self._sealed(known))
        reasons += red_schemas(known, schemas, schedule, now)
        self._colours.say(deployment, reasons, hushed=not_yet)
        if not leads or self._workflows.tasks.running_on(subject(deployment)) or self.pruning.is_running(deployment):
            return
        if (self.pruning.left_over(deployment) or schedule.prove is None) and self.pruning.begin(deployment, now):
            return
        has_replica = any(role == "replica" and self._applies(row["id"]) for _, row, role in members)
        await self._start_what_is_due(deployment, known, schedule, now, has_replica)

    async def _known(self, deployment: str, catalogue: Catalogue, lineage: str, now: datetime) -> Known:
        """As the store is now, or, where it has very much, was lately; its binary logs are asked for at each look."""
        running = self._workflows.tasks.running_on(subject(deployment))
        task, looked = running["id"] if running else "", self._looked.get(deployment)
        if looked and (looked.lineage, looked.task) == (lineage, task) and time.monotonic() < looked.until:
            failed = catalogue.failed_lately(lineage, now)
            return replace(looked.known, failed=failed, shipping=await catalogue.shipping(lineage))
        self._looked.pop(deployment, None)
        stored = await catalogue.refresh((lineage,))
        known = await catalogue.known(lineage, now)
        counts = len(stored) / OBJECTS_A_SECOND
        if counts > LOOK_SECONDS:
            until = time.monotonic() + counts
            self._looked[deployment] = _Looked(lineage=lineage, task=task, until=until, known=known)
        return known

    async def _start_what_is_due(
        self, deployment: str, known: Known, schedule: Schedule, now: datetime, has_replica: bool
    ) -> None:
        """One task at a time; an incremental last, as it is due again and again, but for what has just failed."""
        wanted = due(known.backups, known.proofs, schedule, now, has_replica=has_replica)
        schema: str | None = None
        to_prove: tuple[Backup, ...] = ()
        if wanted is None or (wanted[0] == Kind.INCREMENTAL and not known.failed):
            names = self.members.schemas(deployment)
            schema = due_schema(known, names, schedule, now, self._dumped.get(deployment, {}))
            to_prove = unproven(known, names, schedule, now)
        if not (wanted or schema or to_prove):
            return
        if known.failed and abs(now - self._tried.get(deployment, now - AGAIN_AFTER)) < AGAIN_AFTER:
            return
        proves = schema is None and (to_prove or (wanted is not None and wanted[0] == "prove"))
        if proves and self.pruning.begin(deployment, now):
            return
        self._tried[deployment] = now
        self._looked.pop(deployment, None)
        if schema is not None:
            await self.orders.back_up(deployment, kind="schema", side=None, schema=schema, who=WHO)
            self._dumped.setdefault(deployment, {})[schema] = now
        elif to_prove:
            await self.orders.prove_schemas(deployment, to_prove, who=WHO)
        elif wanted is not None and wanted[0] == "prove":
            await self.orders.prove(deployment, backup="latest", who=WHO)
        elif wanted is not None:
            await self.orders.back_up(deployment, kind=wanted[0], side=wanted[1], who=WHO)
