"""What people order of backups, and reconcile in their place: each a task."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Any

from relaunch.databases import backup_restore, backup_schema_steps, backup_steps  # noqa: F401  they register themselves
from relaunch.databases.backup_catalogue import Catalogue, subject
from relaunch.databases.backup_members import Members
from relaunch.databases.backup_moments import begins_with, refuse_moment
from relaunch.databases.backup_schemas import newest_of
from relaunch.databases.backups import SNAPSHOT, Backup, chain, newest
from relaunch.errors import Conflict, NotFound
from relaunch.servers.exclusion import refuse_beside
from relaunch.servers.ports import Ports
from relaunch.servers.store import Row, ServerRow, Store, new_id
from relaunch.workflows.durable import Workflows
from relaunch.workflows.tasks import Asked


class BackupOrders:
    """`applies`: whether this instance, a replica, applies what it receives: one that does not would refuse to be
    backed up."""

    def __init__(self, ports: Ports, workflows: Workflows, members: Members, applies: Callable[[str], bool]) -> None:
        self._ports = ports
        self._workflows = workflows
        self._members = members
        self._applies = applies
        self._store = Store(ports.database, ports.clock)

    async def back_up(self, deployment: str, *, kind: str, side: str | None, who: str, schema: str = "") -> str:
        """The task. side: replica | primary; None is a replica when there is one that applies. schema: which, for that
        kind.

        kind: full | incremental | schema | snapshot, which stays on the server: the primary when side is None."""
        members, method = self._members.connected(deployment), self._members.spec(deployment).backups.get("method", "")
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
            "deployment": deployment, "lineage": self._members.must_have_lineage(deployment),
            "server": server.full_name, "instance": row["id"], "run_id": f"run-{new_id()}",
            "kind": kind, "schema": schema, "method": method,
        }  # fmt: skip
        return await self._start("back-up", f"{schema or kind} backup of {server.full_name}", deployment, who, args)

    async def prove(self, deployment: str, *, backup: str, who: str) -> str:
        """The task."""
        members = self._members.connected(deployment)
        if not members:
            raise Conflict(f"{deployment} has no database server whose image could be used")
        lineage = self._members.must_have_lineage(deployment)
        if backup != "latest":
            lineage = Catalogue(self._ports.database, self._ports.objects, deployment).manifest(backup)["lineage"]
        args = {
            "deployment": deployment, "lineage": lineage, "model": members[0][1]["id"], "instance": new_id(),
            "backup": backup,
        }  # fmt: skip
        return await self._start("prove", f"prove backup {backup} of {deployment}", deployment, who, args)

    async def prove_schemas(self, deployment: str, backups: Sequence[Backup], *, who: str) -> str:
        """The task: these backups of one schema each, on one throw-away instance."""
        members = self._members.connected(deployment)
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
        catalogue, lineage = self._members.catalogue(deployment), self._members.must_have_lineage(deployment)
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

    async def restore_snapshot(self, deployment: str, *, snapshot: str, who: str) -> str:
        """The task: the primary's data replaced by a snapshot of its own volume, its replicas by fresh ones."""
        server, row = self._primary_at_rest(deployment)
        args = {
            "deployment": deployment, "server": server.full_name, "instance": row["id"], "run_id": f"run-{new_id()}",
            "snapshot": snapshot, "new_lineage": self._new_lineage(),
        }  # fmt: skip
        return await self._start("restore", f"restore {server.full_name} from a snapshot", deployment, who, args)

    async def restore_schema(
        self, deployment: str, *, schema: str, name: str, backup: str, source: str, lineage: str, confirm: str, who: str
    ) -> str:
        """The task: one schema out of its own backup on the primary, called `name`."""
        server, row = self._primary(deployment)
        lineage = lineage or (
            self._members.present(source) or "newest" if source else self._members.must_have_lineage(deployment)
        )
        args = {
            "deployment": deployment, "server": server.full_name, "instance": row["id"], "run_id": f"run-{new_id()}",
            "source": source or deployment, "schema": schema, "name": name or schema, "backup": backup,
            "lineage": lineage, "confirm": confirm,
        }  # fmt: skip
        title = f"restore schema {schema} as {name or schema} in {server.full_name}"
        return await self._start("restore-schema", title, deployment, who, args)

    async def forget(self, deployment: str, lineage: str, *, who: str) -> str:
        """The task: everything of an older history is removed, proven or not. Backups of the present one go on."""
        catalogue = self._members.catalogue(deployment)
        if lineage == self._members.must_have_lineage(deployment):
            raise Conflict(f"{lineage} is the history {deployment} lives in now")
        if lineage not in await catalogue.lineages():
            raise NotFound(
                f"no history {lineage} of {deployment} in the store", hint=f"relaunch db backups {deployment}"
            )
        title = f"forget the backups of {deployment} in its history {lineage}"
        args = {"deployment": deployment, "lineage": lineage}
        return await self._start("forget-backups", title, f"{deployment}/{lineage}", who, args)

    def _chosen(
        self, deployment: str, source: str, catalogue: Catalogue, lineages: tuple[str, ...], lineage: str, backup: str
    ) -> tuple[str, str]:
        """Lineage and backup; an error names what is missing before anything is touched."""
        every = catalogue.backups()
        if backup != "latest":
            chain(every, backup)
            return catalogue.manifest(backup)["lineage"], backup
        present = lineage or self._members.present(source)
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

    def _primary(self, deployment: str) -> tuple[ServerRow, Row]:
        """Conflict when there is none that can be told now."""
        for server, row, role in self._members.connected(deployment):
            if role == "primary":
                return server, row
        raise Conflict(f"{deployment} has no primary now: launch it first")

    def _primary_at_rest(self, deployment: str) -> tuple[ServerRow, Row]:
        """Conflict also when something else is under way."""
        primary = self._primary(deployment)
        self._refuse_beside("restore", deployment)
        return primary

    def _new_lineage(self) -> str:
        return f"{self._ports.clock.now().astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"

    async def _start(self, kind: str, title: str, about: str, who: str, args: dict[str, Any]) -> str:
        """`about`: a deployment, or DEPLOYMENT/HISTORY."""
        self._refuse_beside(kind, args["deployment"])
        task, asked = f"{kind}-{new_id()}", Asked(kind=kind, title=title, subject=subject(about), who=who)
        await self._workflows.start_workflow(asked, task, args)
        return task

    def _refuse_beside(self, kind: str, deployment: str) -> None:
        refuse_beside(self._store, self._workflows.tasks, deployment, kind)
