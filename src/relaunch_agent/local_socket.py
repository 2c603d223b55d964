"""The agent's side of `relaunch-local`: a socket only root may open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Any, Mapping, Tuple

from relaunch.errors import BadInput, RelaunchError
from relaunch_agent import queries
from relaunch_agent.databases import Databases
from relaunch_agent.disk import remove, write_whole
from relaunch_agent.places import Places
from relaunch_agent.publishing import Publisher
from relaunch_agent.views import Views

QUESTION_BYTES = 1024 * 1024
ROLE_LOOK_SECONDS = 0.1
STORED_SECONDS = 5.0
APPLY_SECONDS = 30.0
Reply = Tuple[int, str, str]  # exit status, what to print, what to complain


class LocalSocket:
    def __init__(self, places: Places, views: Views, publisher: Publisher, databases: Databases) -> None:
        self._places = places
        self._views = views
        self._publisher = publisher
        self._databases = databases

    async def open(self) -> asyncio.AbstractServer:
        file = self._places.socket
        file.parent.mkdir(parents=True, exist_ok=True)
        remove(file)
        before = os.umask(0o177)
        try:
            return await asyncio.start_unix_server(self._serve, str(file))
        finally:
            os.umask(before)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            words = (await reader.read(QUESTION_BYTES)).decode("utf-8", "replace").split("\0")
            status, out, complaint = await self._reply([] if words == [""] else words)
            writer.write(f"{status}\n{out}\0{complaint}".encode("utf-8", "replace"))
            await writer.drain()
        writer.close()

    async def _reply(self, words: list[str]) -> Reply:
        if not words or words[0] in ("help", "--help", "-h"):
            return (0 if words else 2), queries.USAGE, ""
        try:
            question = queries.parse(words)
            if question.verb in queries.FROM_VIEW:
                return await self._from_view(question)
            if question.verb == "role":
                return await self._role(question.wait_seconds)
            if question.verb == "apply":
                return await self._apply(question.wait_seconds or APPLY_SECONDS)
            return await self._publish(question)
        except BadInput as error:
            return error.exit_status, "", f"{error}\n{queries.USAGE}"
        except RelaunchError as error:
            return error.exit_status, "", f"relaunch-local: {error}\n"

    async def _from_view(self, question: queries.Question) -> Reply:
        end = time.monotonic() + question.wait_seconds
        while True:
            changed = self._views.changed
            view: Mapping[str, Any] = self._views.view
            text = queries.answer(question, view)
            if text is not None:
                return 0, f"{text}\n", ""
            left = end - time.monotonic()
            if left <= 0:
                waited = f" within {question.wait_seconds:g} s" if question.wait_seconds else ""
                return 1, "", f"relaunch-local: no {' '.join([question.verb, *question.words])}{waited}\n"
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(changed.wait(), left)

    async def _role(self, seconds: float) -> Reply:
        """What the server is now, not what it should be."""
        end = time.monotonic() + seconds
        while not (role := self._databases.role_reached()):
            if time.monotonic() >= end:
                waited = f" within {seconds:g} s" if seconds else ""
                return 1, "", f"relaunch-local: it is neither primary nor replica{waited}\n"
            await asyncio.sleep(ROLE_LOOK_SECONDS)
        return 0, f"{role}\n", ""

    async def _publish(self, question: queries.Question) -> Reply:
        if question.verb == "output":
            stored = self._publisher.output(question.words[0], question.words[1])
        else:
            stored = self._publisher.tag(question.words, question.removed)
        try:
            await asyncio.wait_for(asyncio.shield(stored), question.wait_seconds or STORED_SECONDS)
        except asyncio.TimeoutError:
            return 0, "", "relaunch-local: kept; it is sent as soon as the controller answers\n"
        return 0, "", ""

    async def _apply(self, seconds: float) -> Reply:
        try:
            await asyncio.wait_for(self._views.apply_now(), seconds)
        except asyncio.TimeoutError:
            return 1, "", f"relaunch-local: not everything is applied yet. {self._views.trouble}\n"
        return 0, "", ""


def install_launcher(places: Places) -> None:
    source = Path(__file__).with_name("local_command.py").read_text()
    if not places.launcher.exists() or places.launcher.read_text() != source:
        write_whole(places.launcher, source, mode=0o755)
