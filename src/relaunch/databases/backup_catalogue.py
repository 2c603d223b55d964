"""What is known of a deployment's backups: read from the object store, kept in our tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Engine

from relaunch.databases.backups import (
    ABANDONED,
    Backup,
    Known,
    Proof,
    Retention,
    Schedule,
    Shipping,
    moment,
    read_manifest,
)
from relaunch.durations import parse_duration
from relaunch.errors import BadInput, NotFound
from relaunch.records.schema import backup_proofs, backups, tasks
from relaunch.storage.objects import ObjectStore, StoredObject

MANIFEST = "manifest.json"
KINDS = ("back-up", "prove")


def subject(deployment: str) -> str:
    return f"backups:{deployment}"


def schedule_of(written: Mapping[str, str]) -> Schedule:
    """From the deployment file's `database: backups:`."""
    names = ("incremental", "full", "primary", "prove")
    told = {n: None if written[n] == "never" else parse_duration(written[n]) for n in names if n in written}
    return Schedule(**told)


def retention_of(written: Mapping[str, str]) -> Retention:
    names = ("last", "daily", "weekly", "monthly", "yearly")
    return Retention(**{name: int(written[name]) for name in names if name in written})


class Catalogue:
    """Of one deployment; its folder in the bucket is the database group's name, which is the deployment's."""

    def __init__(self, database: Engine, objects: ObjectStore, deployment: str) -> None:
        self._database = database
        self._objects = objects
        self._deployment = deployment

    async def refresh(self) -> list[StoredObject]:
        """Our tables as the store is now: new manifests read, gone ones forgotten, each one's objects counted."""
        stored = await self._objects.list(f"{self._deployment}/backups")
        sizes = {each.key: each.size_bytes for each in stored}
        present = {each.key.split("/")[-2] for each in stored if each.key.endswith(f"/{MANIFEST}")}
        known = self._manifests()
        for id in present - known.keys():
            known[id] = await self._read(id)
        self._keep({id: (known[id], self._fault(known[id], sizes)) for id in sorted(present)})
        return stored

    async def _read(self, id: str) -> dict[str, Any]:
        try:
            manifest = json.loads(await self._objects.get(f"{self._deployment}/backups/{id}/{MANIFEST}"))
            read_manifest(manifest)
        except (ValueError, BadInput, NotFound) as error:
            return {"id": id, "unreadable": str(error)}
        return dict(manifest)

    def _fault(self, manifest: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
        for each in manifest.get("objects", ()):
            size = sizes.get(f"{self._deployment}/backups/{manifest['id']}/{each['name']}")
            if size != each["size_bytes"]:
                return f"object {each['name']} " + ("is missing" if size is None else f"has {size} bytes")
        return ""

    def _manifests(self) -> dict[str, dict[str, Any]]:
        with self._database.connect() as connection:
            rows = connection.execute(
                select(backups.c.id, backups.c.manifest).where(backups.c.deployment == self._deployment)
            )
            return {row.id: dict(row.manifest) for row in rows}

    def _keep(self, wanted: Mapping[str, tuple[dict[str, Any], str]]) -> None:
        mine = backups.c.deployment == self._deployment
        with self._database.begin() as connection:
            connection.execute(delete(backups).where(mine, backups.c.id.not_in(list(wanted))))
            present = set(connection.scalars(select(backups.c.id).where(mine)))
            for id, (manifest, fault) in wanted.items():
                if id in present:
                    connection.execute(update(backups).where(mine, backups.c.id == id).values(fault=fault))
                else:
                    connection.execute(
                        insert(backups).values(deployment=self._deployment, id=id, manifest=manifest, fault=fault)
                    )

    async def shipping(self) -> Shipping | None:
        """What the newest stream of binary logs says."""
        states = [
            each.key
            for each in await self._objects.list(f"{self._deployment}/binlogs")
            if each.key.endswith("/state.json")
        ]
        if not states:
            return None
        told = json.loads(await self._objects.get(states[-1]))
        return Shipping(at=moment(told["at"]), gtid=told["gtid"], server=told["server"], stream=told["stream"])

    def backups(self) -> tuple[Backup, ...]:
        """All complete ones, oldest first, as the last `refresh` saw them."""
        with self._database.connect() as connection:
            rows = list(connection.execute(select(backups).where(backups.c.deployment == self._deployment)).mappings())
        found = [
            read_manifest(row["manifest"], fault=row["fault"]) for row in rows if "unreadable" not in row["manifest"]
        ]
        return tuple(sorted(found, key=lambda each: (each.ended, each.id)))

    def manifest(self, id: str) -> dict[str, Any]:
        found = self._manifests().get(id)
        if found is None:
            raise NotFound(f"no backup {id} of {self._deployment}", hint=f"relaunch db backups {self._deployment}")
        return found

    def proofs(self) -> tuple[Proof, ...]:
        """The oldest first."""
        with self._database.connect() as connection:
            query = select(backup_proofs).where(backup_proofs.c.deployment == self._deployment)
            rows = list(connection.execute(query.order_by(backup_proofs.c.at)).mappings())
        return tuple(
            Proof(
                backup=row["backup"],
                at=datetime.fromisoformat(row["at"]),
                proven=row["proven"],
                why=row["why"],
                gtid=row["detail"].get("gtid", ""),
                seconds=row["detail"].get("seconds", 0.0),
                tables_compared=row["detail"].get("tables_compared", 0),
            )
            for row in rows
        )

    def record_proof(self, task: str, proof: Proof) -> None:
        """Once for each task."""
        detail = {"gtid": proof.gtid, "seconds": proof.seconds, "tables_compared": proof.tables_compared}
        with self._database.begin() as connection:
            if connection.scalar(select(backup_proofs.c.id).where(backup_proofs.c.id == task)) is None:
                connection.execute(
                    insert(backup_proofs).values(
                        id=task, deployment=self._deployment, backup=proof.backup, at=proof.at.isoformat(),
                        proven=proof.proven, why=proof.why, detail=detail,
                    )
                )  # fmt: skip

    def failed(self) -> tuple[tuple[str, str], ...]:
        """Of each kind of task, when its newest has failed: its title and the first line of why."""
        found = []
        with self._database.connect() as connection:
            for kind in KINDS:
                query = select(tasks).where(tasks.c.kind == kind, tasks.c.subject == subject(self._deployment))
                row = connection.execute(query.order_by(tasks.c.created.desc())).mappings().first()
                if row is not None and row["state"] == "failed":
                    found.append((str(row["title"]), str(row["error"]).splitlines()[0] if row["error"] else ""))
        return tuple(found)

    async def known(self) -> Known:
        """As of now; asks the store for the binary logs only."""
        return Known(backups=self.backups(), proofs=self.proofs(), shipping=await self.shipping(), failed=self.failed())

    async def remove(self, gone: Sequence[Backup], stored: Sequence[StoredObject], now: datetime) -> list[str]:
        """Delete these backups (manifest first: from then on they do not count), what never ended, and binary logs
        from before the oldest kept one; the keys that went."""
        going = {each.id for each in gone}
        kept = [each for each in self.backups() if each.id not in going]
        complete = {each.key.split("/")[-2] for each in stored if each.key.endswith(f"/{MANIFEST}")}
        keys = [
            each.key
            for each in stored
            if (id := each.key.split("/")[-2]) in going or (id not in complete and now - each.changed > ABANDONED)
        ]
        await self._objects.delete([key for key in keys if key.endswith(f"/{MANIFEST}")])
        await self._objects.delete([key for key in keys if not key.endswith(f"/{MANIFEST}")])
        if kept:
            keys += await self._remove_logs(min(each.begun for each in kept))
        return keys

    async def _remove_logs(self, needed_from: datetime) -> list[str]:
        """Whole log files whose last piece is older than the oldest backup that is kept."""
        folders: dict[str, list[StoredObject]] = {}
        for each in await self._objects.list(f"{self._deployment}/binlogs"):
            if each.key.count("/") == 4:
                folders.setdefault(each.key.rpartition("/")[0], []).append(each)
        old = [
            each.key
            for objects in folders.values()
            if max(each.changed for each in objects) < needed_from
            for each in objects
        ]
        await self._objects.delete(old)
        return old
