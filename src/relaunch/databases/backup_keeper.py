"""Reconcile: backups are made and proven when they are due, what retention lets go is removed, red is said out loud."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from relaunch.databases import backup_restore, backup_schema_steps, backup_steps  # noqa: F401  they register themselves
from relaunch.databases.alarm import Alarm
from relaunch.databases.backup_catalogue import Catalogue, retention_of, schedule_of, subject
from relaunch.databases.backup_colour import Colours, alarms_of_tags
from relaunch.databases.backup_key import fault_of_pair, opens
from relaunch.databases.backup_moments import begins_with, refuse_moment
from relaunch.databases.backup_schemas import due_schema, newest_of, no_backup, red_schemas, schemas_to_go, unproven
from relaunch.databases.backup_shown import shown_backups, shown_known, shown_schedule, shown_schemas
from relaunch.databases.backups import (
    NEVER_SHIPPED,
    NO_BACKUP,
    NO_PROOF,
    SNAPSHOT,
    YOUNG,
    Backup,
    Kind,
    Known,
    Retention,
    Schedule,
    begun,
    chain,
    due,
    moment,
    newest,
    status,
    to_go,
)
from relaunch.databases.group import Group
from relaunch.databases.store import GroupStore
from relaunch.errors import Conflict, NotFound, RelaunchError
from relaunch.servers.deployments import DatabaseSpec
from relaunch.servers.exclusion import refuse_beside
from relaunch.servers.lifecycle import State
from relaunch.servers.ports import Ports
from relaunch.servers.store import Row, ServerRow, Store, new_id
from relaunch.workflows.durable import Workflows
from relaunch.workflows.tasks import Asked

log = logging.getLogger("relaunch.backups")

LOOK_SECONDS = 15.0
AGAIN_AFTER = timedelta(minutes=5)  # a failed one is not tried again before
PRUNE_AFTER = timedelta(hours=1)  # old backups are removed at most so often, whether that fails or not
WHO = "relaunch"


def role_now(group: Group | None, instance: str, joined_as: str) -> str:
    """primary, replica, or "" for neither. The tag says what a server was when it joined; a failover or a switchover
    since then is known to the group only."""
    if joined_as not in ("primary", "replica") or (group is not None and instance in group.fenced):
        return ""
    if group is None or not group.primary:
        return joined_as
    return "primary" if group.primary == instance else "replica"


def _role_of(group: Group | None, row: Row) -> str:
    """As `role_now`; a primary whose boot scripts gave up leads though its tag does not say so."""
    if row["state"] == State.STRANDED:
        return "primary" if group is not None and group.initialised and group.primary == row["id"] else ""
    return role_now(group, row["id"], str(row["tags"].get("database", ""))) if row["state"] == State.OPERATIONAL else ""


class BackupKeeper:
    """Looks at every deployment with a database; what people order goes through here, too.

    `alarm` reaches a person when backups stay red. `applies`: whether this instance, a replica, applies what it
    receives: one that does not would refuse to be backed up.
    """

    def __init__(self, ports: Ports, workflows: Workflows, alarm: Alarm, applies: Callable[[str], bool]) -> None:
        self._ports = ports
        self._applies = applies
        self._workflows = workflows
        self._store = Store(ports.database, ports.clock)
        self._colours = Colours(ports.database, ports.clock, alarm)
        self._tried: dict[str, datetime] = {}
        self._dumped: dict[str, dict[str, datetime]] = {}  # of each deployment's schemas, when a backup was last begun
        self._pruned: dict[str, datetime] = {}  # when removing old backups was last begun
        self._pruning: dict[str, asyncio.Task[None]] = {}
        self._unpruned: dict[str, str] = {}  # why that failed the last time
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.create_task(self._look_again_and_again(), name="backup keeper")

    async def stop(self) -> None:
        for task in (self._loop, *self._pruning.values()):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def catalogue(self, deployment: str) -> Catalogue:
        self._spec(deployment)
        return Catalogue(self._ports.database, self._ports.objects, deployment)

    async def back_up(self, deployment: str, *, kind: str, side: str | None, who: str, schema: str = "") -> str:
        """The task. side: replica | primary; None is a replica when there is one that applies. schema: which, for that
        kind.

        kind: full | incremental | schema | snapshot, which stays on the server: the primary when side is None."""
        members, method = self._members(deployment), self._spec(deployment).backups.get("method", "")
        if kind == SNAPSHOT:
            kind, method, side = "local", SNAPSHOT, side or "primary"
        if side is None:
            follows = any(role == "replica" and self._applies(row["id"]) for _, row, role in members)
            side = "replica" if follows else "primary"
        found = [(server, row) for server, row, role in members if role == side]
        if not found:
            raise Conflict(f"{deployment} has no {side} that could be backed up now", hint="relaunch db status")
        server, row = max(found, key=lambda each: self._applies(each[1]["id"]))
        args = {
            "deployment": deployment, "lineage": self._must_have_lineage(deployment), "server": server.full_name,
            "instance": row["id"], "run_id": f"run-{new_id()}", "kind": kind, "schema": schema,
            "method": method,
        }  # fmt: skip
        return await self._start("back-up", f"{schema or kind} backup of {server.full_name}", deployment, who, args)

    async def prove(self, deployment: str, *, backup: str, who: str) -> str:
        """The task."""
        members = self._members(deployment)
        if not members:
            raise Conflict(f"{deployment} has no database server whose image could be used")
        lineage = self._must_have_lineage(deployment)
        if backup != "latest":
            lineage = Catalogue(self._ports.database, self._ports.objects, deployment).manifest(backup)["lineage"]
        args = {
            "deployment": deployment, "lineage": lineage, "model": members[0][1]["id"], "instance": new_id(),
            "backup": backup,
        }  # fmt: skip
        return await self._start("prove", f"prove backup {backup} of {deployment}", deployment, who, args)

    async def restore_snapshot(self, deployment: str, *, snapshot: str, who: str) -> str:
        """The task: the primary's data replaced by a snapshot of its own volume, its replicas by fresh ones."""
        server, row = self._primary_at_rest(deployment)
        args = {
            "deployment": deployment, "server": server.full_name, "instance": row["id"], "run_id": f"run-{new_id()}",
            "snapshot": snapshot, "new_lineage": self._new_lineage(),
        }  # fmt: skip
        return await self._start("restore", f"restore {server.full_name} from a snapshot", deployment, who, args)

    async def prove_schemas(self, deployment: str, backups: Sequence[Backup], *, who: str) -> str:
        """The task: these backups of one schema each, on one throw-away instance."""
        members = self._members(deployment)
        if not members:
            raise Conflict(f"{deployment} has no database server whose image could be used")
        if not backups:
            raise NotFound("no such backup", hint=f"relaunch db backups {deployment}")
        args = {
            "deployment": deployment, "model": members[0][1]["id"], "instance": new_id(),
            "schemas": [{"schema": each.schema, "backup": each.id, "lineage": each.lineage} for each in backups],
        }  # fmt: skip
        names = ", ".join(each.schema for each in backups)
        return await self._start("prove-schemas", f"prove {names} of {deployment}", deployment, who, args)

    async def prove_schema(self, deployment: str, *, schema: str, backup: str, who: str) -> str:
        """The task. backup: its id, or latest."""
        catalogue, lineage = self.catalogue(deployment), self._must_have_lineage(deployment)
        await catalogue.refresh((lineage,))
        now = self._ports.clock.now()
        known = catalogue.remembered(lineage, now)
        newest = newest_of(known, schema, now)
        mine = [each for each in known.schemas if each.schema == schema and each.id == backup]
        return await self.prove_schemas(deployment, [newest] if backup == "latest" and newest else mine, who=who)

    async def restore(self, deployment: str, *, source: str, lineage: str, backup: str, to: str, who: str) -> str:
        """The task: the primary's data replaced, its replicas by fresh ones. source: whose backups, "" for its own;
        lineage: of which history, "" for the present one, or the newest that can be restored."""
        server, row = self._primary_at_rest(deployment)
        source = source or deployment
        catalogue = Catalogue(self._ports.database, self._ports.objects, source)
        lineages = await catalogue.lineages()
        if lineage and lineage not in lineages:
            raise NotFound(f"no history {lineage} of {source} in the store", hint=f"it has: {', '.join(lineages)}")
        await catalogue.refresh(lineages)
        lineage, backup = self._chosen(deployment, source, catalogue, lineages, lineage, backup)
        now = self._ports.clock.now()
        known = await catalogue.known(lineage, now)
        refuse_moment(known, to, backup, now)
        backup = begins_with(known, to) if backup == "latest" else backup
        args = {
            "deployment": deployment, "server": server.full_name, "instance": row["id"], "run_id": f"run-{new_id()}",
            "source": source, "lineage": lineage, "backup": backup, "to": to,
            "new_lineage": self._new_lineage(),
        }  # fmt: skip
        of = "" if source == deployment else f" from {source}"
        return await self._start("restore", f"restore {server.full_name}{of} to {to}", deployment, who, args)

    def _primary_at_rest(self, deployment: str) -> tuple[ServerRow, Row]:
        """Conflict when there is none that can be told now, or something else is under way."""
        primary = next(((server, row) for server, row, role in self._members(deployment) if role == "primary"), None)
        if primary is None:
            raise Conflict(f"{deployment} has no primary now: launch it first")
        self._refuse_beside("restore", deployment)
        return primary

    def _new_lineage(self) -> str:
        return f"{self._ports.clock.now().astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"

    async def restore_schema(
        self, deployment: str, *, schema: str, name: str, backup: str, source: str, lineage: str, confirm: str, who: str
    ) -> str:
        """The task: one schema out of its own backup on the primary, called `name`."""
        primary = next(((server, row) for server, row, role in self._members(deployment) if role == "primary"), None)
        if primary is None:
            raise Conflict(f"{deployment} has no primary now: launch it first")
        server, row = primary
        lineage = lineage or (self._present(source) or "newest" if source else self._must_have_lineage(deployment))
        args = {
            "deployment": deployment, "server": server.full_name, "instance": row["id"], "run_id": f"run-{new_id()}",
            "source": source or deployment, "schema": schema, "name": name or schema, "backup": backup,
            "lineage": lineage, "confirm": confirm,
        }  # fmt: skip
        title = f"restore schema {schema} as {name or schema} in {server.full_name}"
        return await self._start("restore-schema", title, deployment, who, args)

    def _chosen(
        self, deployment: str, source: str, catalogue: Catalogue, lineages: tuple[str, ...], lineage: str, backup: str
    ) -> tuple[str, str]:
        """Lineage and backup; an error names what is missing before anything is touched."""
        every = catalogue.backups()
        if backup != "latest":
            chain(every, backup)
            return catalogue.manifest(backup)["lineage"], backup
        present = lineage or self._present(source)
        wanted = (present,) if present or source == deployment else lineages[::-1]
        for each in wanted:
            theirs = [one for one in every if one.lineage == each]
            if each is not None and newest(theirs) is not None:
                return each, backup
            if theirs and len(wanted) == 1:
                chain(theirs, theirs[-1].id)  # names the link that is missing
        older = ", ".join(each or "without an id" for each in lineages) or "none"
        raise Conflict(
            f"there is no backup of {source} that can be restored" + (f" in its history {wanted[0]}" if wanted else ""),
            hint=f"histories in the store: {older}; name one by --lineage",
        )

    def _refuse_beside(self, kind: str, deployment: str) -> None:
        refuse_beside(self._store, self._workflows.tasks, deployment, kind)

    async def shown(self, deployment: str) -> dict[str, Any]:
        """Everything about a deployment's backups, plain; the store is asked now."""
        catalogue, spec, now = self.catalogue(deployment), self._spec(deployment), self._ports.clock.now()
        lineage = self.lineage(deployment)
        wrong = self._alarming(deployment, lineage)
        try:
            lineages = await catalogue.lineages()
            await catalogue.refresh(lineages)
            known = await catalogue.known(lineage or "", now)
        except RelaunchError as error:
            wrong = (*wrong, f"the backups cannot be looked at: {error.message}")
            known = catalogue.remembered(lineage or "", now)
            lineages = tuple(sorted({each.lineage for each in catalogue.backups()}))
        schedule, wanted = schedule_of(spec.backups), self._schemas(deployment)
        verdict = status(known, schedule, now)
        unknown = () if known.shipping else (NEVER_SHIPPED,) * bool(wrong)  # nobody could look
        reasons = (*wrong, *self._left_over(deployment), *(each for each in verdict.reasons if each not in unknown))
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

    async def prune(self, deployment: str) -> list[str]:
        """Remove what retention no longer keeps, of each history by itself; the keys that went.

        Once it has failed, that is a reason to be red until it succeeds."""
        catalogue, retention = self.catalogue(deployment), retention_of(self._spec(deployment).backups)
        try:
            removed = await self._prune(deployment, catalogue, retention)
        except RelaunchError as error:
            self._unpruned[deployment] = f"old backups could not be removed: {error.message}"
            raise
        self._unpruned.pop(deployment, None)
        if removed:
            log.info("%s: %d objects of old backups are removed", deployment, len(removed))
        return removed

    async def _prune(self, deployment: str, catalogue: Catalogue, retention: Retention) -> list[str]:
        removed: list[str] = []
        running, now = self._workflows.tasks.running_on(subject(deployment)), self._ports.clock.now()
        # What a backup that is under way has stored is not abandoned, however long it takes.
        until = now if running is None else moment(running["created"])
        lineages = await catalogue.lineages()
        stored = await catalogue.refresh(lineages)
        every, proofs, schemas = catalogue.backups(), catalogue.proofs(), catalogue.schemas()
        for lineage in lineages:
            theirs = [each for each in every if each.lineage == lineage]
            gone = to_go(theirs, proofs, retention, now)
            mine = [each for each in schemas if each.lineage == lineage]
            gone += schemas_to_go(mine, catalogue.schema_proofs(), retention, now)
            if self._workflows.tasks.running_on(subject(deployment)) is not None:
                gone = ()  # it may build on any of them, or read it
            removed += await catalogue.remove(lineage, gone, stored, until)
        return removed

    def _begin_pruning(self, deployment: str, now: datetime) -> bool:
        """Unless it was begun lately. No other deployment waits for it; what is due here does, as a proof might read
        what is just being removed."""
        if abs(now - self._pruned.get(deployment, now - PRUNE_AFTER)) < PRUNE_AFTER:
            return False
        self._pruned[deployment] = now
        self._pruning[deployment] = asyncio.create_task(self._prune_beside(deployment), name=f"prune {deployment}")
        return True

    async def _prune_beside(self, deployment: str) -> None:
        try:
            await self.prune(deployment)
        except RelaunchError as error:
            log.info("backups of %s: %s", deployment, error)
        except Exception:  # outermost frame of this task: the next one may go well
            log.exception("removing old backups of %s", deployment)

    def _is_pruning(self, deployment: str) -> bool:
        return deployment in self._pruning and not self._pruning[deployment].done()

    def _left_over(self, deployment: str) -> tuple[str, ...]:
        """Why old backups are still there."""
        return (self._unpruned[deployment],) if deployment in self._unpruned else ()

    async def forget(self, deployment: str, lineage: str, *, who: str) -> str:
        """The task: everything of an older history is removed, proven or not. Backups of the present one go on."""
        catalogue = self.catalogue(deployment)
        if lineage == self._must_have_lineage(deployment):
            raise Conflict(f"{lineage} is the history {deployment} lives in now")
        if lineage not in await catalogue.lineages():
            raise NotFound(
                f"no history {lineage} of {deployment} in the store", hint=f"relaunch db backups {deployment}"
            )
        title = f"forget the backups of {deployment} in its history {lineage}"
        args = {"deployment": deployment, "lineage": lineage}
        return await self._start("forget-backups", title, f"{deployment}/{lineage}", who, args)

    async def _start(self, kind: str, title: str, about: str, who: str, args: dict[str, Any]) -> str:
        """`about`: a deployment, or DEPLOYMENT/HISTORY."""
        self._refuse_beside(kind, args["deployment"])
        task, asked = f"{kind}-{new_id()}", Asked(kind=kind, title=title, subject=subject(about), who=who)
        await self._workflows.start_workflow(asked, task, args)
        return task

    def _spec(self, deployment: str) -> DatabaseSpec:
        spec = self._store.applied_spec(deployment)
        if spec is None:
            raise NotFound(f"no deployment {deployment}")
        if spec.database is None:
            raise NotFound(f"deployment {deployment} has no database group")
        return spec.database

    def _schemas(self, deployment: str) -> list[str]:
        """Of its sites."""
        spec = self._store.applied_spec(deployment)
        return sorted({site.database for site in spec.sites if site.database}) if spec is not None else []

    def _rows(self, deployment: str) -> list[tuple[ServerRow, Row]]:
        """The members that have an instance, with it."""
        names = self._spec(deployment).members
        servers = [each for each in self._store.servers(deployment) if each.name in names and each.instance_id]
        rows = self._store.instances([str(each.instance_id) for each in servers])
        return [(server, rows[str(server.instance_id)]) for server in servers]

    def _members(self, deployment: str) -> list[tuple[ServerRow, Row, str]]:
        """Members that can be told what to do."""
        return [each for each in self._with_roles(deployment) if self._ports.agents.connected(each[1]["id"])]

    def _with_roles(self, deployment: str) -> list[tuple[ServerRow, Row, str]]:
        """Server, instance, the role it has now: of operational members, and of the primary, which may lead though its
        boot scripts gave up."""
        stored = GroupStore(self._ports.database).group(deployment)
        group = stored.group if stored is not None else None
        return [(server, row, role) for server, row in self._rows(deployment) if (role := _role_of(group, row))]

    async def _look_again_and_again(self) -> None:
        while True:
            try:
                for row in self._store.deployments():
                    await self._look_at(row["name"])
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
        members, now = self._members(deployment), self._ports.clock.now()
        leads, lineage = any(role == "primary" for _, _, role in members), self.lineage(deployment)
        if lineage is None and not leads:
            return
        wrong = (*self._alarming(deployment, lineage), *self._left_over(deployment))
        if lineage is None:
            self._colours.say(deployment, wrong)
            return
        catalogue, spec = self.catalogue(deployment), self._spec(deployment)
        schedule = schedule_of(spec.backups)
        try:
            await catalogue.refresh((lineage,))
            known = await catalogue.known(lineage, now)
        except RelaunchError as error:
            self._colours.say(deployment, (*wrong, f"the backups cannot be looked at: {error.message}"))
            return
        except Exception as error:
            self._colours.say(deployment, (*wrong, f"the backups cannot be looked at: {error!r}"))
            raise
        schemas = self._schemas(deployment)
        young = abs(now - begun(lineage)) < YOUNG
        not_yet = (NO_BACKUP, NO_PROOF, NEVER_SHIPPED, *map(no_backup, schemas)) if young else ()
        reasons = (*wrong, *status(known, schedule, now).reasons, *self._sealed(known))
        reasons += red_schemas(known, schemas, schedule, now)
        self._colours.say(deployment, reasons, hushed=not_yet)
        if not leads or self._workflows.tasks.running_on(subject(deployment)) or self._is_pruning(deployment):
            return
        if (deployment in self._unpruned or schedule.prove is None) and self._begin_pruning(deployment, now):
            return
        has_replica = any(role == "replica" and self._applies(row["id"]) for _, row, role in members)
        await self._start_what_is_due(deployment, known, schedule, now, has_replica)

    async def _start_what_is_due(
        self, deployment: str, known: Known, schedule: Schedule, now: datetime, has_replica: bool
    ) -> None:
        """One task at a time; an incremental last, as it is due again and again, but for what has just failed."""
        wanted = due(known.backups, known.proofs, schedule, now, has_replica=has_replica)
        schema: str | None = None
        to_prove: tuple[Backup, ...] = ()
        if wanted is None or (wanted[0] == Kind.INCREMENTAL and not known.failed):
            names = self._schemas(deployment)
            schema = due_schema(known, names, schedule, now, self._dumped.get(deployment, {}))
            to_prove = unproven(known, names, schedule, now)
        if not (wanted or schema or to_prove):
            return
        if known.failed and abs(now - self._tried.get(deployment, now - AGAIN_AFTER)) < AGAIN_AFTER:
            return
        proves = schema is None and (to_prove or (wanted is not None and wanted[0] == "prove"))
        if proves and self._begin_pruning(deployment, now):
            return
        self._tried[deployment] = now
        if schema is not None:
            await self.back_up(deployment, kind="schema", side=None, schema=schema, who=WHO)
            self._dumped.setdefault(deployment, {})[schema] = now
        elif to_prove:
            await self.prove_schemas(deployment, to_prove, who=WHO)
        elif wanted is not None and wanted[0] == "prove":
            await self.prove(deployment, backup="latest", who=WHO)
        elif wanted is not None:
            await self.back_up(deployment, kind=wanted[0], side=wanted[1], who=WHO)

    def lineage(self, deployment: str) -> str | None:
        """The id of its data's history, as the primary says, or else another member; None when none has said."""
        stored = GroupStore(self._ports.database).group(deployment)
        group = stored.group if stored is not None else None
        rows = [row for _, row in self._rows(deployment)]
        rows.sort(key=lambda row: role_now(group, row["id"], str(row["tags"].get("database", ""))) != "primary")
        return next((str(row["tags"]["lineage"]) for row in rows if row["tags"].get("lineage")), None)

    def _present(self, source: str) -> str | None:
        """The history that the group of this name lives in; None when there is none, or none has said."""
        spec = self._store.applied_spec(source)
        return self.lineage(source) if spec is not None and spec.database is not None else None

    def _must_have_lineage(self, deployment: str) -> str:
        lineage = self.lineage(deployment)
        if lineage is None:
            raise Conflict(
                f"no server of {deployment} has said yet which history its data is of",
                hint="its primary does within seconds: see relaunch-ship-binlogs there",
            )
        return lineage

    def _alarming(self, deployment: str, lineage: str | None) -> tuple[str, ...]:
        """What the servers themselves said last is wrong, and what is with the key."""
        found = tuple(
            f"{server.full_name}: {why}"
            for server, row, role in self._with_roles(deployment)
            for why in alarms_of_tags(row["tags"], role)
        )
        if fault := fault_of_pair(self._ports.vault):
            found = (*found, fault)
        return found if lineage else (*found, "no server has said yet which history its data is of")
