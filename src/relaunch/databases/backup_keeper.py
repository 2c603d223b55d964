"""Reconcile: backups are made and proven when they are due, what retention lets go is removed, red is said out loud."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert

from relaunch.databases import backup_steps  # noqa: F401  the workflows register themselves when imported
from relaunch.databases.backup_catalogue import Catalogue, retention_of, schedule_of, subject
from relaunch.databases.backups import Status, due, status, to_go
from relaunch.errors import Conflict, NotFound, RelaunchError
from relaunch.records.schema import audit
from relaunch.servers.deployments import DatabaseSpec
from relaunch.servers.lifecycle import State
from relaunch.servers.ports import Ports
from relaunch.servers.store import Row, ServerRow, Store, new_id
from relaunch.servers.store import now as now_text
from relaunch.workflows.durable import Workflows
from relaunch.workflows.tasks import Asked

log = logging.getLogger("relaunch.backups")

LOOK_SECONDS = 15.0
AGAIN_AFTER = timedelta(minutes=5)  # a failed one is not tried again before
WHO = "relaunch"


class BackupKeeper:
    """Looks at every deployment with a database; what people order goes through here, too."""

    def __init__(self, ports: Ports, workflows: Workflows) -> None:
        self._ports = ports
        self._workflows = workflows
        self._store = Store(ports.database, ports.clock)
        self._red: dict[str, tuple[str, ...]] = {}
        self._tried: dict[str, datetime] = {}
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.create_task(self._look_again_and_again(), name="backup keeper")

    async def stop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop

    def catalogue(self, deployment: str) -> Catalogue:
        self._spec(deployment)
        return Catalogue(self._ports.database, self._ports.objects, deployment)

    async def back_up(self, deployment: str, *, kind: str, side: str | None, who: str) -> str:
        """The task. side: replica | primary; None is a replica when there is one."""
        members = self._members(deployment)
        if side is None:
            side = "replica" if any(role == "replica" for _, _, role in members) else "primary"
        found = next(((server, row) for server, row, role in members if role == side), None)
        if found is None:
            raise Conflict(f"{deployment} has no {side} that could be backed up now", hint="relaunch db status")
        server, row = found
        args = {
            "deployment": deployment, "server": server.full_name, "instance": row["id"], "run_id": f"run-{new_id()}",
            "kind": kind,
        }  # fmt: skip
        return await self._start("back-up", f"{kind} backup of {server.full_name}", deployment, who, args)

    async def prove(self, deployment: str, *, backup: str, who: str) -> str:
        """The task."""
        members = self._members(deployment)
        if not members:
            raise Conflict(f"{deployment} has no database server whose image could be used")
        args = {"deployment": deployment, "model": members[0][1]["id"], "instance": new_id(), "backup": backup}
        return await self._start("prove", f"prove backup {backup} of {deployment}", deployment, who, args)

    async def restore(self, deployment: str, *, backup: str, to: str, who: str) -> str:
        """The task: the primary's data replaced in place. Conflict while replicas run: they hold what is undone."""
        members = self._members(deployment)
        replicas = [server.full_name for server, _, role in members if role == "replica"]
        if replicas:
            raise Conflict(
                f"{', '.join(replicas)} would still hold the data that is to be replaced, and could become primary",
                hint="terminate the replicas first, and launch them again afterwards: they copy the restored primary",
            )
        primary = next(((server, row) for server, row, role in members if role == "primary"), None)
        if primary is None:
            raise Conflict(f"{deployment} has no primary now: launch it first")
        server, row = primary
        args = {
            "deployment": deployment, "server": server.full_name, "instance": row["id"], "run_id": f"run-{new_id()}",
            "backup": backup, "to": to,
        }  # fmt: skip
        return await self._start("restore", f"restore {server.full_name} to {to}", deployment, who, args)

    async def shown(self, deployment: str) -> dict[str, Any]:
        """Everything about a deployment's backups, plain; the store is asked now."""
        catalogue, spec, now = self.catalogue(deployment), self._spec(deployment), self._ports.clock.now()
        await catalogue.refresh()
        known = await catalogue.known()
        schedule, retention = schedule_of(spec.backups), retention_of(spec.backups)
        verdict = status(known, schedule, now)
        proven = {proof.backup: proof for proof in known.proofs}
        gone = {each.id for each in to_go(known.backups, known.proofs, retention)}
        return {
            "deployment": deployment,
            "green": verdict.green,
            "reasons": list(verdict.reasons),
            "newest": verdict.newest,
            "newest_proven": verdict.newest_proven,
            "binary_logs": None
            if known.shipping is None
            else {
                "at": known.shipping.at.isoformat(),
                "gtid": known.shipping.gtid,
                "server": known.shipping.server,
                "behind_seconds": round((now - known.shipping.at).total_seconds(), 1),
            },
            "backups": [
                {
                    "id": each.id, "kind": each.kind, "parent": each.parent, "server": each.server, "role": each.role,
                    "ended": each.ended.isoformat(), "seconds": (each.ended - each.begun).total_seconds(),
                    "stored_bytes": each.stored_bytes, "gtid": each.gtid, "fault": each.fault,
                    "warnings": list(each.warnings), "would_go": each.id in gone,
                    "proven": proven[each.id].proven if each.id in proven else None,
                }
                for each in reversed(known.backups)
            ],
            "proofs": [
                {
                    "backup": each.backup, "at": each.at.isoformat(), "proven": each.proven, "why": each.why,
                    "gtid": each.gtid, "seconds": each.seconds, "tables_compared": each.tables_compared,
                }
                for each in reversed(known.proofs[-20:])
            ],
        }  # fmt: skip

    async def prune(self, deployment: str) -> list[str]:
        """Remove what retention no longer keeps; the keys that went."""
        catalogue, spec = self.catalogue(deployment), self._spec(deployment)
        stored = await catalogue.refresh()
        gone = to_go(catalogue.backups(), catalogue.proofs(), retention_of(spec.backups))
        removed = await catalogue.remove(gone, stored, self._ports.clock.now())
        if removed:
            log.info("%s: %d objects of old backups are removed", deployment, len(removed))
        return removed

    async def _start(self, kind: str, title: str, deployment: str, who: str, args: dict[str, Any]) -> str:
        about = subject(deployment)
        running = self._workflows.tasks.running_on(about)
        if running is not None:
            raise Conflict(f"task {running['id']} is under way: {running['title']}", hint="wait for it, or cancel it")
        task = f"{kind}-{new_id()}"
        await self._workflows.start_workflow(Asked(kind=kind, title=title, subject=about, who=who), task, args)
        return task

    def _spec(self, deployment: str) -> DatabaseSpec:
        spec = self._store.applied_spec(deployment)
        if spec is None:
            raise NotFound(f"no deployment {deployment}")
        if spec.database is None:
            raise NotFound(f"deployment {deployment} has no database group")
        return spec.database

    def _members(self, deployment: str) -> list[tuple[ServerRow, Row, str]]:
        """Operational members that say their role and can be told what to do: server, instance, role."""
        names = self._spec(deployment).members
        servers = [each for each in self._store.servers(deployment) if each.name in names and each.instance_id]
        rows = self._store.instances([str(each.instance_id) for each in servers])
        return [
            (server, row, str(row["tags"]["database"]))
            for server in servers
            if (row := rows[str(server.instance_id)])["state"] == State.OPERATIONAL
            and row["tags"].get("database") in ("primary", "replica")
            and self._ports.agents.connected(row["id"])
        ]

    async def _look_again_and_again(self) -> None:
        while True:
            for row in self._store.deployments():
                spec = self._store.applied_spec(row["name"])
                if spec is None or spec.database is None:
                    continue
                try:
                    await self.look(row["name"])
                except RelaunchError as error:
                    self._say(row["name"], (f"the backups cannot be looked at: {error.message}",))
                except Exception:  # outermost frame of this loop: the next look may go well
                    log.exception("backup keeper")
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self, deployment: str) -> None:
        """Once: start what is due, say what is wrong."""
        members, now = self._members(deployment), self._ports.clock.now()
        if not any(role == "primary" for _, _, role in members):
            return
        catalogue, spec = self.catalogue(deployment), self._spec(deployment)
        schedule = schedule_of(spec.backups)
        await catalogue.refresh()
        known = await catalogue.known()
        self._verdict(deployment, status(known, schedule, now))
        if self._workflows.tasks.running_on(subject(deployment)) is not None:
            return
        wanted = due(
            known.backups, known.proofs, schedule, now, has_replica=any(role == "replica" for _, _, role in members)
        )
        if wanted is None or (known.failed and now - self._tried.get(deployment, now - AGAIN_AFTER) < AGAIN_AFTER):
            return
        self._tried[deployment] = now
        kind, side = wanted
        if kind == "prove":
            await self.prune(deployment)
            await self.prove(deployment, backup="latest", who=WHO)
        else:
            await self.back_up(deployment, kind=kind, side=side, who=WHO)

    def _verdict(self, deployment: str, verdict: Status) -> None:
        self._say(deployment, verdict.reasons)

    def _say(self, deployment: str, reasons: tuple[str, ...]) -> None:
        """In the log and the audit trail, when it changes."""
        if self._red.get(deployment) == reasons:
            return
        self._red[deployment] = reasons
        (log.warning if reasons else log.info)("backups of %s: %s", deployment, "; ".join(reasons) or "green")
        action = "backups are red" if reasons else "backups are green"
        with self._ports.database.begin() as connection:
            connection.execute(
                insert(audit).values(
                    at=now_text(self._ports.clock), who=WHO, action=action,
                    subject=f"deployment:{deployment}", result="failed" if reasons else "done",
                    detail={"reasons": list(reasons)},
                )
            )  # fmt: skip
