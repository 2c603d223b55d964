"""What retention no longer keeps is removed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import datetime, timedelta

from relaunch.databases.backup_catalogue import Catalogue, retention_of, subject
from relaunch.databases.backup_members import Members
from relaunch.databases.backup_schemas import schemas_to_go
from relaunch.databases.backups import Retention, moment, to_go
from relaunch.errors import RelaunchError
from relaunch.servers.ports import Ports
from relaunch.workflows.durable import Workflows

log = logging.getLogger("relaunch.backups")

PRUNE_AFTER = timedelta(hours=1)  # old backups are removed at most so often, whether that fails or not


class Pruning:
    """Of every deployment with a database."""

    def __init__(self, ports: Ports, workflows: Workflows, members: Members) -> None:
        self._ports = ports
        self._workflows = workflows
        self._members = members
        self._begun: dict[str, datetime] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, str] = {}  # why, the last time

    async def stop(self) -> None:
        for task in self._running.values():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def prune(self, deployment: str) -> list[str]:
        """Remove what retention no longer keeps, of each history by itself; the keys that went.

        Once it has failed, that is a reason to be red until it succeeds."""
        catalogue, retention = self._members.catalogue(deployment), retention_of(self._members.spec(deployment).backups)
        try:
            removed = await self._prune(deployment, catalogue, retention)
        except RelaunchError as error:
            self._failed[deployment] = f"old backups could not be removed: {error.message}"
            raise
        self._failed.pop(deployment, None)
        if removed:
            log.info("%s: %d objects of old backups are removed", deployment, len(removed))
        return removed

    def begin(self, deployment: str, now: datetime) -> bool:
        """Unless it was begun lately. No other deployment waits for it; what is due here does, as a proof might read
        what is just being removed."""
        if abs(now - self._begun.get(deployment, now - PRUNE_AFTER)) < PRUNE_AFTER:
            return False
        self._begun[deployment] = now
        self._running[deployment] = asyncio.create_task(self._prune_beside(deployment), name=f"prune {deployment}")
        return True

    def is_running(self, deployment: str) -> bool:
        return deployment in self._running and not self._running[deployment].done()

    def left_over(self, deployment: str) -> tuple[str, ...]:
        """Why old backups are still there."""
        return (self._failed[deployment],) if deployment in self._failed else ()

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

    async def _prune_beside(self, deployment: str) -> None:
        try:
            await self.prune(deployment)
        except RelaunchError as error:
            log.info("backups of %s: %s", deployment, error)
        except Exception:  # outermost frame of this task: the next one may go well
            log.exception("removing old backups of %s", deployment)
