"""What is known of a deployment's backups: read from the object store, kept in our tables."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Engine

from relaunch.databases.backups import (
    ABANDONED,
    LONG_AGO,
    SKEW,
    Backup,
    Kind,
    Known,
    Proof,
    Retention,
    Schedule,
    Shipping,
    begun,
    begun_at_the_latest,
    moment,
    of_lineage,
    of_the_future,
    read_manifest,
)
from relaunch.durations import parse_duration
from relaunch.errors import BadInput, Failed, NotFound
from relaunch.records.schema import backup_proofs, backups, tasks
from relaunch.storage.objects import ObjectStore, StoredObject

MANIFEST = "manifest.json"
KINDS = ("back-up", "prove", "prove-schemas")
LINEAGE = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}")
LOGS_BEFORE = timedelta(hours=1)  # before a backup began: what a replica lags behind, and clocks differ by
LOGS_SECONDS = 300.0  # old binary logs of a history are removed for so long at a time; the rest goes the next time


def subject(about: str) -> str:
    """Of tasks about a deployment's backups, or those of DEPLOYMENT/HISTORY."""
    return f"backups:{about}"


def schedule_of(written: Mapping[str, str]) -> Schedule:
    """From the deployment file's `database: backups:`."""
    names = ("incremental", "full", "primary", "prove", "schemas")
    told = {n: None if written[n] == "never" else parse_duration(written[n]) for n in names if n in written}
    return Schedule(**told)


def retention_of(written: Mapping[str, str]) -> Retention:
    names = ("last", "daily", "weekly", "monthly", "yearly")
    return Retention(**{name: int(written[name]) for name in names if name in written})


def _row_of(backup: Backup) -> str:
    return f"{backup.schema}/{backup.id}" if backup.kind is Kind.SCHEMA else backup.id


def _folder_of(key: str) -> str:
    return key.rpartition("/")[0]


