"""The database part, loaded only on servers whose deployment has a database: its library costs memory."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from relaunch.bus.messages import DatabaseReport, TakeRole
from relaunch.errors import Conflict
from relaunch_agent.link import Link
from relaunch_agent.places import Places
from relaunch_agent.views import Views

if TYPE_CHECKING:
    from relaunch_agent.database.work import DatabaseWork


class Databases:
    def __init__(self, places: Places, views: Views, link: Link) -> None:
        self._places = places
        self._views = views
        self._link = link
        self._work: Optional[DatabaseWork] = None
        self._loaded = asyncio.Event()

    async def take(self, order: TakeRole) -> DatabaseReport:
        if self._work is None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._loaded.wait(), order.seconds)
        if self._work is None:
            raise Conflict("this server's deployment has no database, or its part of the agent is not loaded yet")
        self._work.take_view(self._views.view)
        return await self._work.take(order)

    def role_reached(self) -> str:
        """primary or replica once it is that; "" before."""
        report = self._work.report if self._work else None
        if report is None or not report.answers:
            return ""
        if report.role == "primary" and not report.read_only:
            return "primary"
        if report.role == "replica" and report.read_only and report.receiving and report.applying:
            return "replica"
        return ""

    async def keep(self) -> None:
        """Follow the view for ever; ends only with the error of a part that must not end."""
        while True:
            changed = self._views.changed
            if self._work is None and self._views.view.get("database") is not None:
                await _compile()
            self._take_view()
            failed = self._work.failed() if self._work else None
            if failed is not None:
                raise failed
            try:
                await asyncio.wait_for(changed.wait(), 1.0)
            except asyncio.TimeoutError:
                continue

    def _take_view(self) -> None:
        if self._views.view.get("database") is None:
            if self._work is not None:
                self._work.take_view(self._views.view)
            return
        if self._work is None:
            from relaunch_agent.database.work import DatabaseWork

            self._work = DatabaseWork(self._places, self._link, self._views.keep_reads_from)
            self._loaded.set()
        self._work.take_view(self._views.view)


async def _compile() -> None:
    """By a process of its own, once: compiling them here would leave this one larger by a third for ever."""
    ours = Path(__file__).parent
    folders = [ours / "database", ours.parent / "pymysql", ours.parent / "relaunch/databases"]
    if not all(folder.is_dir() for folder in folders) or (folders[0] / "__pycache__").is_dir():
        return
    words = (sys.executable, "-IS", "-m", "compileall", "-q", *map(str, folders))
    process = await asyncio.create_subprocess_exec(*words, stdin=asyncio.subprocess.DEVNULL)
    await process.wait()