def _without_sums(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Who restores reads those of its tables from the store: of thousands of backups they are most of what there is."""
    return {name: each for name, each in manifest.items() if name != "check"}


def _read(rows: Iterable[Any]) -> tuple[Backup, ...]:
    """Those that can be, oldest first."""
    found = [read_manifest(row.manifest, fault=row.fault) for row in rows if "unreadable" not in row.manifest]
    return tuple(sorted(found, key=lambda each: (each.ended, each.id)))


class Catalogue:
    """Of one deployment's name: a folder in the bucket, in it one for each history of data that had this name.

    An empty lineage is the folder itself, where backups lay before histories had ids.
    """

    def __init__(self, database: Engine, objects: ObjectStore, deployment: str) -> None:
        self._database = database
        self._objects = objects
        self._deployment = deployment

    def _base(self, lineage: str) -> str:
        return f"{self._deployment}/{lineage}" if lineage else self._deployment

    async def lineages(self) -> tuple[str, ...]:
        """All that have anything in the store, the one that began first at the front."""
        found = await self._objects.folders(self._deployment)
        return (*([""] if "backups" in found else ()), *(name for name in found if LINEAGE.fullmatch(name)))

    async def refresh(self, lineages: Sequence[str]) -> list[StoredObject]:
        """Our tables as the store is now for these: manifests read, gone ones forgotten, each one's objects counted.

        Some stores' lists lack for a while what is there. What is gone by them is asked for by its name, too: Failed
        when it is there, as such a list would have retention remove what it must not."""
        every: list[StoredObject] = []
        for lineage in lineages:
            before = self._of(lineage)  # first: what another look finds meanwhile need not be in our list
            stored = await self._objects.list(f"{self._base(lineage)}/backups")
            stored += await self._objects.list(f"{self._base(lineage)}/schemas")
            sizes = {each.key: each.size_bytes for each in stored}
            changed = {each.key: each.changed.isoformat() for each in stored}
            present = {self._row_id(lineage, each.key) for each in stored if each.key.endswith(f"/{MANIFEST}")}
            known = {id: _without_sums(each) for id, (each, _) in before.items()}
            await self._must_be_gone(self._folder(lineage, id) for id in before.keys() - present)
            unread = present - known.keys()
            if unreadable := [id for id in sorted(present & known.keys()) if "unreadable" in known[id]]:
                unread.add(random.choice(unreadable))  # one at each look
            told = await self._objects.texts(sorted(f"{self._folder(lineage, id)}/{MANIFEST}" for id in unread))
            for id in unread:
                key = f"{self._folder(lineage, id)}/{MANIFEST}"
                if key in told:
                    known[id] = {**self._read(key, told[key]), "lineage": lineage, "stored": changed[key]}
                else:  # gone since it was listed; if it is not, the next look finds it
                    present.remove(id)
            faults = {id: self._fault(known[id], self._folder(lineage, id), sizes) for id in present}
            for id in sorted(id for id in present if faults[id] and not before.get(id, ({}, ""))[1]):
                again = {each.key: each.size_bytes for each in await self._objects.list(self._folder(lineage, id))}
                faults[id] = self._fault(known[id], self._folder(lineage, id), again)
            self._keep(lineage, {id: (known[id], faults[id]) for id in sorted(present)})
            every += stored
        return every

    async def _must_be_gone(self, folders: Iterable[str]) -> None:
        """Those the store lists no manifest of."""
        for key in await self._objects.texts(sorted(f"{folder}/{MANIFEST}" for folder in folders)):
            raise Failed(f"the object store lists no {key}, which is there")

    def _row_id(self, lineage: str, key: str) -> str:
        """Of a backup with this object: its id; of one of a single schema SCHEMA/ID, as two may have the same id."""
        return _folder_of(key.removeprefix(f"{self._base(lineage)}/").partition("/")[2])

    def _folder(self, lineage: str, row_id: str) -> str:
        return f"{self._base(lineage)}/{'schemas' if '/' in row_id else 'backups'}/{row_id}"

    def _read(self, key: str, text: str) -> dict[str, Any]:
        folder = _folder_of(key)
        try:
            manifest = json.loads(text)
            read_manifest(manifest)
            self._fault(manifest, folder, {})
        except (ValueError, KeyError, TypeError, BadInput) as error:
            return {"id": folder.rpartition("/")[2], "unreadable": str(error)}
        return _without_sums(manifest)

    @staticmethod
    def _fault(manifest: Mapping[str, Any], folder: str, sizes: Mapping[str, int]) -> str:
        for each in manifest.get("objects", ()):
            size = sizes.get(f"{folder}/{each['name']}")
            if size != each["size_bytes"]:
                return f"object {each['name']} " + ("is missing" if size is None else f"has {size} bytes")
        return ""

    def _manifests(self) -> dict[str, dict[str, Any]]:
        with self._database.connect() as connection:
            rows = connection.execute(
                select(backups.c.id, backups.c.manifest).where(backups.c.deployment == self._deployment)
            )
            return {row.id: dict(row.manifest) for row in rows}

    def _rows(self) -> list[Any]:
        """Of every history, as they were seen last."""
        with self._database.connect() as connection:
            return list(connection.execute(select(backups).where(backups.c.deployment == self._deployment)))

    def _of(self, lineage: str) -> dict[str, tuple[dict[str, Any], str]]:
        """As they were seen last: manifest and fault."""
        rows = self._rows()
        return {row.id: (dict(row.manifest), row.fault) for row in rows if row.manifest.get("lineage", "") == lineage}

    def _keep(self, lineage: str, wanted: Mapping[str, tuple[dict[str, Any], str]]) -> None:
        mine, before = backups.c.deployment == self._deployment, self._of(lineage)
        changed = {id: each for id, each in wanted.items() if each != before.get(id)}
        gone = before.keys() - wanted.keys()
        if not changed and not gone:
            return
        with self._database.begin() as connection:
            for id in gone:
                connection.execute(delete(backups).where(mine, backups.c.id == id))
            for id, (manifest, fault) in changed.items():
                values = {"manifest": manifest, "fault": fault}
                if id in before:
                    connection.execute(update(backups).where(mine, backups.c.id == id).values(values))
                else:
                    connection.execute(insert(backups).values(deployment=self._deployment, id=id, **values))

    async def shipping(self, lineage: str) -> Shipping | None:
        """What the newest stream of binary logs says."""
        above = f"{self._base(lineage)}/binlogs"
        for stream in reversed(await self._objects.folders(above)):
            try:
                told = json.loads(await self._objects.get(f"{above}/{stream}/state.json"))
                return Shipping(at=moment(told["at"]), gtid=told["gtid"], server=told["server"], stream=told["stream"])
            except (NotFound, ValueError, KeyError, TypeError, AttributeError):
                continue  # it has only begun, or its state is damaged
        return None

    def backups(self) -> tuple[Backup, ...]:
        """All complete ones of everything, oldest first, as the last `refresh` saw them."""
        return tuple(each for each in _read(self._rows()) if each.kind is not Kind.SCHEMA)

    def schemas(self) -> tuple[Backup, ...]:
        """Those of one schema each."""
        return tuple(each for each in _read(self._rows()) if each.kind is Kind.SCHEMA)

    def manifest(self, id: str) -> dict[str, Any]:
        found = self._manifests().get(id)
        if found is None:
            raise NotFound(f"no backup {id} of {self._deployment}", hint=f"relaunch db backups {self._deployment}")
        return found

    def proofs(self) -> tuple[Proof, ...]:
        """The oldest first; of backups of everything."""
        return tuple(each for each in self._all_proofs() if not each.schema)

    def schema_proofs(self) -> tuple[Proof, ...]:
        return tuple(each for each in self._all_proofs() if each.schema)

    def _all_proofs(self) -> tuple[Proof, ...]:
        with self._database.connect() as connection:
            query = select(backup_proofs).where(backup_proofs.c.deployment == self._deployment)
            rows = list(connection.execute(query.order_by(backup_proofs.c.at)).mappings())
        return tuple(
            Proof(
                backup=row["backup"],
                schema=row["detail"].get("schema", ""),
                at=datetime.fromisoformat(row["at"]),
                proven=row["proven"],
                why=row["why"],
                gtid=row["detail"].get("gtid", ""),
                seconds=row["detail"].get("seconds", 0.0),
                tables_compared=row["detail"].get("tables_compared", 0),
                lineage=row["detail"].get("lineage"),
                chosen=row["detail"].get("chosen", False),
            )
            for row in rows
        )

    def record_proof(self, id: str, proof: Proof) -> None:
        """Once for each id."""
        detail: dict[str, Any] = {"schema": proof.schema} if proof.schema else {}
        detail |= {"gtid": proof.gtid, "seconds": proof.seconds, "tables_compared": proof.tables_compared}
        detail |= {"chosen": proof.chosen} | ({} if proof.lineage is None else {"lineage": proof.lineage})
        with self._database.begin() as connection:
            if connection.scalar(select(backup_proofs.c.id).where(backup_proofs.c.id == id)) is None:
                connection.execute(
                    insert(backup_proofs).values(
                        id=id, deployment=self._deployment, backup=proof.backup, at=proof.at.isoformat(),
                        proven=proof.proven, why=proof.why, detail=detail,
                    )
                )  # fmt: skip

    def failed(self, since: datetime, now: datetime) -> tuple[tuple[str, str], ...]:
        """Of each kind of task, when its newest has failed: its title and the first line of why. One that a wrong clock
        puts after now is none."""
        found = []
        with self._database.connect() as connection:
            for kind in KINDS:
                query = select(tasks).where(
                    tasks.c.kind == kind,
                    tasks.c.subject == subject(self._deployment),
                    tasks.c.created <= (now + SKEW).isoformat(timespec="microseconds"),
                )
                row = connection.execute(query.order_by(tasks.c.created.desc())).mappings().first()
                if row is not None and row["state"] == "failed" and moment(row["created"]) >= since:
                    found.append((str(row["title"]), str(row["error"]).splitlines()[0] if row["error"] else ""))
        return tuple(found)

    def failed_lately(self, lineage: str, now: datetime) -> tuple[tuple[str, str], ...]:
        """Since this history began."""
        since = begun(lineage)
        return self.failed(LONG_AGO if of_the_future(since, now) else since, now)

    async def known(self, lineage: str, now: datetime) -> Known:
        """Of one history, as of now; asks the store for the binary logs only."""
        return replace(self.remembered(lineage, now), shipping=await self.shipping(lineage))

    def remembered(self, lineage: str, now: datetime) -> Known:
        """The same without asking the store, so without the binary logs."""
        rows = self._rows()  # once: there may be ten thousand
        mine = [row for row in rows if row.manifest.get("lineage", "") == lineage]
        every, proofs = _read(rows), self._all_proofs()
        known = Known(
            backups=tuple(each for each in every if each.kind is not Kind.SCHEMA),
            proofs=tuple(each for each in proofs if not each.schema),
            schemas=tuple(each for each in every if each.kind is Kind.SCHEMA),
            schema_proofs=tuple(each for each in proofs if each.schema),
            failed=self.failed_lately(lineage, now),
            unreadable=tuple(sorted(row.id for row in mine if "unreadable" in row.manifest)),
        )
        return of_lineage(known, lineage)

    async def remove(
        self, lineage: str, gone: Sequence[Backup], stored: Sequence[StoredObject], now: datetime
    ) -> list[str]:
        """Delete these backups of one history (manifest first: from then on they do not count), what never ended, and
        binary logs from before the oldest kept one; the keys that went."""
        going = {self._folder(lineage, _row_of(each)) for each in gone}
        kept = [each for each in self.backups() if each.lineage == lineage and each not in gone]
        base = self._base(lineage)
        mine = [each for each in stored if each.key.startswith((f"{base}/backups/", f"{base}/schemas/"))]
        complete = {_folder_of(each.key) for each in mine if each.key.endswith(f"/{MANIFEST}")}
        await self._must_be_gone({_folder_of(each.key) for each in mine if now - each.changed > ABANDONED} - complete)
        keys = [
            each.key
            for each in mine
            if (folder := _folder_of(each.key)) in going or (folder not in complete and now - each.changed > ABANDONED)
        ]
        await self._objects.delete([key for key in keys if key.endswith(f"/{MANIFEST}")])
        self._keep(
            lineage, {id: row for id, row in self._of(lineage).items() if self._folder(lineage, id) not in going}
        )
        await self._objects.delete([key for key in keys if not key.endswith(f"/{MANIFEST}")])
        if kept:
            keys += await self._remove_logs(lineage, min(map(begun_at_the_latest, kept)) - LOGS_BEFORE)
        return keys

    async def _remove_logs(self, lineage: str, needed_from: datetime) -> list[str]:
        """Whole log files whose last piece is from before what the oldest backup that is kept needs. The newest file
        of the newest stream stays, however long nothing was written: the shipper goes on in it.

        There may be millions of pieces. The files of a stream follow each other, so none is looked into behind the
        first that stays."""
        removed: list[str] = []
        end = time.monotonic() + LOGS_SECONDS
        streams = await self._streams(lineage)
        for stream in streams:
            names = await self._objects.folders(stream)
            for name in names[:-1] if stream == streams[-1] else names:
                objects = await self._objects.list(f"{stream}/{name}")
                if any(each.changed >= needed_from for each in objects):
                    break
                keys = [each.key for each in objects]
                await self._objects.delete(keys)
                removed += keys
                if time.monotonic() >= end:
                    return removed
        return removed

    async def _streams(self, lineage: str) -> list[str]:
        """The folders of a history's streams of binary logs, oldest first."""
        above = f"{self._base(lineage)}/binlogs"
        return [f"{above}/{name}" for name in await self._objects.folders(above)]

    async def _log_files(self, stream: str) -> AsyncIterator[list[StoredObject]]:
        """Of each log file of it, in their order, what is stored of it: a few hundred pieces."""
        for name in await self._objects.folders(stream):
            yield await self._objects.list(f"{stream}/{name}")

    async def forget(self, lineage: str, told: Callable[[str], None] = lambda _: None) -> list[str]:
        """Delete everything of one history; the keys that went. `told` hears how far it is."""
        if not lineage:
            raise BadInput("a history without an id lies beside the others and cannot be told from them")
        base = self._base(lineage)
        keys = [each.key for name in ("backups", "schemas") for each in await self._objects.list(f"{base}/{name}")]
        await self._objects.delete([key for key in keys if key.endswith(f"/{MANIFEST}")])
        await self._objects.delete([key for key in keys if not key.endswith(f"/{MANIFEST}")])
        for stream in await self._streams(lineage):
            async for objects in self._log_files(stream):
                keys += (pieces := [each.key for each in objects])
                await self._objects.delete(pieces)
                told(f"{len(keys)} objects are removed")
        rest = [each.key for each in await self._objects.list(base)]
        await self._objects.delete(rest)
        self._keep(lineage, {})
        return keys + rest
